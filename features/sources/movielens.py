"""MovieLens, in 1M's format (.dat) and in latest's (.csv): each rating is a row, a rating of 4 or more a positive."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.quarantine import Fault, Int64, Quarantine, is_empty, is_repeated
from features.schema import TIMESTAMP
from features.sources.log import EVENTS, SourceLog, impressions_of, impressions_schema_of, in_time_order, items_table, raw_file
from features.sources.text_files import decimals, read_delimited, read_double_colon, whole_numbers

FOLDERS = ("movielens", "ml-1m", "ml-latest", "ml-latest-small", "ml-32m", "ml-25m", "ml-20m")
LIKED = 4.0


def read(raw: Path, *, history_length: int, seed: int) -> SourceLog:
    """Read ratings and movies.

    The rows are real (the user did rate the movie), so no negatives are constructed, and dense_past_count counts ratings. An item's
    text is its title and genres; the tags of latest are left out, because a tag may be later than the rating.

    Args:
        raw: the folder of ratings.dat and movies.dat, or of ratings.csv and movies.csv, or the parent of a folder 'movielens' (or of one
            named as GroupLens names it).
        history_length: T.
        seed: of the order of simultaneous rows.

    Raises:
        InputError: naming the file or column that is missing or cannot be read.
    """
    ratings = raw_file(raw, FOLDERS, "ratings.dat", "ratings.csv")
    quarantine = Quarantine()
    items, movie_ids = _movies(ratings.with_stem("movies"), quarantine)
    events = in_time_order(_ratings(ratings, movie_ids, quarantine), seed)
    metadata = {
        "source": "movielens",
        "credit": "F. Maxwell Harper and Joseph A. Konstan (2015), The MovieLens Datasets, ACM TiiS 5(4):19, GroupLens research licence",
        "positive": f"a rating of {LIKED:g} or more",
        "negatives": None,
        "past_count": "impressions",
        "text": "title and genres; tags are left out, they may be later than the rating",
    }
    impressions = impressions_of(events, past_count="impressions", history_length=history_length)
    return SourceLog(items, impressions_schema_of(events.schema), impressions, quarantine, metadata)


def _movies(path: Path, quarantine: Quarantine) -> tuple[pa.Table, Int64]:
    if path.suffix == ".dat":
        table, lines = read_double_colon(path, ("movieId", "title", "genres"), quarantine)
    else:
        table, lines = read_delimited(path, ("movieId", "title", "genres"), quarantine, delimiter=",", header=True, quotes=True)
    ids, wrong = whole_numbers(table["movieId"])
    faults = [
        Fault(wrong, "movieId is not a number"),
        Fault(is_empty(table["title"]), "no title"),
        Fault(is_repeated(pa.array(ids)), "movieId met before"),
    ]
    kept = quarantine.keep(table.append_column("id", pa.array(ids)), file=path.name, rows=lines, faults=faults)
    genres = pc.replace_substring(pc.replace_substring(kept["genres"], "(no genres listed)", ""), "|", ", ")
    texts = pc.if_else(pc.equal(genres, ""), kept["title"], pc.binary_join_element_wise(kept["title"], genres, ". "))
    item_ids = kept["id"].to_numpy()
    return items_table(item_ids, titles=kept["title"], texts=texts), np.sort(item_ids)


def _ratings(path: Path, movie_ids: Int64, quarantine: Quarantine) -> pa.Table:
    columns = ("userId", "movieId", "rating", "timestamp")
    if path.suffix == ".dat":
        table, lines = read_double_colon(path, columns, quarantine)
    else:
        table, lines = read_delimited(path, columns, quarantine, delimiter=",", header=True, quotes=False)
    users, wrong_user = whole_numbers(table["userId"])
    movies, wrong_movie = whole_numbers(table["movieId"])
    seconds, wrong_time = whole_numbers(table["timestamp"], digits=11)
    rating, wrong_rating = decimals(table["rating"])
    faults = [
        Fault(wrong_user, "userId is not a number"),
        Fault(wrong_movie, "movieId is not a number"),
        Fault(wrong_time, "timestamp is not a number of seconds"),
        Fault(wrong_rating | (rating < 0.5) | (rating > 5), "rating is not between 0.5 and 5"),
        Fault(~np.isin(movies, movie_ids), "unknown item"),
    ]
    times = pa.array(seconds * 1_000_000).cast(TIMESTAMP)
    events = pa.table([times, users, movies, (rating >= LIKED).astype(np.int8)], schema=EVENTS)
    return quarantine.keep(events, file=path.name, rows=lines, faults=faults)
