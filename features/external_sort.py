"""Sorting tables that are larger than memory: sorted runs on disk, merged range of keys by range of keys."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.errors import InputError
from features.quarantine import is_null

Keys = npt.NDArray[Any]  # records with one int64 field per key column: NumPy compares them field by field
Int64 = npt.NDArray[np.int64]


def sort_by(tables: Iterable[pa.Table], by: Sequence[str], folder: Path, *, rows_in_memory: int) -> Iterator[pa.Table]:
    """Sort a stream of tables, ascending and stable; an external merge sort (Knuth, The Art of Computer Programming 3, section 5.4).

    Memory: M = `rows_in_memory`. A run is gathered from the input and sorted as a copy, so it has M/2 rows; a range of the merge has at
    most M/2 as well, and leaves in tables of M/16. At most 1.125 M rows are held at once, beside the input's latest table and the keys
    of the samples; the rows of a range, while they are mapped from their file and copied, count as held. This is so however often keys
    repeat, for up to M^2/4 rows; with more, a range has as many rows as there are runs.

    Args:
        tables: of one schema, any number of rows each; consumed when the first table is asked for.
        by: key columns, the first weighs most; int64 or timestamp, without nulls.
        folder: an existing folder with room for all rows, uncompressed. They lie in a folder in it that goes away with the last table,
            on an error, and when the iterator is closed.
        rows_in_memory: M, at least 1.

    Yields:
        The rows in order, in tables of the input's schema and at most M/16 rows (rounded up). Equal keys keep their order.

    Raises:
        InputError: no such folder; tables of different columns; a key column is missing, of another type, or null (naming the row).
    """
    if rows_in_memory < 1 or not by:
        raise InputError(f"sorting needs at least one row in memory and one key column, not {rows_in_memory} and {list(by)}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder to sort in")
    run_rows, table_rows = max(rows_in_memory // 2, 1), -(-rows_in_memory // 16)
    with TemporaryDirectory(prefix="sort-", dir=folder) as spill:
        runs = _spilled(_gathered(_checked(tables, by), run_rows), by, Path(spill) / "runs.arrow", table_rows)
        for begins, ends in pairwise(_ranges(runs, by, run_rows) if runs.sizes else ()):
            yield from _in_order(runs.read(begins, ends), by, table_rows)


def _checked(tables: Iterable[pa.Table], by: Sequence[str]) -> Iterator[pa.Table]:
    """The tables with rows, of which there may be none."""
    schema, rows = None, 0
    for table in tables:
        schema = table.schema if schema is None else schema
        if not table.schema.equals(schema):
            raise InputError(f"sorting: from row {rows + 1} on, columns differ from those before: {_one_line(table.schema)}")
        for name in by:
            if name not in schema.names or not (schema.field(name).type == pa.int64() or pa.types.is_timestamp(schema.field(name).type)):
                raise InputError(f"sorting: '{name}' is no int64 or timestamp column of {_one_line(schema)}")
            if table[name].null_count:
                raise InputError(f"sorting: '{name}' is null in row {rows + 1 + int(is_null(table[name]).argmax())}")
        rows += table.num_rows
        if table.num_rows:
            yield table


def _one_line(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _gathered(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows each, but for the last."""
    gathered: list[pa.Table] = []
    missing = rows
    for table in tables:
        while table.num_rows >= missing:
            yield pa.concat_tables([*gathered, table.slice(0, missing)])
            gathered, table, missing = [], table.slice(missing), rows
        gathered.append(table)
        missing -= table.num_rows
    if missing < rows:
        yield pa.concat_tables(gathered)


def _in_order(rows: pa.Table, by: Sequence[str], table_rows: int) -> Iterator[pa.Table]:
    """Sort in memory; a copy of all rows, and one table of `table_rows` after the other."""
    rows = rows.combine_chunks()  # or each `take` would
    keys = _keys(rows, by)
    order = np.lexsort([keys[name] for name in reversed(by)])
    for start in range(0, len(order), table_rows):
        taken = rows.take(pa.array(order[start : start + table_rows]))
        yield taken.combine_chunks()  # where a column's text was too long for one chunk, it may not be any more


