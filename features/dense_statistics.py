"""Statistics of dense columns, measured once and stored, so that every day and the serving side normalise alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset, iter_row_groups


@dataclass(frozen=True)
class DenseStatistics:
    """Mean and standard deviation of a dense column's ln(1 + x), over the rows that it was measured on.

    Attributes:
        mean, std: of the logarithm; std is 1 for a column that never changes.
    """

    mean: float
    std: float

    def normalized(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """(ln(1 + x) - mean) / std of float32 [N], computed in float64."""
        return ((_log(values) - self.mean) / self.std).astype(np.float32)


def measure(impressions: Dataset, columns: Sequence[str]) -> dict[str, DenseStatistics]:
    """Statistics of dense columns over a whole data set, in one pass and row-group sized memory.

    Row groups are merged by Chan, Golub and LeVeque's formula, so that large means do not cancel the variance.

    Raises:
        InputError: naming file and row group where one is damaged.
    """
    count, mean, squares = 0, np.zeros(len(columns)), np.zeros(len(columns))
    for group in iter_row_groups(impressions, columns):
        if group.num_rows:
            values = np.stack([_log(group.column(name).to_numpy()) for name in columns])
            here = values.mean(axis=1)
            delta, total = here - mean, count + group.num_rows
            squares += ((values - here[:, None]) ** 2).sum(axis=1) + delta**2 * (count * group.num_rows / total)
            mean += delta * (group.num_rows / total)
            count = total
    std = np.sqrt(squares / max(count, 1))
    return {name: DenseStatistics(float(mean[i]), float(std[i]) or 1.0) for i, name in enumerate(columns)}


def _log(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.log1p(values.astype(np.float64))
