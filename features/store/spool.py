"""Arrays on disk that are larger than memory: records spooled by range, .npy files that grow, and reading them block by block."""

import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Spool:
    """Records in any order go in, and come back range by range, ranges ascending, with at most `memory_items` of them in memory.

    Each bufferful is written as one run, in the order of its records' ranges; where every range begins in every run is kept in memory.
    """

    def __init__(self, path: Path, record: np.dtype[Any], ranges: int, memory_items: int, range_of: Callable[[Array], Array]) -> None:
        """Start an empty spool.

        Args:
            path: where to make the file; its name goes at once, so that its space is free again whenever the process ends.
            record: the structured type of a record.
            ranges: how many ranges there are, at most 2^16.
            memory_items: records buffered, and records in a group.
            range_of: records [n] to the number of the range of each, integer [n] in [0, ranges).
        """
        self._ranges, self._memory_items, self._range_of = ranges, memory_items, range_of
        self._file = FileIO(path, "w+")
        path.unlink()
        self._buffer = np.empty(memory_items, record)
        self._buffered = 0
        self._runs: list[npt.NDArray[np.int64]] = []  # where each range begins, in records from the start of the file; and the run's end
        self._written = 0

    def add(self, records: Array) -> None:
        """Append records; they may be more than fit in memory at once."""
        start = 0
        while start < len(records):
            part = records[start : start + self._memory_items - self._buffered]
            self._buffer[self._buffered : self._buffered + len(part)] = part
            self._buffered += len(part)
            start += len(part)
            if self._buffered == self._memory_items:
                self._write_run()

    def groups(self) -> Iterator[Array]:
        """Everything that was added, as arrays of whole ranges, ascending; within a range, records stand in the order of `add`.

        A group has at most `memory_items` records, unless one range alone has more.
        """
        if self._buffered:
            self._write_run()
        record, self._buffer = self._buffer.dtype, self._buffer[:0].copy()
        begins = np.array(self._runs).reshape(len(self._runs), self._ranges + 1)
        before = (begins - begins[:, :1]).sum(axis=0)  # records in all lower ranges, over all runs
        first = 0
        while before[first] < before[-1]:
            end = max(int(np.searchsorted(before, before[first] + self._memory_items, side="right")) - 1, first + 1)
            group = np.empty(before[end] - before[first], record)
            filled = 0
            for begin, stop in begins[:, [first, end]].tolist():
                _read(self._file, begin * record.itemsize, group[filled : filled + stop - begin])
                filled += stop - begin
            if len(group):
                yield group
            first = end
        self.close()

    def close(self) -> None:
        """Give the file's space back."""
        self._file.close()

    def _write_run(self) -> None:
        records = self._buffer[: self._buffered]
        numbers = self._range_of(records).astype(np.uint16)  # for 16 bits NumPy's stable sort is a radix sort
        counts = np.bincount(numbers, minlength=self._ranges)
        append(self._file, records.take(np.argsort(numbers, kind="stable")))
        self._runs.append(self._written + np.concatenate([[0], np.cumsum(counts)]))
        self._written += self._buffered
        self._buffered = 0


class GrowingArray:
    """A .npy file of an array whose first dimension is not known beforehand; a context manager, which closes it durably."""

    def __init__(self, path: Path, dtype: np.dtype[Any], *row_shape: int) -> None:
        self._file, self._dtype, self._row_shape, self._rows = FileIO(path, "w"), dtype, row_shape, 0
        self._write_header()

    def __enter__(self) -> "GrowingArray":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._file.seek(0)
                self._write_header()
                os.fsync(self._file.fileno())

    def append(self, rows: Array) -> None:
        """Append rows, cast to the array's type."""
        append(self._file, rows.astype(self._dtype, copy=False))
        self._rows += len(rows)

    def _write_header(self) -> None:
        # NumPy pads the header so that its length stays when the first dimension gets more digits.
        shape = (self._rows, *self._row_shape)
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)


def append(file: FileIO, array: Array) -> None:
    """Write an array's bytes where the file stands. Unbuffered, so that a full disk is told here and not on closing."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    while data:
        data = data[file.write(data) :]


def blocks(path: Path, size: int) -> Iterator[Array]:
    """Read a .npy file `size` rows at a time, without mapping it: pages of a mapping would count as memory in use."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        begin = file.tell()
    row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
    with FileIO(path) as raw:
        for start in range(0, shape[0], size):
            rows = np.empty((min(size, shape[0] - start), *shape[1:]), dtype)
            _read(raw, begin + start * row_bytes, rows)
            yield rows


def _read(file: FileIO, begin: int, array: Array) -> None:
    """Fill an array with the file's bytes from `begin` on."""
    file.seek(begin)
    data = array.reshape(-1).view(np.uint8).data
    while data:
        count = file.readinto(data)
        if not count:
            raise OSError(f"{file.name} ends too early")
        data = data[count:]
