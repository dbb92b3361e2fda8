"""Time of a request in the scorer: request to rows, rows to features, features to probabilities, at 20, 200 and 1,000 candidates.

The simulated recipe's model (prefix-ngram rows of width 32, 20 history items, dense columns and one context column) from a bundle, with the
entity store in a folder, on one thread and without a network. Bar at 20 candidates: 2 ms of processor time, which is what 500 requests a
second leave each on one core. Times are medians of processor time, since other processes may share the cores; beside them the 99th
percentile by the clock. Several requests scored as one batch, as a service under load does, are the last rows.
"""

import contextlib
import io
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from _figures import Row, arguments, row, show
from _train_step_data import ITEMS, configuration, write_random_log

from features.entity_store import EntityStore
from pipeline import export
from pipeline.ranks import start_process_group
from pipeline.serve.bundle import open_bundle
from pipeline.serve.request import RankRequest, RequestRows
from pipeline.serve.scorer import Scorer
from pipeline.trainer import Trainer

LENGTH, NOW, MINUTE = 20, 1_700_000_000_000_000, 60_000_000
BAR = 2.0  # ms


def main() -> None:
    """Train, export, time, print the table."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    rounds, rows = (100, []) if options.small else (1000, [])
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        write_random_log(workdir, 4096, LENGTH, 3)
        for tables in ("fp32", "int8"):
            scorer = Scorer(open_bundle(bundled(workdir, tables)), EntityStore(workdir / "store"))
            for count in (20, 200, 1000):
                rows += figures(scorer, tables, count, rounds if count == 20 else rounds // 10)
            if tables == "fp32":
                rows += together(scorer, rounds // 10)
    show("scorer, one thread", rows, options.json)


def bundled(workdir: Path, tables: str) -> Path:
    """A bundle of a short training."""
    config = configuration(workdir, ranks=1, evaluate__variants="{}", evaluate__seeds="[0]")
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(config, workdir / "train", start_process_group(), quiet=True)
        trainer.resume()
        trainer.train(trainer.train_rows)
        trainer.close()
        export.run(Namespace(run=str(trainer.folder), bundle=str(workdir / tables), tables=tables, judge=0))
    return workdir / tables


def request(count: int, seed: int) -> RankRequest:
    """A request of plain lists, as a service decodes it from JSON."""
    generator = np.random.default_rng(seed)
    return RankRequest(
        time=NOW,
        candidates=generator.integers(0, ITEMS, count).tolist(),
        history_item_ids=generator.integers(0, ITEMS, LENGTH).tolist(),
        history_timestamps=[NOW - MINUTE * number for number in range(1, LENGTH + 1)],
        dense={name: generator.random(count).tolist() for name in ("dense_past_count", "dense_age_hours")},
    )


def figures(scorer: Scorer, tables: str, count: int, rounds: int) -> list[Row]:
    """The whole request, and its parts."""
    asked, maker = request(count, 0), RequestRows(scorer.bundle.inputs, LENGTH)
    made = maker.rows(asked)
    enriched = scorer.enriched(made)
    features = scorer.features(enriched)
    whole, by_clock = timed(lambda: scorer.score(maker.rows(asked)), rounds)
    parts: dict[str, Callable[[], object]] = {
        "request to rows": lambda: maker.rows(asked),
        "look-up": lambda: scorer.enriched(made),
        "features": lambda: scorer.features(enriched),
        "model": torch.inference_mode()(lambda: scorer.ranker.logits(features)),
    }
    bar = {"bar": f"<= {BAR} ms", "holds": whole <= BAR} if count == 20 and tables == "fp32" else {}
    name = f"{tables}, {count} candidates"
    return [
        row(f"{name}: whole request, processor time", whole, "ms", **bar),  # type: ignore[arg-type]
        row(f"{name}: whole request, p99 by the clock", by_clock, "ms"),
        *(row(f"{name}: {part} (of all)", timed(action, rounds)[0], "ms", baseline=whole) for part, action in parts.items()),
    ]


def together(scorer: Scorer, rounds: int) -> list[Row]:
    """Per request, where several are scored as one batch."""
    alone, rows, maker = 0.0, [], RequestRows(scorer.bundle.inputs, LENGTH)
    for several in (1, 4, 16):
        asked = [request(20, seed) for seed in range(several)]

        def score(asked: list[RankRequest] = asked) -> object:
            return scorer.score(pa.concat_batches([maker.rows(each) for each in asked]))

        each = timed(score, rounds)[0] / several
        alone = alone or each
        rows.append(row(f"{several} requests of 20 candidates in one batch, each (of one alone)", each, "ms", baseline=alone))
    return rows


def timed(action: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median processor time, and the 99th percentile by the clock, in ms, after a tenth more rounds that do not count."""
    taken = []
    for _ in range(rounds + rounds // 10 + 1):
        started, clock = time.process_time(), time.perf_counter()
        action()
        taken.append((time.process_time() - started, time.perf_counter() - clock))
    processor, by_clock = np.array(taken[-rounds:]).T * 1e3
    return float(np.median(processor)), float(np.percentile(by_clock, 99))


if __name__ == "__main__":
    main()
