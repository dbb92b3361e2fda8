"""The reader: any range of rows as the file has it, row groups decoded once and ahead of need, damage told where it is."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.dataset import Dataset, DatasetWriter, open_dataset
from features.errors import InputError
from features.reader import BatchPlan, RowReader

ROWS, GROUP = 1000, 64
SCHEMA = pa.schema([pa.field("row", pa.int64()), pa.field("items", pa.list_(pa.int64())), pa.field("unread", pa.string())])
COLUMNS = ["row", "items"]


class Recording(RowReader):
    """Keeps the numbers of the row groups in the order in which they were decoded."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset, COLUMNS)
        self.decoded: list[int] = []

    def _decode(self, number: int) -> pa.Table:
        self.decoded.append(number)
        return super()._decode(number)

    def finished(self) -> list[int]:
        """`decoded`, once the thread has done all it was asked for."""
        self._decoder.submit(lambda: None).result()
        return self.decoded


@pytest.fixture(scope="module")
def table() -> pa.Table:
    items = [list(range(row % 5)) for row in range(ROWS)]
    return pa.table({"row": np.arange(ROWS), "items": items, "unread": ["x"] * ROWS}, schema=SCHEMA)


@pytest.fixture(scope="module")
def dataset(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three files, whose last row groups are short."""
    path = tmp_path_factory.mktemp("reader") / "rows"
    with DatasetWriter(path, SCHEMA, {}, rows_per_file=400, rows_per_group=GROUP) as writer:
        writer.write(table)
    return open_dataset(path)


@given(st.lists(st.tuples(st.integers(0, ROWS), st.integers(0, 300)), max_size=12))
def test_any_ranges_in_any_order(table: pa.Table, dataset: Dataset, ranges: list[tuple[int, int]]) -> None:
    reader = RowReader(dataset, COLUMNS)
    for start, length in ranges:
        rows = reader.read(start, min(start + length, ROWS))
        assert rows.equals(table.select(COLUMNS).slice(start, length))
        assert all(column.num_chunks == 1 for column in rows.columns)


@pytest.mark.parametrize(("batch", "world"), [(8, 1), (16, 2), (50, 2), (96, 4), (256, 4), (512, 2)])
def test_a_pass_decodes_each_row_group_once_and_no_other(dataset: Dataset, batch: int, world: int) -> None:
    starts = np.concatenate([[0], np.cumsum(group_sizes(dataset))])
    for rank in range(world):
        reader, plan = Recording(dataset), BatchPlan(0, ROWS, batch, world, rank)
        ranges = [plan.rank_rows(step) for step in range(plan.steps)]
        for start, stop in ranges:
            assert reader.read(start, stop)["row"].to_pylist() == list(range(start, stop))
        needed = {
            group
            for start, stop in ranges
            if stop > start
            for group in range(len(starts) - 1)
            if starts[group] < stop and start < starts[group + 1]
        }
        assert len(reader.finished()) == len(set(reader.decoded))
        assert needed <= set(reader.decoded) <= needed | {len(starts) - 2}  # an empty slice at the end is cut from the last one


def test_the_next_row_group_is_decoded_before_it_is_asked_for(dataset: Dataset) -> None:
    reader = Recording(dataset)
    for start in (0, 16, 32):
        reader.read(start, start + 16)
    assert reader.finished() == [0, 1]
    strided = Recording(dataset)
    for start in (0, 130, 260):  # groups 0, 2 and 4 of 64 rows, so that 390 in group 6 comes next
        strided.read(start, start + 4)
    assert strided.finished() == [0, 2, 4, 6]


def test_uneven_ranges_decode_nothing_ahead(dataset: Dataset) -> None:
    reader = Recording(dataset)
    for start in (0, 70, 300, 330, 900):
        reader.read(start, start + 4)
    assert reader.finished() == [0, 1, 4, 5, 15]


def test_a_pass_keeps_few_row_groups(dataset: Dataset) -> None:
    reader = RowReader(dataset, COLUMNS)
    for start in range(0, ROWS, 20):
        reader.read(start, start + 20)
        assert len(reader._tables) <= 4  # two that a range may straddle, and the next two


def test_damage_ahead_is_told_when_it_is_reached(table: pa.Table, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "rows", SCHEMA, {}, rows_per_file=GROUP, rows_per_group=GROUP) as writer:
        writer.write(table)
    dataset = open_dataset(tmp_path / "rows")
    file = Path(dataset.part(1).path)
    content = bytearray(file.read_bytes())
    content[pq.ParquetFile(file).metadata.row_group(0).column(0).dictionary_page_offset] ^= 1
    file.write_bytes(content)
    reader = RowReader(dataset, COLUMNS)
    for start in (0, 16, 32, 48):
        assert reader.read(start, start + 16).num_rows == 16
    with pytest.raises(InputError, match=f"{file.name}: sha256 differs"):
        reader.read(64, 80)


def group_sizes(dataset: Dataset) -> list[int]:
    """Rows of each row group, over all files."""
    files = [pq.ParquetFile(Path(dataset.part(index).path)).metadata for index in range(len(dataset.files))]
    return [metadata.row_group(group).num_rows for metadata in files for group in range(metadata.num_row_groups)]
