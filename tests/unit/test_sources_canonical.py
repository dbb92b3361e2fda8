"""A user's own log: structural faults name the file and the column, in one line."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from tests.unit.canonical_log import row, write
from tests.unit.ingesting import ingested


def change(path: Path, change: Any) -> None:
    pq.write_table(change(pq.read_table(path)), path)


STRUCTURAL = {
    r"impressions/0\.parquet: column 'user_id' \(int64\) is missing": (
        "impressions/0.parquet",
        lambda table: table.drop_columns("user_id"),
    ),
    r"impressions/0\.parquet: column 'label_like' is double, expected int8": (
        "impressions/0.parquet",
        lambda table: table.set_column(4, "label_like", pa.array([0.0] * len(table))),
    ),
    r"impressions/0\.parquet: column 'item_id' is string, expected int64": (
        "impressions/0.parquet",
        lambda table: table.set_column(2, "item_id", pa.array(["x"] * len(table))),
    ),
    r"impressions/1\.parquet: its columns differ from those of 0\.parquet": (
        "impressions/1.parquet",
        lambda table: table.drop_columns("context_tags"),
    ),
    r"items\.parquet: column 'item_id' \(int64\) is missing": ("items.parquet", lambda table: table.drop_columns("item_id")),
    r"items\.parquet: neither a column 'text' nor a vector_\* column": ("items.parquet", lambda table: table.drop_columns("text")),
    r"items\.parquet: column 'vector_x' is list<.*>, expected a fixed-size list of float": (
        "items.parquet",
        lambda table: table.append_column("vector_x", pa.array([[1.0]] * len(table))),
    ),
    r"no impression was accepted": ("impressions/0.parquet", lambda table: table.slice(0, 0)),
}


@pytest.mark.parametrize("message", STRUCTURAL)
def test_a_structural_fault_names_the_file_and_column(tmp_path: Path, message: str) -> None:
    raw = write(tmp_path / "raw", [row(), row(1)], rows_per_file=1)
    file, fault = STRUCTURAL[message]
    if message == "no impression was accepted":
        (raw / "impressions" / "1.parquet").unlink()
    change(raw / file, fault)
    with pytest.raises(InputError, match=message):
        ingested(raw, "canonical")


def test_an_empty_a_truncated_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", [row(minute, user_id=minute) for minute in range(1000)])
    path = raw / "impressions" / "0.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"0\.parquet: not a readable Parquet file"):
        ingested(raw, "canonical")
    table = pq.read_table(pa.BufferReader(whole))
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    damaged = bytearray(path.read_bytes())
    damaged[2000] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"0\.parquet: row group 0 cannot be read"):
        ingested(raw, "canonical")
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"0\.parquet: the file is empty"):
        ingested(raw, "canonical")
    path.unlink()
    with pytest.raises(InputError, match=r"neither impressions\*\.parquet nor a folder 'impressions'"):
        ingested(raw, "canonical")
