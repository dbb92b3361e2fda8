"""Where a quantizer's training takes its content vectors from: the interface, the order of an epoch, and the vectors that are a tensor."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.quantizers.collectives import share

BLOCK_ROWS = 8192  # rows that are read, encoded or measured at once


class Vectors(Protocol):
    """Content vectors float32, N rows of width D, on the CPU; finite, not standardised.

    All that it gives is a function of the data and the arguments, whatever the number of ranks: the ranks' shares of a batch (see
    `collectives.share`), one after the other, are the batch of one rank.
    """

    @property
    def rows(self) -> int:
        """N."""

    @property
    def dim(self) -> int:
        """D."""

    def batches(self, epoch: int, seed: int, global_batch: int, first_step: int = 0) -> Iterator[Tensor]:
        """This rank's shares of the epoch's global batches, each row once, in an order drawn from (seed, epoch); the last may be short.

        Args:
            epoch: number of the pass over the rows.
            seed: of the order.
            global_batch: G, rows per step over all ranks.
            first_step: where to begin.
        """

    def blocks(self) -> Iterator[Tensor]:
        """This rank's shares of all rows in row order, a block of `BLOCK_ROWS` over all ranks at a time."""

    def sample(self, count: int, seed: int) -> Tensor:
        """min(count, N) rows drawn uniformly without replacement, in row order; the same on all ranks."""


class TensorVectors:
    """Content vectors in memory, [N, D]."""

    def __init__(self, x_ND: Tensor) -> None:
        self._x_ND = x_ND
        self.rows, self.dim = x_ND.shape

    def batches(self, epoch: int, seed: int, global_batch: int, first_step: int = 0) -> Iterator[Tensor]:
        """As `Vectors.batches`: the rows in the order of one permutation."""
        order_N = torch.from_numpy(permutation(self.rows, seed, epoch, 0))
        for first in range(first_step * global_batch, self.rows, global_batch):
            batch = order_N[first : first + global_batch]
            yield self._x_ND[batch[share(len(batch))]]

    def blocks(self) -> Iterator[Tensor]:
        """As `Vectors.blocks`."""
        for block in self._x_ND.split(BLOCK_ROWS):
            yield block[share(len(block))]

    def sample(self, count: int, seed: int) -> Tensor:
        """As `Vectors.sample`."""
        return self._x_ND[torch.from_numpy(sampled_rows(self.rows, count, seed))]


def as_vectors(content: Tensor | Vectors) -> Vectors:
    """`content`, a tensor [N, D] wrapped."""
    return TensorVectors(content) if isinstance(content, Tensor) else content


def permutation(count: int, *seed: int) -> NDArray[np.int64]:
    """0 .. count - 1 in an order drawn from the numbers `seed`."""
    return np.random.default_rng(seed).permutation(count)


def sampled_rows(rows: int, count: int, seed: int) -> NDArray[np.int64]:
    """min(count, rows) distinct row numbers drawn uniformly, ascending."""
    if count >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False, shuffle=False))
