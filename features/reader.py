"""Ordered, resumable Parquet reading: rows by number, and the plan that gives every rank its slice of each global batch."""

import bisect
import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from features.dataset import Dataset, read_row_group


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

    Ranges that were asked for at even distances will be so again: a thread decodes the row groups which come next. pyarrow holds no lock
    of the interpreter meanwhile, so that this costs the step nothing where a core is free or a rank waits for others.

    Only whole row groups can be decoded. Where they are no larger than a rank's batch, W ranks share the decoding; where they are larger,
    several ranks decode the same ones. The data sets written here have 8192 rows each.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str]) -> None:
        self.dataset, self.columns = dataset, list(columns)
        self._files: dict[int, pq.ParquetFile] = {}
        self._decoder = ThreadPoolExecutor(1)  # one thread, since a file must not be read by two
        self._tables: OrderedDict[int, Future[pa.Table]] = OrderedDict()  # by group number, decoded or being decoded
        self._latest, self._distance = 0, 0  # first row of the latest range, and how far it was from the one before
        sizes: list[int] = []
        self._places: list[tuple[int, int]] = []  # group number -> (file index, row group in that file)
        for index in range(len(dataset.files)):
            rows = dataset.row_groups(index)
            sizes += rows
            self._places += [(index, group) for group in range(len(rows))]
        self._starts = [0, *itertools.accumulate(sizes)]

    @property
    def rows(self) -> int:
        """Number of rows of the data set."""
        return self._starts[-1]

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows [start, stop) in order, every column in one chunk: a view of one row group, or a copy where they lie in several.

        Raises:
            InputError: naming file and row group where one is damaged.
        """
        groups = self._touched(start, stop)
        tables = [self._table(number) for number in groups]
        following = self._touched(*self._next_range(start, stop, groups))
        for number in following:
            self._table(number)
        while len(self._tables) > len(groups) + len(following):  # those of both are the latest, moved to the end
            self._tables.popitem(last=False)
        parts = []
        for number, table in zip(groups, tables, strict=True):
            first = max(start - self._starts[number], 0)
            parts.append(table.result().slice(first, stop - self._starts[number] - first))
        return parts[0] if len(parts) == 1 else pa.concat_tables(parts).combine_chunks()

    def _touched(self, start: int, stop: int) -> range:
        """Numbers of the row groups that hold a range; the last one for an empty range at the very end."""
        last_group = len(self._places) - 1
        first, last = (min(bisect.bisect_right(self._starts, row) - 1, last_group) for row in (start, max(stop - 1, start)))
        return range(first, last + 1)

    def _next_range(self, start: int, stop: int, groups: range) -> tuple[int, int]:
        """The first range beyond `groups` if ranges go on at the distance of the latest three; this one where they do not."""
        distance, before = start - self._latest, self._distance
        self._latest, self._distance = start, distance
        if distance <= 0 or distance != before:
            return start, stop
        following = start + -(-(self._starts[groups.stop] - start) // distance) * distance
        return (following, following + stop - start) if following < self.rows else (start, stop)

    def _table(self, number: int) -> "Future[pa.Table]":
        if number not in self._tables:
            self._tables[number] = self._decoder.submit(self._decode, number)
        self._tables.move_to_end(number)
        return self._tables[number]

    def _decode(self, number: int) -> pa.Table:
        index, group = self._places[number]
        return read_row_group(self._open(index), self.dataset.part(index), group, self.columns)

    def _open(self, index: int) -> pq.ParquetFile:
        if index not in self._files:
            self._files[index] = self.dataset.open_part(index)
        return self._files[index]
