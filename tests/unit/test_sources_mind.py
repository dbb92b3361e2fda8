"""MIND from tiny files of the published format."""

from datetime import datetime
from pathlib import Path

import pytest

from features.errors import InputError
from features.ids import hash_id
from tests.unit.ingesting import ingested

NEWS = (
    'N1\tsports\tgolf\tA "quoted title\tAn abstract\thttps://n1\t[]\t[]\n'
    "N2\tnews\tworld\tSecond\t\thttps://n2\t[]\t[]\n"
    "N3\tnews\tworld\tThird\tMore\thttps://n3\t[]\t[]\n"
    "broken\tline\n"
    "N1\tnews\tworld\tAgain\tMore\thttps://n1\t[]\t[]\n"
)
BEHAVIORS = (
    "1\tU1\t11/11/2019 9:05:58 PM\tN9 N3\tN1-1 N2-0\n"
    "2\tU1\t11/11/2019 9:05:58 AM\tN9 N3\tN2-1 N7-0 N3\n"
    "3\tU2\t11/12/2019 12:05:58 AM\t\tN1-0 N2-1\n"
    "4\tU2\tyesterday\t\tN1-0 N2-1\n"
    "5\t\t11/12/2019 12:05:58 AM\t\tN1-0 N2-1\n"
)


def write(folder: Path, behaviors: str = BEHAVIORS) -> Path:
    folder.mkdir()
    (folder / "news.tsv").write_text(NEWS)
    (folder / "behaviors.tsv").write_text(behaviors)
    return folder


def test_each_news_shown_is_a_row(tmp_path: Path) -> None:
    write(tmp_path / "MINDsmall_train")
    log = ingested(tmp_path, "mind")
    assert sorted(log.quarantine) == [
        ("behaviors.tsv", 2, "shown news is not NEWS-0 or NEWS-1"),
        ("behaviors.tsv", 2, "unknown item"),
        ("behaviors.tsv", 4, "time is not like 11/11/2019 9:05:58 AM"),
        ("behaviors.tsv", 5, "no user id"),
        ("news.tsv", 4, "the line has another number of columns"),
        ("news.tsv", 5, "news id met before"),
    ]
    assert log.metadata["counts"]["behaviors.tsv"] == {"read": 9, "accepted": 5, "quarantined": 4}
    shown = {
        (row["timestamp"].replace(tzinfo=None), row["user_id"], row["item_id"], row["label_click"]) for row in log.impressions.to_pylist()
    }
    first, evening, midnight = datetime(2019, 11, 11, 9, 5, 58), datetime(2019, 11, 11, 21, 5, 58), datetime(2019, 11, 12, 0, 5, 58)
    u1, u2, n1, n2 = map(hash_id, ("U1", "U2", "N1", "N2"))
    assert shown == {(first, u1, n2, 1), (evening, u1, n1, 1), (evening, u1, n2, 0), (midnight, u2, n1, 0), (midnight, u2, n2, 1)}
    assert log.items["text"].to_pylist()[0] == 'A "quoted title. sports, golf. An abstract'
    assert log.items["original_id"].to_pylist() == ["N1", "N2", "N3"]


def test_the_published_history_lies_before_the_log_and_clicks_follow_it(tmp_path: Path) -> None:
    log = ingested(write(tmp_path / "mind"), "mind")
    rows = log.impressions.to_pylist()
    n2, n3, n9 = map(hash_id, ("N2", "N3", "N9"))
    assert rows[0]["history_item_ids"] == [n3, n9]
    assert [(rows[0]["timestamp"] - stamp).seconds for stamp in rows[0]["history_timestamps"]] == [1, 2]
    assert rows[1]["history_item_ids"] == rows[2]["history_item_ids"] == [n2, n3, n9]
    assert rows[4]["history_item_ids"] == []
    # The published history is no impression: N2 was shown once before the evening.
    assert {row["item_id"]: row["dense_past_count"] for row in rows[1:3]} == {hash_id("N1"): 0, n2: 1}


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    raw = write(tmp_path / "mind", "")
    with pytest.raises(InputError, match=r"behaviors\.tsv: the file is empty"):
        ingested(raw, "mind")
    (raw / "news.tsv").unlink()
    with pytest.raises(InputError, match=r"news\.tsv: no such file"):
        ingested(raw, "mind")
