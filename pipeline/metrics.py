"""Normalized entropy, AUC and calibration: additive float64 states while training, exact values on arrays at the end."""

from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn import functional

BINS = 4096  # of the predicted probability, for the running AUC


class Metrics(NamedTuple):
    """NE (lower is better), AUC, and calibration, the sum of predictions over the sum of labels; NaN where undefined."""

    ne: float
    auc: float
    calibration: float


class RunningMetrics:
    """Sums over batches, kept on the device; nothing is copied to the host and no rank waits until `compute`."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)  # log loss, labels, predictions, examples
        self._bins = torch.zeros(2, BINS, dtype=torch.float64, device=device)  # negatives and positives by prediction

    def update(self, logit_B: torch.Tensor, label_B: torch.Tensor, weight_B: torch.Tensor) -> None:
        """Add a batch: float32 [B] each."""
        logit, label, weight = logit_B.double(), label_B.double(), weight_B.double()
        loss = functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
        prediction = torch.sigmoid(logit)
        self._sums += torch.stack([loss, label, prediction, torch.ones_like(loss)]) @ weight
        place = (prediction * BINS).long().clamp(max=BINS - 1) + BINS * label.long()
        self._bins.view(-1).index_add_(0, place, weight)

    def add(self, other: "RunningMetrics") -> None:
        """Add another's sums, e.g. a window's to the lifetime's."""
        self._sums += other._sums
        self._bins += other._bins

    def state(self) -> torch.Tensor:
        """The sums over all ranks, float64 [4 + 2 * 4096], for a checkpoint; a collective call."""
        total = torch.cat([self._sums, self._bins.flatten()])
        if dist.is_initialized():
            dist.all_reduce(total)
        return total

    def load(self, state: torch.Tensor) -> None:
        """Take up a saved state: rank 0 holds the sums of all, the others start from zero."""
        mine = state if not dist.is_initialized() or dist.get_rank() == 0 else torch.zeros_like(state)
        self._sums, self._bins = mine[:4].clone(), mine[4:].reshape(2, BINS).clone()

    def compute(self) -> Metrics:
        """Metrics over all ranks; a collective call. The AUC is exact up to ties within a bin of width 1/4096."""
        total = self.state().cpu().numpy()
        loss, labels, predictions, count = (float(value) for value in total[:4])
        negatives, positives = total[4:].reshape(2, BINS)
        below = np.cumsum(negatives) - negatives
        pairs = positives.sum() * negatives.sum()
        auc = float((positives * (below + negatives / 2)).sum() / pairs) if pairs else np.nan
        return Metrics(_ratio(loss, count * _entropy(labels, count)), auc, _ratio(predictions, labels))


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
