"""Metrics of whole arrays, from the scores themselves: what a finished run and the evaluation report."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from features.dataset import Dataset
from features.reader import RowReader
from features.schema import LABEL
from features.segments import NAMES, STREAM, stream_segments
from pipeline.intervals import log_losses
from pipeline.metrics import Float64, Metrics, Table, area, entropy, ratio


def exact_metrics(losses: Float64, probabilities: NDArray[np.floating], labels: NDArray[np.floating]) -> Metrics:
    """Metrics of whole arrays, [N] each, from the scores themselves."""
    positives, count = np.asarray(labels.sum(dtype=np.float64)), np.asarray(len(labels), np.float64)
    ne = ratio(losses.sum(), count * entropy(positives, count))
    calibration = ratio(probabilities.sum(dtype=np.float64), positives)
    return Metrics(float(ne), _auc(probabilities, labels), float(calibration))


def exact_table(
    logits_NK: NDArray[np.floating],
    labels_NK: NDArray[np.integer],
    segments_NV: NDArray[np.int64],
    tasks: Sequence[str],
) -> Table:
    """What StreamMetrics reports, from the scores of all rows themselves, so that the AUC is exact too.

    Args:
        logits_NK: float32 [N, K].
        labels_NK: [N, K], 0 or 1.
        segments_NV: int64 [N, V], as `features.segments.stream_segments` gives them.
        tasks: K names.
    """
    numbers = iter(range(len(NAMES)))
    rows: dict[str, NDArray[np.bool_]] = {"all": np.ones(len(logits_NK), bool)}
    for column, segmentation in enumerate(STREAM):
        rows |= {name: segments_NV[:, column] == next(numbers) for name in segmentation.names}
    table: Table = {}
    for task, logits, labels in zip(tasks, logits_NK.T, labels_NK.T, strict=True):
        losses, probabilities = log_losses(logits, labels), expit(logits.astype(np.float64))
        table[task] = {name: exact_metrics(losses[mine], probabilities[mine], labels[mine]) for name, mine in rows.items()}
    return table


def table_of_run(logits_NK: NDArray[np.float32], impressions: Dataset, tasks: Sequence[str]) -> Table:
    """`exact_table` of a run that scored the first N rows of the impressions: float32 [N, K], in row order."""
    labels = [LABEL + task for task in tasks]
    log = RowReader(impressions, [*labels, *(segmentation.column for segmentation in STREAM)]).read(0, len(logits_NK))
    labels_NK = np.stack([log.column(name).to_numpy() for name in labels], 1)
    return exact_table(logits_NK, labels_NK, stream_segments(log), tasks)


def _auc(scores: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Area under the ROC curve, ties counted half: every score that occurs is a bin of its own."""
    order = np.argsort(scores)
    ends = np.flatnonzero(np.append(np.diff(scores[order]) > 0, True))[: len(scores)]
    positives = np.diff(np.cumsum(labels[order], dtype=np.float64)[ends], prepend=0)
    negatives = np.diff(ends, prepend=-1) - positives
    return float(area(negatives, positives)[0])
