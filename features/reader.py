"""Ordered, resumable Parquet reading: rows by number, and the plan that gives every rank its slice of each global batch."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.dataset import Dataset, open_parquet, read_row_group

CACHED_GROUPS = 3  # the group being read, the next one, and one that a batch straddles


@dataclass(frozen=True)
class BatchPlan:
    """Which rows each step trains on; a function of the data and the global batch alone, whatever the number of ranks.

    Step s covers rows [start + s*G, start + (s+1)*G) in time order, G the global batch, cut off at `stop`; rank r takes the r-th of
    W equal slices. Every row is in exactly one slice, all ranks have the same number of steps, and a position in the epoch is one number.

    Attributes:
        start, stop: row numbers.
        global_batch: G, examples over all ranks; a multiple of `world`.
        world, rank: W ranks, and which one this is.
    """

    start: int
    stop: int
    global_batch: int
    world: int = 1
    rank: int = 0

    @property
    def steps(self) -> int:
        """Number of steps; the last one may be short, and its missing examples are padding of weight 0."""
        return -(-(self.stop - self.start) // self.global_batch)

    @property
    def local_batch(self) -> int:
        """B = G / W, examples per rank and step, padding included."""
        return self.global_batch // self.world

    def step_rows(self, step: int) -> tuple[int, int]:
        """First and past-the-last row of a step over all ranks."""
        first = self.start + step * self.global_batch
        return first, min(first + self.global_batch, self.stop)

    def rank_rows(self, step: int) -> tuple[int, int]:
        """First and past-the-last row of this rank's slice; equal where the slice is all padding."""
        first, stop = self.step_rows(step)
        mine = min(first + self.rank * self.local_batch, stop)
        return mine, min(mine + self.local_batch, stop)

    def fingerprint(self, dataset: Dataset) -> str:
        """Identifies (data, order, batch): a position is valid only under the same one. The stop is left out, so that a stream may grow."""
        return hashlib.sha256(f"{dataset.fingerprint} {self.start} {self.global_batch}".encode()).hexdigest()


class RowReader:
    """Reads any range of rows of a data set, decoding only the row groups that it touches and keeping the latest few.

    Row groups no larger than a rank's batch let W ranks share the decoding; the data sets written here have 8192 rows each.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str]) -> None:
        self.dataset, self.columns = dataset, list(columns)
        self._files: dict[int, pq.ParquetFile] = {}
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        sizes: list[int] = []
        self._places: list[tuple[int, int]] = []  # group number -> (file index, row group in that file)
        for index in range(len(dataset.files)):
            metadata = self._open(index).metadata
            for group in range(metadata.num_row_groups):
                sizes.append(metadata.row_group(group).num_rows)
                self._places.append((index, group))
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    @property
    def rows(self) -> int:
        """Number of rows of the data set."""
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows [start, stop) in order. Raises InputError naming file and row group where one is damaged."""
        touched = np.searchsorted(self._starts, [start, max(stop - 1, start)], side="right") - 1
        first, last = np.minimum(touched, len(self._places) - 1)  # an empty range at the very end touches no group
        parts = []
        for number in range(first, last + 1):
            base = int(self._starts[number])
            parts.append(self._group(number).slice(max(start - base, 0), stop - max(start, base)))
        return pa.concat_tables(parts).combine_chunks()

    def _group(self, number: int) -> pa.Table:
        if number not in self._cache:
            index, group = self._places[number]
            self._cache[number] = read_row_group(self._open(index), self.dataset.file_path(index), group, self.columns)
            if len(self._cache) > CACHED_GROUPS:
                self._cache.popitem(last=False)
        return self._cache[number]

    def _open(self, index: int) -> pq.ParquetFile:
        if index not in self._files:
            self._files[index] = open_parquet(self.dataset.file_path(index))
        return self._files[index]
