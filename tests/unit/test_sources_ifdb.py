"""IFDB from tiny files of the published format."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.errors import InputError
from features.ids import hash_id, hash_ids
from tests.unit.ingesting import ingested

PLAYS = [
    (datetime(1980, 1, 1, 0, 0, 2), "u1", "old"),
    (datetime(2007, 1, 5), "u1", "zork"),
    (datetime(2007, 2, 5), "u2", "anchorhead"),
    (datetime(2007, 3, 31), "u3", "nameless"),
    (datetime(2007, 4, 1), "u1", "anchorhead"),
    (datetime(2007, 4, 1), "u2", "galatea"),
    (None, "u2", "galatea"),
]
GAMES = [("zork", "Zork", "Fantasy", "A white house"), ("anchorhead", "Anchorhead", None, "A town"), ("zork", "Again", None, "Twice")]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "ifdb"
    folder.mkdir(parents=True)
    times = pa.array([row[0] for row in PLAYS], pa.timestamp("ms"))
    users, games = (pa.array([row[index] for row in PLAYS], pa.large_string()) for index in (1, 2))
    pq.write_table(pa.table({"played_at": times, "user_id": users, "game_id": games}), folder / "plays.parquet")
    described = [pa.array(column, pa.large_string()) for column in zip(*GAMES, strict=True)]
    pq.write_table(pa.table(described, names=["game_id", "title", "genre", "text"]), folder / "games.parquet")
    return folder


def test_plays_become_positives_with_negatives_of_their_quarter(raw: Path) -> None:
    log = ingested(raw, "ifdb", negatives_per_positive=4)
    assert log.quarantine == [
        ("games.parquet", 3, "game_id met before"),
        ("plays.parquet", 1, "placeholder date before 2007"),
        ("plays.parquet", 7, "null played_at"),
    ]
    assert log.items["original_id"].to_pylist() == ["zork", "anchorhead", "nameless", "galatea"]
    assert log.items["text"].to_pylist() == ["A white house", "A town", None, None]
    names = dict(zip(log.items["item_id"].to_pylist(), log.items["original_id"].to_pylist(), strict=True))
    shown = {
        (user, names[item], time.month) for user, item, time in zip(*map(log.column, ("user_id", "item_id", "timestamp")), strict=True)
    }
    first, second, third = map(hash_id, ("u1", "u2", "u3"))
    # anchorhead and nameless were played by others in the first quarter, but u1 plays anchorhead later.
    assert {row for row in shown if row[0] == first} == {
        (first, "zork", 1),
        (first, "nameless", 1),
        (first, "anchorhead", 4),
        (first, "galatea", 4),
    }
    assert {row for row in shown if row[0] == second} == {
        (second, "anchorhead", 2),
        (second, "zork", 2),
        (second, "nameless", 2),
        (second, "galatea", 4),
    }
    assert {name for user, name, _ in shown if user == third} == {"zork", "anchorhead", "nameless"}
    assert sum(log.column("label_click")) == 5
    assert log.metadata["negatives"].startswith("constructed: 4 per play")
    assert log.metadata["negatives_missing"] == 5 * 4 - (log.impressions.num_rows - 5)
    assert log.metadata["past_count"] == "positives"


def test_history_count_and_age_look_at_earlier_plays_alone(raw: Path) -> None:
    log = ingested(raw, "ifdb")
    row = next(row for row in log.impressions.to_pylist() if row["user_id"] == hash_id("u1") and row["item_id"] == hash_id("anchorhead"))
    assert row["history_item_ids"] == [hash_id("zork")]
    assert row["history_timestamps"][0].replace(tzinfo=None) == datetime(2007, 1, 5)
    assert row["dense_past_count"] == 1
    assert row["dense_age_hours"] == (datetime(2007, 4, 1) - datetime(2007, 2, 5)).total_seconds() / 3600


def test_the_parent_folder_works_too_and_the_same_seed_gives_the_same_rows(raw: Path) -> None:
    ours, parents = ingested(raw, "ifdb"), ingested(raw.parent, "ifdb")
    assert ours.impressions.equals(parents.impressions)


def test_a_missing_column_or_file_is_named(raw: Path) -> None:
    pq.write_table(pq.read_table(raw / "plays.parquet").drop_columns("user_id"), raw / "plays.parquet")
    with pytest.raises(InputError, match=r"plays\.parquet: column 'user_id' \(string\) is missing"):
        ingested(raw, "ifdb")
    (raw / "games.parquet").unlink()
    with pytest.raises(InputError, match=r"games\.parquet: no such file"):
        ingested(raw, "ifdb")
    (raw / "plays.parquet").unlink()
    with pytest.raises(InputError, match=r"no plays\.parquet here or in a folder 'ifdb'"):
        ingested(raw, "ifdb")


def test_a_wrong_type_an_empty_table_and_a_truncated_file_are_named(raw: Path) -> None:
    path = raw / "plays.parquet"
    whole = path.read_bytes()
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "played_at", pa.array([True] * len(table))), path)
    with pytest.raises(InputError, match=r"plays\.parquet: column 'played_at' is bool, expected timestamp"):
        ingested(raw, "ifdb")
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(InputError, match=r"plays\.parquet: the file has no rows"):
        ingested(raw, "ifdb")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"plays\.parquet: not a readable Parquet file"):
        ingested(raw, "ifdb")
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"plays\.parquet: the file is empty"):
        ingested(raw, "ifdb")


def test_ids_are_stable_and_never_negative() -> None:
    # BLAKE2b with an eight-byte digest, little-endian, top bit cleared.
    assert hash_id("zork") == int.from_bytes(__import__("hashlib").blake2b(b"zork", digest_size=8).digest(), "little") % 2**63
    assert hash_ids(pa.array(["a", "b", "a"])).tolist() == [hash_id("a"), hash_id("b"), hash_id("a")]
    assert (hash_ids(pa.array(list(map(str, range(1000))))) >= 0).all()
