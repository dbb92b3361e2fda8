"""Normalized entropy, AUC and calibration of a stream, by segment and task: additive float64 states on the device."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn import functional

from features.segments import STREAM, Segmentation

# The running AUC's bins are of the logit, not of the probability: they are as fine at a click rate of 0.1% as at one of 50%.
BINS_PER_LOGIT, LOGIT_LIMIT = 256, 16  # the first and the last bin also hold what lies beyond -16 and 16
BINS = 2 * LOGIT_LIMIT * BINS_PER_LOGIT
MOST_BATCHES = 64  # kept: those of loader processes have a file descriptor per tensor
SUMMED_TOGETHER = 8192  # rows: of fewer the number of operations takes the time, and more are too many for the processor's cache

Float64 = NDArray[np.float64]


class Metrics(NamedTuple):
    """Figures of one task on one segment; NaN (null in JSON) where undefined: NE and AUC with one class only, calibration without labels.

    Attributes:
        ne: normalized entropy (paper A, with the (1-y) terms; p-bar the mean label of the same rows); lower is better.
        auc: area under the ROC curve, ties counted half.
        calibration: the sum of predictions over the sum of labels.
        auc_half_width: how far off `auc` may be: 0 where it was computed from the scores themselves.
    """

    ne: float
    auc: float
    calibration: float
    auc_half_width: float = 0.0


Table = dict[str, dict[str, Metrics]]  # task, then segment; segment "all" has every row


class StreamMetrics:
    """Sums over the batches of a stream, each scored before it was trained on: of the window since the last report, and of all before it.

    A row counts for one segment of each segmentation. All segments and tasks are updated at once, on the device; nothing is copied to the
    host and no rank waits until a report, which adds up the window over the ranks. What lies before the window is added up already, and
    the same on every rank. NE and calibration are exact. The AUC is that of scores rounded to 1/256 of a logit, and comes with its error.
    """

    def __init__(self, tasks: Sequence[str], device: torch.device, segmentations: Sequence[Segmentation] = STREAM) -> None:
        """Start at zero.

        Args:
            tasks: K names, in the order of the logits.
            device: of the batches.
            segmentations: V of them; S segments together.
        """
        self.tasks, self._segmentations = tuple(tasks), tuple(segmentations)
        self._size = sum(len(segmentation.names) for segmentation in segmentations), len(self.tasks)
        numbers = 2 * (1 + BINS) * self._size[0] * self._size[1]
        self._pending: list[tuple[torch.Tensor, ...]] = []
        self._window, self._before = (_Sums.of(torch.zeros(numbers, dtype=torch.float64, device=device), *self._size) for _ in range(2))

    def update(self, logit_BK: torch.Tensor, label_BK: torch.Tensor, weight_B: torch.Tensor, segment_BV: torch.Tensor) -> None:
        """Add a batch; it is kept until there are `SUMMED_TOGETHER` rows to be summed up at once.

        Args:
            logit_BK: float32 [B, K].
            label_BK: float32 [B, K], 0 or 1.
            weight_B: float32 [B], 1, or 0 for padding.
            segment_BV: int64 [B, V], numbers into the segments of all segmentations in order.
        """
        self._pending.append((logit_BK, label_BK, weight_B, segment_BV))
        if len(self._pending) * len(weight_B) >= SUMMED_TOGETHER or len(self._pending) == MOST_BATCHES:
            self._sum_up()

    def report(self) -> tuple[Table, Table]:
        """Metrics of the window, which ends here, and of the lifetime; a collective call."""
        self._sum_up()
        _add_up(self._window.flat)
        window = self._table(self._window)
        self._before.flat.add_(self._window.flat)
        self._window.flat.zero_()
        return window, self._table(self._before)

    def lifetime(self) -> Table:
        """Metrics of all batches, and the window goes on; a collective call."""
        self._sum_up()
        whole = _Sums.of(_add_up(self._window.flat.clone()), *self._size)
        whole.flat.add_(self._before.flat)
        return self._table(whole)

    def state(self) -> dict[str, torch.Tensor]:
        """The sums over all ranks, float64 and the same on each of them, for a checkpoint; a collective call."""
        self._sum_up()
        return {"window": _add_up(self._window.flat.clone()), "before": self._before.flat.clone()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Take up a saved state, of whatever number of ranks: rank 0 goes on with the window, the others start theirs from zero."""
        self._pending.clear()
        first = not dist.is_initialized() or dist.get_rank() == 0
        self._window.flat.copy_(state["window"] if first else torch.zeros_like(state["window"]))
        self._before.flat.copy_(state["before"])

    def _sum_up(self) -> None:
        """Add the batches that are kept to the window."""
        if not self._pending:
            return
        logit_BK, label_BK, weight_B, segment_BV = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending.clear()
        place_BK = _bin(logit_BK.float(), label_BK)
        logit_BK, weight_BK = logit_BK.double(), weight_B.double().unsqueeze(1).expand_as(logit_BK).contiguous()
        loss_BK = functional.binary_cross_entropy_with_logits(logit_BK, label_BK.double(), reduction="none")
        added_B2K = torch.cat([loss_BK * weight_BK, torch.sigmoid(logit_BK) * weight_BK], 1)
        window, per_segment = self._window, 2 * BINS * len(self.tasks)
        for segment_B in segment_BV.unbind(1):
            window.sums.flatten(1).index_add_(0, segment_B, added_B2K)
            window.bins.view(-1).index_add_(0, (place_BK + per_segment * segment_B.unsqueeze(1)).flatten(), weight_BK.view(-1))

    def _table(self, states: "_Sums") -> Table:
        sums, bins = states.sums.cpu().numpy(), states.bins.cpu().numpy()
        one = len(self._segmentations[0].names)  # the segments of one segmentation are all rows
        # Segment by segment, whose bins fit the processor's cache: ten times as fast as all of them at once.
        rows = [_figures(sums[:one].sum(0), bins[:one].sum(0)), *map(_figures, sums, bins)]
        names = ("all", *(name for segmentation in self._segmentations for name in segmentation.names))
        return {task: {name: row[column] for name, row in zip(names, rows, strict=True)} for column, task in enumerate(self.tasks)}


