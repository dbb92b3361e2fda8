"""Content vectors read from Parquet as a quantizer's training needs them, in memory that does not grow with the number of items."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.dataset import Dataset
from features.errors import InputError
from features.reader import RowReader
from features.schema import require
from models.quantizers.collectives import rank, share, world
from models.quantizers.vectors import BLOCK_ROWS, permutation, sampled_rows

WINDOW_ROWS = 1 << 17


class ContentVectors:
    """The vectors of a content data set; `models.quantizers.vectors.Vectors` says what is read.

    An epoch's order: blocks of `BLOCK_ROWS` rows, in an order drawn anew for each epoch, are put together to windows of `window_rows` rows,
    and the rows of each window are shuffled; content of up to a window is shuffled as a whole, just as a tensor is. All ranks decode all
    blocks, but each keeps its own rows alone: W ranks hold window_rows / W + batch rows each, and the row groups of the block being read
    and of the next one. With 131,072 rows of width 384 that is 200 MB in all.

    Args:
        dataset: has the column `vector`, fixed_size_list<float32>[D], as the embed stage writes it.
        window_rows: rows shuffled together, a multiple of `BLOCK_ROWS`.

    Raises:
        InputError: if the column is missing or of another type.
    """

    def __init__(self, dataset: Dataset, window_rows: int = WINDOW_ROWS) -> None:
        kind = dataset.schema.field("vector").type if "vector" in dataset.schema.names else None
        dim = kind.list_size if kind is not None and pa.types.is_fixed_size_list(kind) else 1
        require(dataset.schema, pa.schema([("vector", pa.list_(pa.float32(), dim))]), str(dataset.path))
        if dataset.rows == 0:
            raise InputError(f"{dataset.path}: no item has a vector")
        self._path, self._reader = dataset.path, RowReader(dataset, ["vector"])
        self.rows, self.dim = dataset.rows, dim
        self._window_blocks = window_rows // BLOCK_ROWS

    def batches(self, epoch: int, seed: int, global_batch: int, first_step: int = 0) -> Iterator[Tensor]:
        """As `Vectors.batches`. Raises InputError naming data set and row, where a vector is not finite, or file and row group."""
        blocks = permutation(-(-self.rows // BLOCK_ROWS), seed, epoch)
        step, place, held = first_step, 0, np.empty((0, self.dim), np.float32)
        for number, first in enumerate(range(0, len(blocks), self._window_blocks)):
            window = np.sort(blocks[first : first + self._window_blocks])
            starts = window * BLOCK_ROWS
            sizes = np.minimum(starts + BLOCK_ROWS, self.rows) - starts
            begin, place = place, place + int(sizes.sum())
            if place <= first_step * global_batch:
                continue
            order = permutation(place - begin, seed, epoch, number)[self._mine(np.arange(begin, place), global_batch, first_step)]
            held = np.concatenate([held, self._gather(order, starts, sizes)])
            while step * global_batch < self.rows and min((step + 1) * global_batch, self.rows) <= place:
                here = share(min(global_batch, self.rows - step * global_batch))
                yield torch.from_numpy(held[: here.stop - here.start])
                held, step = held[here.stop - here.start :], step + 1

    def blocks(self) -> Iterator[Tensor]:
        """As `Vectors.blocks`."""
        for start in range(0, self.rows, BLOCK_ROWS):
            block = self._read(start, min(start + BLOCK_ROWS, self.rows))
            yield torch.from_numpy(block[share(len(block))].copy())

    def sample(self, count: int, seed: int) -> Tensor:
        """As `Vectors.sample`."""
        rows = sampled_rows(self.rows, count, seed)
        starts = np.arange(0, self.rows, BLOCK_ROWS)
        return torch.from_numpy(self._gather(rows, starts, np.minimum(starts + BLOCK_ROWS, self.rows) - starts))

    def _mine(self, places: NDArray[np.int64], global_batch: int, first_step: int) -> NDArray[np.bool_]:
        """Which places in the epoch's order are this rank's."""
        steps, inside = np.divmod(places, global_batch)
        counts = np.minimum(global_batch, self.rows - steps * global_batch)
        mine: NDArray[np.bool_] = (inside >= counts * rank() // world()) & (inside < counts * (rank() + 1) // world())
        return mine & (steps >= first_step)

    def _gather(self, wanted: NDArray[np.int64], starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows given by their numbers among those of some blocks, in the order wanted; each block is decoded once, if at all."""
        out = np.empty((len(wanted), self.dim), np.float32)
        by_row = np.argsort(wanted, kind="stable")
        ends = np.cumsum(sizes)
        cuts = np.searchsorted(wanted[by_row], np.concatenate([[0], ends]))
        for index, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
            chosen = by_row[cuts[index] : cuts[index + 1]]
            if len(chosen):
                out[chosen] = self._read(start, start + size)[wanted[chosen] - (ends[index] - size)]
        return out

    def _read(self, start: int, stop: int) -> NDArray[np.float32]:
        column = self._reader.read(start, stop).column("vector").combine_chunks()
        vectors: NDArray[np.float32] = column.fill_null(column.type.list_size * [np.nan]).flatten().to_numpy(zero_copy_only=False)
        vectors = vectors.reshape(stop - start, self.dim)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise InputError(f"{self._path}: row {start + int(np.argmin(finite))} has no finite vector")
        return vectors
