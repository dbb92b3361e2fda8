"""Examples per second of `semid train` beside a bare TorchRec loop, and where the time of a step goes.

Both train the same ranker, by the same plan and optimizer, in the same processes and in turns: `semid train` on the simulated world's
enriched Parquet, with metrics, log lines, scores and checkpoints as the recipe has them; the bare loop on random tensors of the same
shapes that are in memory already. Bar: at least 0.95 of the bare loop on two ranks. Then the phases of a step, the embedding beside its
memory-traffic floor, TorchRec's own DLRM at equal shapes, and the growth with batch, T, depth, rows and ranks. On a machine with GPUs the
ranks take one each; the floor is then the HBM's. Times of phases are processor time on a CPU. On cores that others use too, the ratio by
the clock says little: there, look at that of processor time.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _figures import Row, arguments, row, show
from _train_step_data import write_random_log, write_world

from launch.components import PROCESS_ENV

BAR = 0.95
PASSES = 2  # over the log in each turn: the histories grow along it, so that only whole passes have the average number of keys
RANKS = max(1, min(2, torch.cuda.device_count())) if torch.cuda.is_available() else 2
Figures = dict[str, Any]


def main() -> None:
    """Make the data, run the ranks, print the table."""
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        job = _job(Path(folder), small=options.small)
        several = _run(job, RANKS)
        one = _run({**job, "parts": ["growth"], "growth": {"base": job["growth"]["base"]}}, 1)
    load = row("load average of the machine, the ranks included", os.getloadavg()[1], "processes")
    rows = [*_race(several["race"]), load, *_phases(several), *_dlrm(several["dlrm"]), *_growth(several["growth"], one["growth"])]
    show(f"training step, {RANKS} ranks", rows, options.json)


def _job(folder: Path, *, small: bool) -> Figures:
    """What the workers do: rounds, steps per turn (two passes over the world's log), and the points of the growth."""
    rounds = 3 if small else 13
    world: dict[str, object] = {"simulate__impressions": 50_000, "simulate__items": 2_000, "model__rows": 660} if small else {}
    write_world(folder / "world", PASSES * (rounds + 1), **world)
    rows = 16_384 if small else 32_768
    for history, levels in ((20, 3), (80, 3)) if small else ((5, 3), (20, 3), (20, 6), (80, 3)):
        write_random_log(folder / f"random-{history}-{levels}", rows, history, levels)

    def point(history: int = 20, levels: int = 3, depth: int = 3, **changes: object) -> Figures:
        sid = f"{{semantic_id: {{kind: semantic_id, depth: {depth}}}}}"
        shape = {"ingest__history_length": history, "model__representations": sid}
        return {"workdir": str(folder / f"random-{history}-{levels}"), "changes": {**shape, **changes}}

    points = {
        "base": point(),
        "batch 4096": point(train__global_batch=4096),
        "T 5": point(history=5),
        "T 80": point(history=80),
        "depth 1": point(depth=1),
        "depth 6": point(levels=6, depth=6),
        "rows 1M": point(model__rows=1_000_000),
    }
    if small:
        points = {name: points[name] for name in ("base", "T 80")}
    return {
        "parts": ["race", "phases", "dlrm", "growth"],
        "workdir": str(folder / "world"),
        "runs": str(folder / "runs"),
        "changes": world,
        "rounds": rounds,
        "steps": PASSES * int(str(world.get("simulate__impressions", 200_000))) // 1024,
        "few_steps": 4 if small else 24,
        "growth": points,
    }


def _run(job: Figures, ranks: int) -> Figures:
    """Start the worker on so many ranks as the launcher does; its figures."""
    path = Path(job["runs"]).parent / f"job-{ranks}.json"
    path.write_text(json.dumps(job))
    worker = Path(__file__).with_name("_train_step_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(worker), str(path)]
    subprocess.run(command, env={**os.environ, **PROCESS_ENV, "OMP_NUM_THREADS": "1"}, check=True)
    figures: Figures = json.loads(path.with_suffix(".figures").read_text())
    return figures


def _race(race: Figures) -> list[Row]:
    """Ratios are medians over the rounds, each of two turns beside each other."""
    ours, bare = race["rates"]["train"], race["rates"]["bare"]
    held = race["by_clock"] >= BAR if RANKS == 2 else None
    micro = {name: value * 1e6 for name, value in race["processor"].items()}
    return [
        Row("semid train (of the bare TorchRec loop)", ours, "examples/s", bare, race["by_clock"], f">= {BAR} of it on two ranks", held),
        Row("semid train, processor time (of the bare loop's)", micro["train"], "us/example", micro["bare"], 1 / race["by_processor"]),
    ]


def _phases(figures: Figures) -> list[Row]:
    """Each phase per step of one rank, and its share of their sum; what only some runs do is no part of the sum."""
    phases, embedding = figures["phases"], figures["embedding"]
    extra = {name for name in phases if name.startswith("look-up")}
    whole = sum(value for name, value in phases.items() if name not in extra) * 1e3
    rows = [row(f"phase: {name} (of all)", value * 1e3, "ms/step", baseline=whole) for name, value in phases.items()]
    floor = embedding["floor"] * 1e3
    return [
        *rows,
        row("memory copy, read and written", embedding["bandwidth"] / 1e9, "GB/s"),
        row("memory-traffic floor of the embedding (of its time)", floor, "ms/step", baseline=embedding["embedding"] * 1e3),
        row("memory-traffic floor of the embedding (of the step)", floor, "ms/step", baseline=whole),
    ]


def _dlrm(rates: dict[str, float]) -> list[Row]:
    ours = rates.pop("ours")
    return [row(f"our ranker on memory (of TorchRec's {name})", ours, "examples/s", baseline=rate) for name, rate in rates.items()]


def _growth(several: Figures, one: Figures) -> list[Row]:
    """The step on memory beside that of the base shape, and how many times faster the feeding alone is."""
    base = several["base"]["step"]
    points = {**several, "1 rank": one["base"]}
    rows = []
    for name, rates in points.items():
        rows.append(row(f"growth: step on memory, {name} (of base)", rates["step"], "examples/s", baseline=base))
        rows.append(row(f"growth: feeding alone, {name} (of the step)", rates["feeding"], "examples/s", baseline=rates["step"]))
    return rows


if __name__ == "__main__":
    main()