class _Sums(NamedTuple):
    """Additive float64 states of S segments and K tasks.

    Attributes:
        flat: all of it, so that ranks add it up in one go; the others are views of it.
        sums: [S, 2, K]: log loss and predictions.
        bins: [S, K, 2, BINS]: negatives and positives by logit.
    """

    flat: torch.Tensor
    sums: torch.Tensor
    bins: torch.Tensor

    @classmethod
    def of(cls, flat: torch.Tensor, segments: int, tasks: int) -> "_Sums":
        split = segments * tasks * 2
        return cls(flat, flat[:split].view(segments, 2, tasks), flat[split:].view(segments, tasks, 2, BINS))


def as_json(table: Table) -> dict[str, dict[str, dict[str, float | None]]]:
    """The table with null in place of NaN, which JSON has not."""
    return {
        task: {
            segment: {name: None if np.isnan(value) else value for name, value in metrics._asdict().items()}
            for segment, metrics in segments.items()
        }
        for task, segments in table.items()
    }


def area(negatives: Float64, positives: Float64) -> tuple[Float64, Float64]:
    """Area under the ROC curve, ties counted half (Mann-Whitney), and half the share of pairs that are ties.

    Within a bin of rounded scores any order is possible, so that the area of the scores themselves lies within the one plus or minus the
    other, whatever they are.

    Args:
        negatives: [..., bins], numbers of negatives by ascending score.
        positives: the same of positives.
    """
    below = np.cumsum(negatives, -1) - negatives
    pairs = negatives.sum(-1) * positives.sum(-1)
    tied = (positives * negatives).sum(-1) / 2
    return ratio((positives * below).sum(-1) + tied, pairs), ratio(tied, pairs)


def entropy(positives: Float64, count: Float64) -> Float64:
    """-[p ln p + (1-p) ln(1-p)] of the mean label p; 0 with one class or none."""
    mixed = (positives > 0) & (positives < count)
    rate = np.where(mixed, positives / np.maximum(count, 1), 0.5)
    return np.where(mixed, -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)), 0)


def ratio(numerator: Float64, denominator: Float64) -> Float64:
    """NaN where the denominator is 0."""
    return np.divide(numerator, denominator, where=denominator > 0, out=np.full(np.shape(denominator), np.nan))


def _figures(sums: Float64, bins: Float64) -> list[Metrics]:
    """Metrics of one segment, task by task, from [2, K] and [K, 2, BINS] as in `_Sums`."""
    (loss_K, prediction_K), negatives, positives = sums, bins[:, 0], bins[:, 1]
    label_K = positives.sum(-1)
    count_K = label_K + negatives.sum(-1)
    auc_K, half_width_K = area(negatives, positives)
    figures = (ratio(loss_K, count_K * entropy(label_K, count_K)), auc_K, ratio(prediction_K, label_K), half_width_K)
    return [Metrics(*one) for one in np.stack(figures, 1).tolist()]


def _add_up(sums: torch.Tensor) -> torch.Tensor:
    """Over the ranks, in place; the same on every one."""
    if dist.is_initialized():
        dist.all_reduce(sums)
    return sums


def _bin(logit_BK: torch.Tensor, label_BK: torch.Tensor) -> torch.Tensor:
    """Where each row counts in one segment's [K, 2, BINS], flat, int64 [B, K]; a NaN, which the loss tells of, in a bin that exists.

    Everything before the cast is exact in float32: a product with a power of two, and whole numbers below 2^24.
    """
    place_BK = (logit_BK * BINS_PER_LOGIT).floor_().clamp_(-BINS // 2, BINS // 2 - 1).nan_to_num_(0)
    task_K = torch.arange(logit_BK.shape[1], dtype=torch.float32, device=logit_BK.device)
    return place_BK.add_(label_BK + (2 * task_K + 0.5), alpha=BINS).long()
