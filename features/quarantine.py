"""The quarantine of rejected rows, and the column tests that tell which rows those are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

QUARANTINE = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),  # counted from 1; in text files the line's number
        pa.field("reason", pa.string(), nullable=False),
    ]
)


class Fault(NamedTuple):
    """Rows [N] that are at fault, and why."""

    rows: Mask
    reason: str


@dataclass
class FileCounts:
    """Rows of one file; accepted + quarantined = read."""

    read: int = 0
    accepted: int = 0
    quarantined: int = 0


@dataclass
class Quarantine:
    """Collects rejected rows with file, row number and the first reason that applied."""

    counts: dict[str, FileCounts] = field(default_factory=dict)
    _rejected: list[pa.Table] = field(default_factory=list)

    def keep(self, table: pa.Table, *, file: str, rows: Int64, faults: Sequence[Fault]) -> pa.Table:
        """The rows of `table` without a fault; the others go to the quarantine. Each row of a file passes here or `reject` once.

        Args:
            table: rows [N] just read.
            file: the file's name.
            rows: int64 [N], their numbers in the file, counted from 1.
            faults: masks [N] and reasons; the first that applies to a row is the one reported.
        """
        which = np.argmax([*(fault.rows for fault in faults), np.ones(table.num_rows, bool)], axis=0)
        bad = which < len(faults)
        self._add(file, rows[bad], pa.array([fault.reason for fault in faults], pa.string()).take(pa.array(which[bad])))
        counts = self.counts[file]
        counts.read += table.num_rows
        counts.accepted += table.num_rows - int(bad.sum())
        return table.filter(pa.array(~bad))

    def reject(self, file: str, rows: Int64, reason: str) -> None:
        """Quarantine rows that could not even be split into columns."""
        self._add(file, rows, pa.array([reason] * len(rows), pa.string()))
        self.counts[file].read += len(rows)

    def table(self) -> pa.Table:
        """All rejected rows, in the order in which they were met."""
        return pa.concat_tables([QUARANTINE.empty_table(), *self._rejected])

    def counts_json(self) -> dict[str, dict[str, int]]:
        """Rows read, accepted and quarantined per file, for a data set's metadata."""
        return {file: asdict(counts) for file, counts in self.counts.items()}

    def _add(self, file: str, rows: Int64, reasons: pa.Array) -> None:
        self.counts.setdefault(file, FileCounts()).quarantined += len(rows)
        if len(rows):
            self._rejected.append(pa.table([pa.array([file] * len(rows), pa.string()), rows, reasons], schema=QUARANTINE))


def row_numbers(count: int, first: int = 1) -> Int64:
    """Numbers of consecutive rows, int64 [count]."""
    return np.arange(first, first + count, dtype=np.int64)


def is_null(column: pa.ChunkedArray) -> Mask:
    """Where a column is null, bool [N]."""
    return column.is_null().to_numpy()


def is_not_utf8(column: pa.ChunkedArray) -> Mask:
    """Where a column of strings has bytes that are no text, bool [N]."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:  # which names no row
        return np.array([value is not None and not _is_utf8(value) for value in column.cast(pa.binary()).to_pylist()], bool)
    return np.zeros(len(column), bool)


def is_repeated(column: pa.Array | pa.ChunkedArray) -> Mask:
    """Where a value was met further up, bool [N]."""
    places = pc.index_in(column, value_set=pc.unique(column)).to_numpy()
    repeated = np.ones(len(places), bool)
    repeated[np.unique(places, return_index=True)[1]] = False
    return repeated


def is_empty(column: pa.ChunkedArray) -> Mask:
    """Where a column of strings is null or blank, bool [N]."""
    return pc.equal(pc.utf8_trim_whitespace(pc.fill_null(column, "")), "").to_numpy()


def numbers(column: pa.ChunkedArray, missing: float = 0) -> npt.NDArray[Any]:
    """A numeric or timestamp column as NumPy [N]; timestamps as int64 in their unit, nulls as `missing`."""
    column = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    return pc.fill_null(column, pa.scalar(missing, column.type)).to_numpy()


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
