"""A small log in canonical columns, whose rows a test may spoil one value at a time."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.schema import TIMESTAMP

NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)
SCHEMA = pa.schema(
    {
        "timestamp": TIMESTAMP,
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "label_click": pa.int8(),
        "label_like": pa.int8(),
        "dense_past_count": pa.float32(),
        "dense_age_hours": pa.float32(),
        "history_item_ids": pa.list_(pa.int64()),
        "history_timestamps": pa.list_(TIMESTAMP),
        "context_tags": pa.list_(pa.int64()),
    }
)


def row(minute: int = 0, **changes: Any) -> dict[str, Any]:
    values = {
        "timestamp": NOON + timedelta(minutes=minute),
        "user_id": 1,
        "item_id": 10,
        "label_click": 1,
        "label_like": 0,
        "dense_past_count": 0.0,
        "dense_age_hours": 1.0,
        "history_item_ids": [10, 99],
        "history_timestamps": [NOON - timedelta(hours=1), NOON - timedelta(hours=2)],
        "context_tags": [],
    }
    return values | changes


def write(
    folder: Path, rows: list[Any], items: tuple[int, ...] = (10, 11), *, rows_per_file: int = 1000, row_group_size: int | None = None
) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "impressions").mkdir(parents=True)
    pq.write_table(pa.table({"item_id": pa.array(items, pa.int64()), "text": ["a text"] * len(items)}), folder / "items.parquet")
    for index, start in enumerate(range(0, max(1, len(rows)), rows_per_file)):
        table = pa.Table.from_pylist(rows[start : start + rows_per_file], schema=SCHEMA)
        pq.write_table(table, folder / "impressions" / f"{index}.parquet", row_group_size=row_group_size)
    return folder
