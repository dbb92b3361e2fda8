"""Normalized entropy, AUC and calibration: additive float64 states while training, exact values on arrays at the end."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn import functional

from features.segments import NAMES, STREAM

BINS = 4096  # of the predicted probability, for the running AUC


class Metrics(NamedTuple):
    """NE (lower is better), AUC, and calibration, the sum of predictions over the sum of labels; NaN where undefined."""

    ne: float
    auc: float
    calibration: float


Table = dict[str, dict[str, Metrics]]  # task, then segment; segment "all" has every row


class StreamMetrics:
    """Sums over the batches of a stream, each scored before it was trained on: of the window since the last report, and of all before it.

    A row counts for one segment of each segmentation (features.segments.STREAM). All segments and tasks are updated at once, on the
    device; nothing is copied to the host and no rank waits until a report.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        """Args: K names, in the order of the logits; device of the batches."""
        self.tasks = tuple(tasks)
        self._window, self._before = (_Sums.zero(len(NAMES), len(self.tasks), device) for _ in range(2))

    def update(self, logit_BK: torch.Tensor, label_BK: torch.Tensor, weight_B: torch.Tensor, segment_BV: torch.Tensor) -> None:
        """Add a batch: float32 [B, K], [B, K] and [B], int64 [B, V]."""
        logit_BK, label_BK, weight_B = logit_BK.double(), label_BK.double(), weight_B.double()
        loss_BK = functional.binary_cross_entropy_with_logits(logit_BK, label_BK, reduction="none")
        prediction_BK = torch.sigmoid(logit_BK)
        segments, tasks = self._window.sums.shape[:2]
        added_BK4 = torch.stack([loss_BK, label_BK, prediction_BK, torch.ones_like(loss_BK)], 2)
        member_BS = torch.zeros(len(weight_B), segments, dtype=torch.float64, device=weight_B.device)
        member_BS.scatter_(1, segment_BV, weight_B.unsqueeze(1).expand_as(segment_BV))
        self._window.sums.add_((member_BS.T @ added_BK4.flatten(1)).view(segments, tasks, 4))
        place_BK = (prediction_BK * BINS).long().clamp(max=BINS - 1) + BINS * label_BK.long()
        place_BK += 2 * BINS * torch.arange(tasks, device=place_BK.device)
        place_BVK = segment_BV.unsqueeze(2) * (2 * BINS * tasks) + place_BK.unsqueeze(1)
        self._window.bins.view(-1).index_add_(0, place_BVK.flatten(), weight_B.view(-1, 1, 1).expand_as(place_BVK).flatten())

    def report(self) -> tuple[Table, Table]:
        """Metrics of the window, which ends here, and of the lifetime; a collective call."""
        window = self._window.table(self.tasks)
        self._before.add(self._window)
        self._window = _Sums.zero(len(NAMES), len(self.tasks), self._window.sums.device)
        return window, self._before.table(self.tasks)

    def lifetime(self) -> Table:
        """Metrics of all batches, and the window goes on; a collective call."""
        both = _Sums(self._before.sums.clone(), self._before.bins.clone())
        both.add(self._window)
        return both.table(self.tasks)

    def state(self) -> dict[str, torch.Tensor]:
        """The sums over all ranks, float64, for a checkpoint; a collective call."""
        return {name: sums.reduced() for name, sums in (("window", self._window), ("before", self._before))}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take up a saved state: rank 0 holds the sums of all, the others start from zero."""
        for sums, saved in ((self._window, state["window"]), (self._before, state["before"])):
            mine = saved if not dist.is_initialized() or dist.get_rank() == 0 else torch.zeros_like(saved)
            sums.sums.copy_(mine[: sums.sums.numel()].view_as(sums.sums))
            sums.bins.copy_(mine[sums.sums.numel() :].view_as(sums.bins))


class _Sums(NamedTuple):
    """Additive float64 states of S segments and K tasks.

    Attributes:
        sums: [S, K, 4]: log loss, labels, predictions, examples.
        bins: [S, K, 2, BINS]: negatives and positives by prediction.
    """

    sums: torch.Tensor
    bins: torch.Tensor

    @classmethod
    def zero(cls, segments: int, tasks: int, device: torch.device) -> "_Sums":
        return cls(*(torch.zeros(segments, tasks, *shape, dtype=torch.float64, device=device) for shape in ((4,), (2, BINS))))

    def add(self, other: "_Sums") -> None:
        self.sums.add_(other.sums)
        self.bins.add_(other.bins)

    def reduced(self) -> torch.Tensor:
        """All of it, flat, summed over the ranks."""
        total = torch.cat([self.sums.flatten(), self.bins.flatten()])
        if dist.is_initialized():
            dist.all_reduce(total)
        return total

    def table(self, tasks: Sequence[str]) -> Table:
        total = self.reduced().cpu().numpy()
        sums, bins = total[: self.sums.numel()].reshape(self.sums.shape), total[self.sums.numel() :].reshape(self.bins.shape)
        whole = slice(len(STREAM[0].names))  # the bins of one segmentation are all rows
        sums, bins = (np.concatenate([each[whole].sum(0, keepdims=True), each]) for each in (sums, bins))
        return {
            task: {name: _from_sums(sums[row, column], bins[row, column]) for row, name in enumerate(("all", *NAMES))}
            for column, task in enumerate(tasks)
        }


def _from_sums(sums: NDArray[np.float64], bins: NDArray[np.float64]) -> Metrics:
    """The AUC is exact up to ties within a bin of width 1/4096."""
    loss, labels, predictions, count = (float(value) for value in sums)
    negatives, positives = bins
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum()
    auc = float((positives * (below + negatives / 2)).sum() / pairs) if pairs else np.nan
    return Metrics(_ratio(loss, count * _entropy(labels, count)), auc, _ratio(predictions, labels))


def as_json(table: Table) -> dict[str, dict[str, dict[str, float | None]]]:
    """The table with null in place of NaN, which JSON has not."""
    return {
        task: {
            segment: {name: None if np.isnan(value) else value for name, value in metrics._asdict().items()}
            for segment, metrics in segments.items()
        }
        for task, segments in table.items()
    }


def log_losses(logits: NDArray[np.floating], labels: NDArray[np.floating]) -> NDArray[np.float64]:
    """-[y ln p + (1-y) ln(1-p)] per row, float64, from logits so that no probability rounds to 0 or 1."""
    z = logits.astype(np.float64)
    return np.logaddexp(0, np.where(labels > 0, -z, z))


def exact_metrics(losses: NDArray[np.float64], probabilities: NDArray[np.floating], labels: NDArray[np.floating]) -> Metrics:
    """Metrics of whole arrays (paper A: NE with the (1-y) terms, p-bar the mean label of the same data); NaN with one class only."""
    count, positives = len(labels), float(labels.sum())
    ne = _ratio(float(losses.sum()), count * _entropy(positives, count))
    return Metrics(ne, _auc(probabilities, labels), _ratio(float(probabilities.astype(np.float64).sum()), positives))


def _auc(scores: NDArray[np.floating], labels: NDArray[np.floating]) -> float:
    """Area under the ROC curve by average ranks (Mann-Whitney), ties counted half."""
    positives = float(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return np.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    average_rank = np.cumsum(counts) - (counts - 1) / 2
    return float((average_rank[inverse][labels > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _entropy(positives: float, count: float) -> float:
    if not 0 < positives < count:
        return 0.0
    p = positives / count
    return -(p * np.log(p) + (1 - p) * np.log1p(-p))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else np.nan