def _spilled(unsorted: Iterator[pa.Table], by: Sequence[str], path: Path, batch_rows: int) -> "_Runs":
    """Sort each table and write it as a run."""
    sizes: list[int] = []
    with ExitStack() as stack:
        for rows in unsorted:
            if not sizes:
                sink = stack.enter_context(pa.OSFile(str(path), "wb"))
                writer = stack.enter_context(pa.ipc.new_file(sink, rows.schema))
            for table in _in_order(rows, by, batch_rows):
                writer.write_table(table)
            sizes.append(rows.num_rows)
    return _Runs(path, sizes, batch_rows)


@dataclass(frozen=True)
class _Runs:
    """Sorted runs, one after the other in a file; all but the last are of one size, and so are the batches of a run.

    The file is mapped anew for each reading, because what was read stays resident for as long as the mapping.
    """

    path: Path
    sizes: list[int]  # [R], rows
    batch_rows: int

    def read(self, begins: Int64, ends: Int64) -> pa.Table:
        """Rows begins[r] to ends[r] of every run r, one run after the other; their bytes are not read yet."""
        batches_per_run = -(-self.sizes[0] // self.batch_rows)
        batches = []
        with pa.memory_map(str(self.path)) as source:  # tables keep the mapping after it is closed
            file = pa.ipc.open_file(source)
            for run, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
                for number in range(begin // self.batch_rows, -(-end // self.batch_rows)):
                    first = max(begin - number * self.batch_rows, 0)
                    batch = file.get_batch(run * batches_per_run + number)
                    batches.append(batch.slice(first, end - number * self.batch_rows - first))
            return pa.Table.from_batches(batches, file.schema)

    def keys(self, run: int, by: Sequence[str]) -> Keys:
        """Keys of a whole run."""
        ends = np.where(np.arange(len(self.sizes)) == run, self.sizes, 0)
        return _keys(self.read(np.zeros_like(ends), ends), by)


def _keys(rows: pa.Table, by: Sequence[str]) -> Keys:
    keys = np.empty(rows.num_rows, [(name, np.int64) for name in by])
    for name in by:
        keys[name] = rows[name].cast(pa.int64()).to_numpy()
    return keys


def _ranges(runs: _Runs, by: Sequence[str], rows: int) -> Int64:
    """Where to cut R runs so that each range has at most max(rows, R) rows and comes before the next one, ties included.

    The stable order is that of (key, run, position in the run), in which no two rows are equal. Every s-th row of every run is a sample,
    and every R-th sample a cut: the last row of its range. Between two cuts a run that has k of the R samples has less than (k + 1) s
    rows, so that all have less than 2 R s; with s = rows / 2R that is `rows`, and with s = 1 all rows are samples.

        run 0:  1 3 3 3    s = 2: samples 3 3 (run 0), 3 5 (run 1); in order 3₀ 3₀ 3₁ 5₁
        run 1:  2 3 4 5    R = 2: cuts 3₀ (the second) and 5₁       bounds [0 0], [4 1], [4 4], [4 4]

    Returns:
        int64 [ranges + 1, R], how many rows of each run lie before each range.
    """
    count = len(runs.sizes)
    every = max(rows // (2 * count), 1)
    samples = [runs.keys(run, by)[every - 1 :: every].copy() for run in range(count)]
    owners = np.repeat(np.arange(count), [len(sample) for sample in samples])
    positions = np.concatenate([every * np.arange(1, len(sample) + 1) for sample in samples])
    together = np.concatenate(samples)
    cuts = np.argsort(together, kind="stable")[count - 1 :: count]
    bounds = np.zeros((len(cuts) + 2, count), np.int64)
    for run, size in enumerate(runs.sizes):
        keys = runs.keys(run, by)
        below, not_above = (np.searchsorted(keys, together[cuts], side) for side in ("left", "right"))
        bounds[1:-1, run] = np.select([owners[cuts] > run, owners[cuts] == run], [not_above, positions[cuts]], below)
        bounds[-1, run] = size
    return bounds
