"""An event log in any order becomes impressions: every column against a row-by-row reading of the past, however little memory there is."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from features.schema import TIMESTAMP
from tests.unit.ingesting import ingested

ITEMS = 12
SCHEMA = pa.schema(
    {
        "user_id": pa.int64(),
        "item_id": pa.int64(),
        "timestamp": TIMESTAMP,
        "label_click": pa.int8(),
        "label_like": pa.int8(),
        "context_country": pa.int64(),
        "unused": pa.string(),
    }
)
SECOND = 1_000_000


def log(folder: Path, rows: int = 500, files: int = 3, spoil: dict[int, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Write items and events with many ties in time; returns the events with their timestamps in microseconds, in the files' order."""
    draw = np.random.default_rng(rows)
    events = [
        {
            "user_id": int(draw.integers(5)),
            "item_id": int(draw.integers(ITEMS)),
            "timestamp": int(draw.integers(120)) * 10 * SECOND,
            "label_click": int(draw.integers(2)),
            "label_like": int(draw.integers(2)),
            "context_country": int(draw.integers(3)),
            "unused": "x",
        }
        for _ in range(rows)
    ]
    written = [event | (spoil or {}).get(index, {}) for index, event in enumerate(events)]
    (folder / "events").mkdir(parents=True)
    created = [None if item % 2 else item * 40 * SECOND for item in range(ITEMS)]
    items = {
        "item_id": pa.array(range(ITEMS), pa.int64()),
        "text": ["text"] * ITEMS,
        "created_at": pa.array(created, pa.int64()).cast(TIMESTAMP),
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    step = -(-rows // files)
    for index in range(files):
        part = written[index * step : (index + 1) * step]
        columns = [
            pa.array([event[name] for event in part], pa.int64() if name == "timestamp" else SCHEMA.field(name).type)
            for name in SCHEMA.names
        ]
        columns[2] = columns[2].cast(TIMESTAMP)
        pq.write_table(pa.table(columns, schema=SCHEMA), folder / "events" / f"{index}.parquet", row_group_size=70)
    return events


def expected(events: list[dict[str, Any]], length: int, delay: int) -> list[dict[str, Any]]:
    """Impressions in time order, of each row from what lies before it."""
    ordered = sorted(events, key=lambda event: (event["user_id"], event["timestamp"]))  # stable, as histories are made
    made = []
    for event in ordered:
        mine = [each for each in ordered if each["user_id"] == event["user_id"] and each["label_click"]]
        known = [each for each in mine if each["timestamp"] + delay < event["timestamp"]][::-1][:length]
        same = [each["timestamp"] for each in events if each["item_id"] == event["item_id"]]
        item = event["item_id"]
        origin = min(same) if item % 2 else item * 40 * SECOND
        made.append(
            event
            | {
                "history_item_ids": [each["item_id"] for each in known],
                "history_timestamps": [datetime.fromtimestamp(each["timestamp"] / SECOND, UTC) for each in known],
                "past_impressions": sum(time < event["timestamp"] for time in same),
                "dense_past_count": float(sum(time < event["timestamp"] for time in same)),
                "dense_age_hours": pytest.approx(max(event["timestamp"] - origin, 0) / SECOND / 3600, rel=1e-6),
            }
        )
    return sorted(made, key=lambda event: event["timestamp"])


@pytest.mark.parametrize(("memory", "delay"), [(4_000_000, 0), (64, 0), (7, 25), (16, 10)])
def test_every_row_knows_its_past_alone(tmp_path: Path, memory: int, delay: int) -> None:
    events = log(tmp_path / "raw")
    done = ingested(tmp_path / "raw", "events", history_length=4, rows_in_memory=memory, history_delay_seconds=delay)
    rows = done.impressions.to_pylist()
    assert len(rows) == len(events)
    for row, want in zip(rows, expected(events, 4, delay * SECOND), strict=True):
        want = {**want, "timestamp": datetime.fromtimestamp(want["timestamp"] / SECOND, UTC)}
        assert row == {name: want[name] for name in row}
    assert "unused" not in done.impressions.column_names
    assert max(map(len, done.column("history_item_ids"))) == 4
    assert [path.name for path in (tmp_path / "raw-out").iterdir() if path.name.startswith("sort")] == []
    assert done.metadata["history_delay_microseconds"] == delay * SECOND


def test_rows_at_fault_are_set_aside_and_in_nobodys_past(tmp_path: Path) -> None:
    spoil: dict[int, dict[str, Any]] = {
        3: {"item_id": 99},
        180: {"user_id": None},
        200: {"label_click": 2},
        333: {"timestamp": None},
        400: {"label_like": -1},
        401: {"context_country": None},
    }
    events = log(tmp_path / "raw", spoil=spoil)
    done = ingested(tmp_path / "raw", "events", history_length=4)
    assert sorted(done.quarantine) == [
        ("events/0.parquet", 4, "unknown item"),
        ("events/1.parquet", 14, "null user_id"),
        ("events/1.parquet", 34, "label_click is not 0 or 1"),
        ("events/1.parquet", 167, "null timestamp"),
        ("events/2.parquet", 67, "label_like is not 0 or 1"),
        ("events/2.parquet", 68, "null context_country"),
    ]
    good = [event for index, event in enumerate(events) if index not in spoil]
    assert done.column("history_item_ids") == [row["history_item_ids"] for row in expected(good, 4, 0)]
    assert done.column("past_impressions") == [row["past_impressions"] for row in expected(good, 4, 0)]


def test_columns_that_do_not_fit_are_named(tmp_path: Path) -> None:
    log(tmp_path / "raw")
    path = tmp_path / "raw" / "events" / "1.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["label_like"]), path)
    with pytest.raises(InputError, match=r"events/1.parquet: its columns differ from those of 0.parquet"):
        ingested(tmp_path / "raw", "events")
    pq.write_table(table.drop_columns(["label_click"]), path)
    with pytest.raises(InputError, match=r"events/1.parquet: column 'label_click' \(int8\) is missing"):
        ingested(tmp_path / "raw", "events")
