"""MovieLens from tiny files in both published formats."""

from pathlib import Path

import pytest

from features.errors import InputError
from tests.unit.ingesting import ingested

MOVIES_DAT = "1::Toy Story (1995)::Animation|Comedy\n2::Les Misérables: Part 1::Drama\nbroken\n1::Again::Drama\n".encode("latin-1")
RATINGS_DAT = (
    b"1::1::5::978300760\n1::2::3::978300761\n2::1::4::978300760\n2::9::4::978300762\n2::2::7::978300763\n3::x::4::978300763\n1::2\n"
)
MOVIES_CSV = 'movieId,title,genres\n1,"American President, The (1995)",Comedy|Drama\n2,Misérables,(no genres listed)\n'.encode()
RATINGS_CSV = b"userId,movieId,rating,timestamp\n1,1,4.5,978300760\n1,2,3.5,978300761\nbroken\n\n2,2,4.0,x\n2,1,0.5,978300762\n"


def write(folder: Path, movies: bytes, ratings: bytes, suffix: str) -> Path:
    folder.mkdir()
    (folder / f"movies{suffix}").write_bytes(movies)
    (folder / f"ratings{suffix}").write_bytes(ratings)
    return folder


def test_the_format_of_1m(tmp_path: Path) -> None:
    log = ingested(write(tmp_path / "ml-1m", MOVIES_DAT, RATINGS_DAT, ".dat"), "movielens")
    assert log.quarantine == [
        ("movies.dat", 3, "expected 3 fields"),
        ("movies.dat", 4, "movieId met before"),
        ("ratings.dat", 7, "expected 4 fields"),
        ("ratings.dat", 4, "unknown item"),
        ("ratings.dat", 5, "rating is not between 0.5 and 5"),
        ("ratings.dat", 6, "movieId is not a number"),
    ]
    assert log.items["text"].to_pylist() == ["Toy Story (1995). Animation, Comedy", "Les Misérables: Part 1. Drama"]
    rows = {(row["user_id"], row["item_id"]): row for row in log.impressions.to_pylist()}
    assert {key: row["label_click"] for key, row in rows.items()} == {(1, 1): 1, (1, 2): 0, (2, 1): 1}
    assert rows[1, 2]["history_item_ids"] == [1]
    assert rows[1, 2]["timestamp"].timestamp() == 978300761
    assert log.metadata["negatives"] is None
    assert log.metadata["past_count"] == "impressions"


def test_the_format_of_latest(tmp_path: Path) -> None:
    write(tmp_path / "ml-latest-small", MOVIES_CSV, RATINGS_CSV, ".csv")
    log = ingested(tmp_path, "movielens")
    assert log.quarantine == [
        ("ratings.csv", 4, "the line has another number of columns"),
        ("ratings.csv", 5, "userId is not a number"),
        ("ratings.csv", 6, "timestamp is not a number of seconds"),
    ]
    assert log.items["text"].to_pylist() == ["American President, The (1995). Comedy, Drama", "Misérables"]
    assert log.column("label_click") == [1, 0, 0]
    assert log.column("dense_past_count") == [0, 0, 1]
    assert log.column("dense_age_hours") == pytest.approx([0, 0, 2 / 3600])


def test_a_missing_column_or_file_is_named(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", MOVIES_CSV, b"userId,movieId,rating\n1,1,4\n", ".csv")
    with pytest.raises(InputError, match=r"ratings\.csv: cannot be read as columns .*timestamp"):
        ingested(raw, "movielens")
    (raw / "ratings.csv").unlink()
    with pytest.raises(InputError, match=r"no ratings\.dat or ratings\.csv here or in a folder 'movielens'"):
        ingested(raw, "movielens")


def test_no_accepted_row_at_all_is_an_error_and_leaves_the_quarantine(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", MOVIES_CSV, b"userId,movieId,rating,timestamp\n1,77,4,978300760\n", ".csv")
    with pytest.raises(InputError, match="no impression was accepted; the reasons are in"):
        ingested(raw, "movielens")
    assert (tmp_path / "raw-out" / "quarantine" / "manifest.json").is_file()
    assert not (tmp_path / "raw-out" / "impressions").exists()
