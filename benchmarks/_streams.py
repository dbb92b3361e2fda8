"""Rankers judged as a stream in several variants and seeds on the same log: what the benchmarks of a method's effect on NE share."""

import argparse
import contextlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from _figures import Row, parser, row
from numpy.typing import NDArray

from features.dataset import open_dataset, read_table
from pipeline import assign, embed, ingest, quantize, simulate
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.intervals import UserBootstrap, log_losses
from pipeline.segments import Segments, by_training_impressions
from pipeline.trainer import Trainer

COMMON = {"ranks": 1, "train.input": "impressions", "train.checkpoint_every": 1_000_000, "train.keep_checkpoints": 1}
Changes = dict[str, object]
Losses = NDArray[np.float64]  # [seeds, rows of the second half]


def arguments(description: str) -> argparse.Namespace:
    """`--small`, `--json`, `--log` and `--seeds`."""
    options = parser(description)
    options.add_argument("--log", action="append", default=[], metavar="RECIPE=DIR", help="a real log besides, e.g. ifdb=~/logs/ifdb")
    options.add_argument("--seeds", type=int, default=6, help="seeds per variant, without --small")
    return options.parse_args()


def logs(options: argparse.Namespace) -> dict[str, tuple[str, Changes]]:
    """Log name to the recipe and its changes: the simulated world, and the real logs whose raw files are given."""
    size: Changes = {"simulate.impressions": 20_000, "simulate.items": 2_000, "model.rows": 660}
    found: dict[str, tuple[str, Changes]] = {
        "simulated": ("simulated", {"embed.sources": "[vector_content]", **(size if options.small else {})})
    }
    for given in options.log:
        recipe, _, raw = given.partition("=")
        found[recipe] = recipe, {"ingest.raw": Path(raw).expanduser(), **({"ingest.last_rows": 50_000} if options.small else {})}
    return found


def prepared(recipe: str, workdir: Path, changes: Changes) -> RunConfig:
    """The log and its content embeddings, by the pipeline's own stages, in silence."""
    config = recipes.load(recipe, [f"{key}={value}" for key, value in {**COMMON, "workdir": workdir, **changes}.items()])
    with contextlib.redirect_stdout(io.StringIO()):
        for stage in (simulate if config.ingest.source == "simulated" else ingest, embed):
            stage.run(config)
    return config


def with_codes(config: RunConfig, name: str, changes: Changes) -> RunConfig:
    """The same log in a folder of its own, with a quantizer of its own."""
    workdir = linked(config, name)
    changed = recipes.with_overrides(config, {"workdir": str(workdir), **changes})
    with contextlib.redirect_stdout(io.StringIO()):
        for stage in (quantize, assign):
            stage.run(changed)
    return changed


def linked(config: RunConfig, name: str) -> Path:
    """A working folder with the inputs of `config`."""
    workdir = config.workdir / name
    workdir.mkdir()
    for part in ("impressions", "items", "content"):
        (workdir / part).symlink_to(config.path(part).resolve())
    return workdir


def stream(config: RunConfig, seed: int, table: Mapping[str, object], device: torch.device) -> NDArray[np.float64]:
    """Log loss of every row of the second half by a ranker with one table, scored before it was trained on."""
    chosen = recipes.with_overrides(config, {"train.seed": seed, "model.representations": {"item": dict(table)}})
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(chosen, config.workdir / "runs", device, quiet=True)
        trainer.train(trainer.rows)
        trainer.close()
    labels = column(config, "label_click").astype(np.float64)
    losses: NDArray[np.float64] = log_losses(trainer.stream_scores()[None, :, 0], labels)[0, len(labels) // 2 :]
    return losses


def figures(log: str, config: RunConfig, losses: Mapping[str, Losses], bar: Callable[[str], bool]) -> list[Row]:
    """Mean NE of each variant, its standard deviation over seeds, and the paired change against the first variant, by segment.

    `bar` says which variants must not be worse than the first: the 95% interval of their change must not lie above zero.
    """
    labels = column(config, "label_click")
    bootstrap = UserBootstrap(column(config, "user_id")[len(labels) // 2 :], 500)
    baseline, rows = next(iter(losses)), []
    for segment, chosen in _segments(config).items():
        entropy = _entropy(labels[len(labels) // 2 :][chosen].mean())
        ne = {name: each[:, chosen].mean(1) / entropy for name, each in losses.items()}
        mean, spread = float(ne[baseline].mean()), float(ne[baseline].std(ddof=1))
        for name, values in ne.items():
            title = f"{log}, {segment}, {name}"
            if name == baseline:
                rows += [row(f"{title}: NE", mean, "NE"), row(f"{title}: sd over seeds", spread, "NE")]
                continue
            gain = bootstrap.gain(losses[name], losses[baseline], chosen)
            change = f"{gain.mean:+.2f}% ({gain.low:+.2f} to {gain.high:+.2f})"
            change, holds = (f"not above {baseline}: {change}", not gain.low > 0) if bar(name) else (change, None)
            rows.append(row(f"{title}: NE", float(values.mean()), "NE", baseline=mean, bar=change, holds=holds))
            rows.append(row(f"{title}: sd over seeds", float(values.std(ddof=1)), "NE", baseline=spread))
    return rows


def column(config: RunConfig, name: str) -> NDArray[np.int64]:
    """A column of the impressions."""
    values: NDArray[np.int64] = read_table(open_dataset(config.path("impressions")), [name]).column(name).to_numpy()
    return values


def _segments(config: RunConfig) -> Segments:
    """Of the second half: all rows, items of the first half's tail, and items that it did not have."""
    items = column(config, "item_id")
    half = len(items) // 2
    segments = by_training_impressions(items, half).segments
    return {"all": np.ones(len(items) - half, bool), **{name: segments[name] for name in ("tail", "new")}}


def _entropy(rate: float) -> float:
    return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))
