"""One table of the evaluation: every variant on every segment, with its gain over the baseline; and its curve over the stream."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.config import RunConfig
from pipeline.exact_metrics import exact_metrics
from pipeline.intervals import Gain, UserBootstrap, log_losses
from pipeline.segments import Parting, Segments

WINDOWS = 24  # points of the curve over the stream


class Log(NamedTuple):
    """The columns of the impressions that the evaluation needs, [N] each.

    Attributes:
        segmented: those that part the stream (features.segments.STREAM), by name.
        oracle: None on a real log.
    """

    item_ids: NDArray[np.int64]
    user_ids: NDArray[np.int64]
    labels: NDArray[np.float64]
    segmented: dict[str, NDArray[np.number]]
    oracle: NDArray[np.float64] | None


def judge(config: RunConfig, log: Log, rows: slice, logits: dict[str, NDArray[np.float32]], partings: list[Parting]) -> dict[str, Any]:
    """One table: variant by segment, each with its metrics (mean over seeds) and its gain over the baseline."""
    labels = log.labels[rows]
    segments = {"all": np.ones(len(labels), bool)}
    about: list[dict[str, Any]] = [{"name": "all", "rows": len(labels), "by": None}]
    for parting in partings:
        segments |= parting.segments
        about += [{"name": name, "rows": int(chosen.sum()), "by": parting.by} for name, chosen in parting.segments.items()]
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
    return {"segments": about, "variants": table}


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


def curve(stream_SN: NDArray[np.float32], labels: NDArray[np.float64]) -> list[float | None]:
    """NE of equal windows of the stream, mean over seeds."""
    points = []
    for window in np.array_split(np.arange(len(labels)), WINDOWS):
        losses = log_losses(stream_SN[:, window], labels[window])
        points.append(_metrics(losses, _sigmoid(stream_SN[:, window]), labels[window], np.ones(len(window), bool))["ne"])
    return points


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = expit(logits.astype(np.float64))
    return probabilities


def _cell_of(gain: Gain | None) -> dict[str, float | None]:
    return dict.fromkeys(("gain", "low", "high")) if gain is None else dict(zip(("gain", "low", "high"), map(_number, gain), strict=True))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
