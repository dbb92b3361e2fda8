"""Stage evaluate: every variant with every seed, judged frozen on the period after training and as a stream, with paired intervals."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from features.dataset import Dataset, open_dataset, read_table
from features.errors import InputError
from features.files import write_durably
from features.schema import LABEL
from pipeline.config import RunConfig
from pipeline.intervals import Gain, UserBootstrap
from pipeline.metrics import exact_metrics, log_losses
from pipeline.progress import say
from pipeline.ranks import on_rank_zero, start_process_group
from pipeline.recipe import with_overrides
from pipeline.segments import Segments, by_past_impressions, by_training_impressions
from pipeline.trainer import Trainer, write_array

WINDOWS = 24  # points of the curve over the stream


class VariantScores(NamedTuple):
    """One variant's logits over seeds, and its size.

    Attributes:
        frozen_SN: float32 [S, rows after training], by the model as training left it.
        stream_SN: float32 [S, all rows], each batch scored before it was trained on.
        table_rows: rows over all item tables.
    """

    frozen_SN: NDArray[np.float32]
    stream_SN: NDArray[np.float32]
    table_rows: int


class Log(NamedTuple):
    """The columns of the impressions that the evaluation needs, [N] each; oracle is None on a real log."""

    item_ids: NDArray[np.int64]
    user_ids: NDArray[np.int64]
    labels: NDArray[np.float64]
    past_impressions: NDArray[np.int32]
    oracle: NDArray[np.float64] | None


def run(config: RunConfig) -> None:
    """Train what is missing, score, and write evaluate/results.json. Raises InputError if the baseline is not among the variants."""
    names = list(config.evaluate.variants)
    if config.evaluate.baseline not in names:
        raise InputError(f"evaluate.baseline '{config.evaluate.baseline}' is not one of evaluate.variants: {', '.join(names)}")
    device = start_process_group()
    variants = {name: _score_variant(config, name, device) for name in names}
    on_rank_zero(lambda: _write_results(config, variants))


def _score_variant(config: RunConfig, name: str, device: torch.device) -> VariantScores:
    frozen, stream, table_rows, task = [], [], 0, config.model.tasks[0]
    for seed in config.evaluate.seeds:
        chosen = with_overrides(config, {**config.evaluate.variants[name], "train.seed": seed})
        trainer = Trainer(chosen, config.path("evaluate") / "runs", device, quiet=True)
        on_rank_zero(partial(_take_over, trainer, config.path("train") / trainer.run_id))
        if trainer.train_rows == trainer.rows:
            raise InputError(f"train.train_fraction {config.train.train_fraction} leaves no rows after training to evaluate on")
        trainer.resume()
        trainer.train(trainer.train_rows)
        frozen.append(_frozen_scores(trainer)[:, 0])
        trainer.train(trainer.rows)
        stream.append(trainer.stream_scores()[:, 0])
        table_rows = sum(trainer.source.builder.schema.item_tables.values())
        final = trainer.metrics.lifetime()[task]["all"]
        say(f"{name}, seed {seed}: NE {final.ne:.4f}  AUC {final.auc:.4f} over the whole stream")
        trainer.close()
    return VariantScores(np.stack(frozen), np.stack(stream), table_rows)


def _take_over(trainer: Trainer, trained: Path) -> None:
    """Start from the run of stage train, where there is the same one; on a copy, since the stream goes on from it."""
    if trained.exists() and not trainer.checkpoints.exists():
        shutil.copytree(trained, trainer.folder, dirs_exist_ok=True)


def _frozen_scores(trainer: Trainer) -> NDArray[np.float32]:
    """Logits of the rows after training; kept on disk, since a resumed run may have gone on past the end of training."""
    path = trainer.folder / f"frozen-{trainer.train_rows}.npy"
    if not path.is_file():
        logits = trainer.score(trainer.train_rows, trainer.rows)
        on_rank_zero(lambda: write_array(path, logits))
    scores: NDArray[np.float32] = np.load(path, allow_pickle=False)
    return scores


def _write_results(config: RunConfig, variants: dict[str, VariantScores]) -> None:
    impressions = open_dataset(config.path("impressions"))
    log = _read_log(impressions, config.model.tasks[0])
    rows = len(log.labels)
    train_rows = rows - next(iter(variants.values())).frozen_SN.shape[1]
    half = rows // 2
    results = {
        "name": config.name,
        "baseline": config.evaluate.baseline,
        "seeds": list(config.evaluate.seeds),
        "data": {
            **impressions.metadata,
            "rows": rows,
            "train_rows": train_rows,
            "evaluation_rows": rows - train_rows,
            "stream_rows": rows - half,
        },
        "table_rows": {name: variant.table_rows for name, variant in variants.items()},
        "frozen": _judge(
            config,
            log,
            slice(train_rows, rows),
            {name: v.frozen_SN for name, v in variants.items()},
            by_training_impressions(log.item_ids, train_rows),
        ),
        "progressive": _judge(
            config,
            log,
            slice(half, rows),
            {name: v.stream_SN[:, half:rows] for name, v in variants.items()},
            by_past_impressions(log.past_impressions[half:]),
        ),
        "curve": {name: _curve(v.stream_SN[:, :rows], log.labels) for name, v in variants.items()},
    }
    write_durably(config.path("evaluate") / "results.json", json.dumps(results, indent=1).encode())


def _judge(config: RunConfig, log: Log, rows: slice, logits: dict[str, NDArray[np.float32]], segments: Segments) -> dict[str, Any]:
    """One table: variant by segment, each with its metrics (mean over seeds) and its gain over the baseline."""
    labels = log.labels[rows]
    bootstrap = UserBootstrap(log.user_ids[rows], config.evaluate.bootstrap)
    losses = {name: log_losses(scores_SN, labels) for name, scores_SN in logits.items()}
    baseline = config.evaluate.baseline
    table: dict[str, dict[str, Any]] = {}
    for name, scores_SN in logits.items():
        table[name], probabilities_SN = {}, _sigmoid(scores_SN)
        for segment, chosen in segments.items():
            cell = _metrics(losses[name], probabilities_SN, labels, chosen)
            gain = bootstrap.gain(losses[name], losses[baseline], chosen) if name != baseline and cell["ne"] is not None else None
            table[name][segment] = cell | _cell_of(gain)
    if log.oracle is not None:
        table["oracle"] = _oracle(log.oracle[rows], labels, segments)
    return {"segments": [{"name": name, "rows": int(chosen.sum())} for name, chosen in segments.items()], "variants": table}


def _metrics(
    losses_SN: NDArray[np.float64], probabilities_SN: NDArray[np.float64], labels: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> dict[str, float | None]:
    seeds = [
        exact_metrics(losses[chosen], probabilities[chosen], labels[chosen])
        for losses, probabilities in zip(losses_SN, probabilities_SN, strict=True)
    ]
    return {name: _number(float(np.mean([getattr(one, name) for one in seeds]))) for name in ("ne", "auc", "calibration")}


def _oracle(probabilities: NDArray[np.float64], labels: NDArray[np.float64], segments: Segments) -> dict[str, Any]:
    """What the true click probabilities score: the floor of any model's NE."""
    losses = -(labels * np.log(probabilities) + (1 - labels) * np.log1p(-probabilities))
    return {name: _metrics(losses[None], probabilities[None], labels, chosen) | _cell_of(None) for name, chosen in segments.items()}


def _curve(stream_SN: NDArray[np.float32], labels: NDArray[np.float64]) -> list[float | None]:
    """NE of equal windows of the stream, mean over seeds."""
    points = []
    for window in np.array_split(np.arange(len(labels)), WINDOWS):
        losses = log_losses(stream_SN[:, window], labels[window])
        points.append(_metrics(losses, _sigmoid(stream_SN[:, window]), labels[window], np.ones(len(window), bool))["ne"])
    return points


def _read_log(impressions: Dataset, task: str) -> Log:
    names = ["item_id", "user_id", LABEL + task, "past_impressions"]
    oracle = "oracle_probability" if "oracle_probability" in impressions.schema.names else None
    table = read_table(impressions, names + ([oracle] if oracle else []))
    items, users, labels, past = (table.column(name).to_numpy() for name in names)
    return Log(items, users, labels.astype(np.float64), past, table.column(oracle).to_numpy() if oracle else None)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = expit(logits.astype(np.float64))
    return probabilities


def _cell_of(gain: Gain | None) -> dict[str, float | None]:
    return dict.fromkeys(("gain", "low", "high")) if gain is None else dict(zip(("gain", "low", "high"), map(_number, gain), strict=True))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="evaluate"))
