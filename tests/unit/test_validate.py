"""Canonical input: each structural fault names its file, each row fault goes to the quarantine with its reason."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.canonical_log import NOON, row, write
from tests.unit.ingesting import ingested

ROW_FAULTS: dict[str, dict[str, Any]] = {
    "null timestamp": {"timestamp": None},
    "null user_id": {"user_id": None},
    "null item_id": {"item_id": None},
    "null label_click": {"label_click": None},
    "null dense_age_hours": {"dense_age_hours": None},
    "null history_item_ids": {"history_item_ids": None},
    "null in history_item_ids": {"history_item_ids": [10, None]},
    "null in history_timestamps": {"history_timestamps": [None, NOON - timedelta(hours=2)]},
    "null in context_tags": {"context_tags": [None]},
    "label_click is not 0 or 1": {"label_click": 2},
    "label_like is not 0 or 1": {"label_like": -1},
    "dense_age_hours is negative or not finite": {"dense_age_hours": -1.0},
    "dense_past_count is negative or not finite": {"dense_past_count": float("nan")},
    "unknown item": {"item_id": 99},
    "history_item_ids and history_timestamps differ in length": {"history_item_ids": [10]},
    "history item not before its impression": {"history_timestamps": [NOON + timedelta(minutes=1), NOON]},
    "history is not most recent first": {"history_timestamps": [NOON - timedelta(hours=2), NOON - timedelta(hours=1)]},
    "timestamp out of order": {"timestamp": NOON - timedelta(seconds=1)},
}


@pytest.mark.parametrize("reason", ROW_FAULTS)
@pytest.mark.parametrize("rows_per_file", [1000, 2])
def test_a_row_fault_goes_to_the_quarantine(tmp_path: Path, reason: str, rows_per_file: int) -> None:
    rows = [row(), row(1, **ROW_FAULTS[reason]), row(1), row(2)]
    log = ingested(write(tmp_path / "raw", rows, rows_per_file=rows_per_file), "canonical")
    assert log.quarantine == [("impressions/0.parquet", 2, reason)]
    assert log.impressions.num_rows == 3
    assert log.column("past_impressions") == [0, 1, 2]


def test_a_history_item_at_the_very_time_of_its_impression_is_too_late(tmp_path: Path) -> None:
    rows = [row(history_item_ids=[10], history_timestamps=[NOON]), row()]
    assert ingested(write(tmp_path / "raw", rows), "canonical").quarantine[0][2] == "history item not before its impression"


def test_order_holds_across_row_groups_and_files(tmp_path: Path) -> None:
    rows = [row(3), row(2), row(5), row(4), row(5)]
    log = ingested(write(tmp_path / "raw", rows, rows_per_file=3, row_group_size=1), "canonical")
    assert log.quarantine == [
        ("impressions/0.parquet", 2, "timestamp out of order"),
        ("impressions/1.parquet", 1, "timestamp out of order"),
    ]


def test_a_rejected_row_does_not_make_later_ones_late(tmp_path: Path) -> None:
    rows = [row(), row(90, user_id=None), row(1)]
    assert ingested(write(tmp_path / "raw", rows), "canonical").impressions.num_rows == 2


def test_long_histories_are_cut_and_further_columns_kept(tmp_path: Path) -> None:
    log = ingested(write(tmp_path / "raw", [row(context_tags=[3, 4])]), "canonical", history_length=1)
    assert log.column("history_item_ids") == [[10]]
    assert log.column("history_timestamps") == [[NOON - timedelta(hours=1)]]
    assert log.column("context_tags") == [[3, 4]]
    assert log.column("label_like") == [0]


def test_faulty_items_are_quarantined_and_their_rows_with_them(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", [row(), row(1, item_id=11), row(2, item_id=12)])
    vectors = pa.array([[1.0, 2.0], [float("inf"), 0.0], None, [1.0, 1.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"item_id": pa.array([10, 11, 12, None, 10]), "vector_image": vectors}), raw / "items.parquet")
    log = ingested(raw, "canonical")
    assert log.quarantine == [
        ("items.parquet", 2, "vector_image is missing or not finite"),
        ("items.parquet", 3, "vector_image is missing or not finite"),
        ("items.parquet", 4, "null item_id"),
        ("items.parquet", 5, "item_id met before"),
        ("impressions/0.parquet", 2, "unknown item"),
        ("impressions/0.parquet", 3, "unknown item"),
    ]
    assert log.items["vector_image"].to_pylist() == [[1.0, 2.0]]
    assert log.items["text"].to_pylist() == [None]


FAULTY = st.tuples(st.integers(0, 5), st.sampled_from([{}, {}, {}, *ROW_FAULTS.values()]))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FAULTY, max_size=25), st.integers(1, 7))
def test_accepted_and_quarantined_are_all_that_was_read(tmp_path: Path, faults: list[Any], rows_per_file: int) -> None:
    rows = [row(), *(row(minute, **changes) for minute, changes in faults)]
    log = ingested(write(tmp_path / "raw", rows, rows_per_file=rows_per_file, row_group_size=3), "canonical")
    assert log.impressions.num_rows + len(log.quarantine) == len(rows)
    assert len(set(log.quarantine)) == len(log.quarantine)
    times = log.impressions["timestamp"].cast(pa.int64()).to_numpy()
    assert (np.diff(times) >= 0).all()
