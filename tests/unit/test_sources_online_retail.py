"""Online Retail from a tiny file of the published format."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.ids import hash_id
from tests.unit.ingesting import ingested

DAY1, DAY2 = datetime(2010, 12, 1, 8, 26), datetime(2010, 12, 2, 9, 0)
LINES = [
    ("1", "A", "LANTERN", 6, DAY1, 2.5, 17850, "United Kingdom"),
    ("1", "B", "WHITE HEART", 6, DAY1, 2.5, 17850, "United Kingdom"),
    ("2", "C", "JAM JAR", 1, DAY1, 1.0, 12, "France"),
    ("C3", "A", "LANTERN", -6, DAY1, 2.5, 17850, "United Kingdom"),
    ("4", "A", "LANTERN", -1, DAY1, 2.5, 17850, "United Kingdom"),
    ("5", "A", "LANTERN", 1, DAY1, 0.0, 17850, "United Kingdom"),
    ("6", "A", "LANTERN", 1, DAY1, 2.5, None, "United Kingdom"),
    ("7", "A", None, 1, DAY1, 2.5, 17850, "United Kingdom"),
    ("8", "B", "RED HEART ", 1, DAY2, 2.5, 12, "France"),
    ("9", "B", "RED HEART", 1, DAY2, 2.5, 13, "France"),
    ("9", "A", "LAMP", 1, DAY2, 2.5, 13, "France"),
]
SCHEMA = pa.schema(
    {
        "InvoiceNo": pa.string(),
        "StockCode": pa.string(),
        "Description": pa.string(),
        "Quantity": pa.int64(),
        "InvoiceDate": pa.timestamp("ms"),
        "UnitPrice": pa.float64(),
        "CustomerID": pa.int64(),
        "Country": pa.string(),
    }
)


def write(folder: Path, lines: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns = [pa.array([line[index] for line in lines], field.type) for index, field in enumerate(SCHEMA)]
    pq.write_table(pa.table(columns, schema=SCHEMA), folder / "online_retail.parquet")
    return folder


def test_every_other_line_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    log = ingested(write(tmp_path / "raw", LINES), "online_retail")
    assert [row[1:] for row in log.quarantine] == [
        (4, "cancellation"),
        (5, "quantity not positive"),
        (6, "price not positive"),
        (7, "no customer"),
        (8, "no description"),
    ]
    assert log.metadata["counts"]["online_retail.parquet"] == {"read": 11, "accepted": 6, "quarantined": 5}
    assert sum(log.column("label_click")) == 6


def test_an_items_text_is_its_most_frequent_then_first_description(tmp_path: Path) -> None:
    log = ingested(write(tmp_path / "raw", LINES), "online_retail")
    texts = dict(zip(log.items["original_id"].to_pylist(), log.items["text"].to_pylist(), strict=True))
    assert texts == {"A": "LANTERN", "B": "RED HEART", "C": "JAM JAR"}


def test_negatives_are_of_the_same_day_and_never_bought(tmp_path: Path) -> None:
    log = ingested(write(tmp_path / "raw", LINES), "online_retail")
    rows = log.impressions.to_pylist()
    negatives = {(row["user_id"], row["item_id"], row["timestamp"].day) for row in rows if not row["label_click"]}
    a, b, c = map(hash_id, "ABC")
    # 13 owns A and B, and C was not sold on the second day; 12 owns B and C, so that only A is left for it.
    assert negatives == {(17850, c, 1), (12, a, 1), (12, a, 2)}
    assert {row["context_country"] for row in rows if row["user_id"] == 12} == {hash_id("France")}
    assert b in log.items["item_id"].to_pylist()


def test_ties_do_not_give_the_label_away(tmp_path: Path) -> None:
    lines = [("1", f"I{index}", "THING", 1, DAY1, 1.0, index % 50, "France") for index in range(500)]
    clicks = ingested(write(tmp_path / "raw", lines), "online_retail").column("label_click")
    # 500 positives among 2,500 simultaneous rows: a positive's mean place has a standard error of 29.
    places = [place for place, click in enumerate(clicks) if click]
    assert sum(places) / len(places) == pytest.approx(1250, abs=120)
    assert len(clicks) == 2500


def test_the_latest_rows_are_kept_and_count_themselves_alone(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", LINES)
    whole, cut = ingested(raw, "online_retail"), ingested(raw, "online_retail", last_rows=5)
    assert cut.impressions.drop_columns("past_impressions").equals(
        whole.impressions.slice(len(whole.impressions) - 5).drop_columns("past_impressions")
    )
    assert max(whole.column("past_impressions")) > 0
    seen = list(zip(cut.column("item_id"), cut.column("timestamp"), strict=True))
    assert cut.column("past_impressions") == [sum(i == item and t < time for i, t in seen) for item, time in seen]
    assert cut.metadata["last_rows"] == 5


LINE = st.tuples(
    st.sampled_from(["1", "2", "C3", "", None]),
    st.sampled_from(["A", "B", "", None]),
    st.sampled_from(["LAMP", " ", None]),
    st.sampled_from([-1, 0, 1, None]),
    st.sampled_from([DAY1, DAY2, None]),
    st.sampled_from([0.0, 1.0, float("nan"), None]),
    st.sampled_from([1, 2, None]),
    st.sampled_from(["France", None]),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE, max_size=20))
def test_accepted_and_quarantined_are_all_that_was_read(tmp_path: Path, lines: list[Any]) -> None:
    log = ingested(write(tmp_path / "raw", [LINES[0], *lines]), "online_retail")
    good = [
        line
        for line in [LINES[0], *lines]
        if all(value not in (None, "", " ") for value in line) and line[0] != "C3" and line[3] > 0 and line[5] > 0
    ]
    assert log.metadata["counts"]["online_retail.parquet"] == {
        "read": len(lines) + 1,
        "accepted": len(good),
        "quarantined": len(lines) + 1 - len(good),
    }
    assert sum(log.column("label_click")) == len(good)
