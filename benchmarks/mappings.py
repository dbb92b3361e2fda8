"""NE of each mapping of prefixes to rows, mean and spread over seeds: on the simulated world, and on Online Retail with `--raw DIR`.

A seed changes the model's start and the names of the codes: each level's codes are permuted, which means nothing to the data but changes
which prefixes collide. Judged as a stream: each batch is scored before it is trained on, second half. Bar: the 95% interval of the change
against the paper's modulo, seeds paired and users resampled, does not lie above zero.
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _figures import Row, parser, row, show
from numpy.typing import NDArray

from features.dataset import open_dataset, read_table
from features.store.publish import publish
from features.store.versions import open_snapshot
from pipeline import assign, embed, ingest, quantize, simulate
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.intervals import UserBootstrap
from pipeline.metrics import log_losses
from pipeline.ranks import start_process_group
from pipeline.segments import Segments, by_training_impressions
from pipeline.trainer import Trainer

MAPPINGS = ("modulo", "exact_coarse", "nested")  # the first one is the baseline
COMMON = {"ranks": 1, "train.input": "impressions", "train.checkpoint_every": 1_000_000, "train.keep_checkpoints": 1}


def main() -> None:
    """Make the data, train every mapping with every seed, print the table."""
    options = _arguments()
    torch.set_num_threads(1)
    device = start_process_group()
    seeds = range(2 if options.small else options.seeds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, prepare in _logs(options).items():
            workdir = Path(folder) / name
            with contextlib.redirect_stdout(io.StringIO()):
                config = prepare(workdir)
                losses = {mapping: np.stack([_stream(config, mapping, seed, device) for seed in seeds]) for mapping in MAPPINGS}
            rows += _figures(name, config, losses)
    show(f"mappings of prefixes to rows, {len(seeds)} seeds, NE of the stream's second half (change: 95% interval)", rows, options.json)


def _arguments() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--raw", type=Path, help="folder of Online Retail's raw files")
    options.add_argument("--seeds", type=int, default=6, help="seeds per mapping, without --small")
    return options.parse_args()


def _logs(options: argparse.Namespace) -> dict[str, Callable[[Path], RunConfig]]:
    size = {"simulate.impressions": 20_000, "simulate.items": 2_000, "model.rows": 660, "quantize.epochs": 5} if options.small else {}
    world = {"embed.source": "vector", **size}
    logs: dict[str, Callable[[Path], RunConfig]] = {"simulated": lambda workdir: _prepared("simulated", workdir, world)}
    if options.raw is not None:
        retail = {"ingest.raw": options.raw, "ingest.last_rows": 50_000 if options.small else 300_000}
        logs["online_retail"] = lambda workdir: _prepared("online_retail", workdir, retail)
    return logs


def _prepared(recipe: str, workdir: Path, changes: dict[str, object]) -> RunConfig:
    """The log and its entity store, by the pipeline's own stages."""
    config = recipes.load(recipe, [f"{key}={value}" for key, value in {**COMMON, "workdir": workdir, **changes}.items()])
    for stage in (simulate if config.ingest.source == "simulated" else ingest, embed, quantize, assign):
        stage.run(config)
    return config


def _stream(config: RunConfig, mapping: str, seed: int, device: torch.device) -> NDArray[np.float64]:
    """Log loss of every row of the second half, scored before it was trained on."""
    workdir = config.workdir / f"seed-{seed}"
    if not workdir.exists():
        workdir.mkdir()
        (workdir / "impressions").symlink_to(config.path("impressions"))
        _publish_renamed(config.path("store"), workdir / "store", seed)
    table = {"kind": "semantic_id", "depth": 3, "mapping": mapping}
    chosen = recipes.with_overrides(config, {"workdir": str(workdir), "train.seed": seed, "model.representations": {"semantic_id": table}})
    trainer = Trainer(chosen, workdir / "runs", device, quiet=True)
    trainer.train(trainer.rows)
    trainer.close()
    labels = _column(config, "label_click").astype(np.float64)
    losses: NDArray[np.float64] = log_losses(trainer.stream_scores()[None], labels)[0, len(labels) // 2 :]
    return losses


def _publish_renamed(source: Path, target: Path, seed: int) -> None:
    """The same store with the codes of each level permuted."""
    store = open_snapshot(source)
    contract = store.contract()
    names = np.random.default_rng(seed).permuted(np.tile(np.arange(contract.codebook_size), (contract.levels, 1)), axis=1)
    renamed = ((ids, {contract.source: _renamed(codes[contract.source], names)}) for ids, codes in store.batches(1 << 18))
    publish(target, renamed, [contract])


def _renamed(codes: NDArray[np.uint16], names: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.stack([names[level][codes[:, level]] for level in range(len(names))], axis=1)


def _figures(log: str, config: RunConfig, losses: dict[str, NDArray[np.float64]]) -> list[Row]:
    """By segment and mapping: mean NE, its standard deviation over seeds, and the paired change against the first mapping."""
    labels = _column(config, "label_click")
    bootstrap = UserBootstrap(_column(config, "user_id")[len(labels) // 2 :], 500)
    baseline, rows = MAPPINGS[0], []
    for segment, chosen in _segments(config).items():
        entropy = _entropy(labels[len(labels) // 2 :][chosen].mean())
        ne = {mapping: each[:, chosen].mean(1) / entropy for mapping, each in losses.items()}
        for mapping, values in ne.items():
            name, mean, spread = f"{log}, {segment}, {mapping}", float(values.mean()), float(values.std(ddof=1))
            if mapping == baseline:
                rows += [row(f"{name}: NE", mean, "NE"), row(f"{name}: sd over seeds", spread, "NE")]
                continue
            gain = bootstrap.gain(losses[mapping], losses[baseline], chosen)
            change = f"not above modulo ({gain.mean:+.2f}%, {gain.low:+.2f} to {gain.high:+.2f})"
            ours, theirs = float(ne[baseline].mean()), float(ne[baseline].std(ddof=1))
            rows.append(row(f"{name}: NE", mean, "NE", baseline=ours, bar=change, holds=not gain.low > 0))
            rows.append(row(f"{name}: sd over seeds", spread, "NE", baseline=theirs))
    return rows


def _segments(config: RunConfig) -> Segments:
    """Of the second half: all rows, items of the first half's tail, and items that it did not have."""
    items = _column(config, "item_id")
    segments = by_training_impressions(items, len(items) // 2)
    return {name: segments[name] for name in ("all", "tail", "new")}


def _column(config: RunConfig, name: str) -> NDArray[np.int64]:
    column: NDArray[np.int64] = read_table(open_dataset(config.path("impressions")), [name]).column(name).to_numpy()
    return column


def _entropy(rate: float) -> float:
    return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


if __name__ == "__main__":
    main()
