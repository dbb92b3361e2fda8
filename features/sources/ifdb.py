"""IFDB: plays of interactive fiction and the games' descriptions, as published by the IF Archive; negatives are constructed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.ids import hash_ids
from features.quarantine import Fault, Quarantine, is_empty, is_null, is_repeated, numbers, row_numbers
from features.schema import TIMESTAMP
from features.sources.log import (
    EVENTS,
    SourceLog,
    impressions_of,
    impressions_schema_of,
    items_table,
    raw_file,
    read_columns,
    with_negatives,
)

PLAYS = pa.schema([("played_at", TIMESTAMP), ("user_id", pa.string()), ("game_id", pa.string())])
GAMES = pa.schema([("game_id", pa.string()), ("title", pa.string()), ("text", pa.string())])
FIRST_YEAR = int(np.datetime64("2007-01-01", "us").astype(np.int64))  # IFDB began in 2007; its dump has 1980 where the date is unknown


def read(raw: Path, *, history_length: int, negatives_per_positive: int, seed: int) -> SourceLog:
    """Read plays.parquet and games.parquet.

    A game that is played but not described stays an item, without text. Every described game is an item, played or not.

    Args:
        raw: the folder of the two files, or its parent with a folder 'ifdb'.
        history_length: T.
        negatives_per_positive: N; from the play's calendar quarter, by the square root of plays in it.
        seed: of the negatives and of the order of simultaneous rows.

    Raises:
        InputError: naming the file or column that is missing or cannot be read.
    """
    folder = raw_file(raw, ("ifdb",), "plays.parquet").parent
    quarantine = Quarantine()
    games = read_columns(folder / "games.parquet", GAMES)
    games = quarantine.keep(games, file="games.parquet", rows=row_numbers(games.num_rows), faults=_game_faults(games))
    plays = read_columns(folder / "plays.parquet", PLAYS)
    faults = [Fault(is_null(plays["played_at"]), "null played_at")]
    faults += [Fault(is_empty(plays[name]), f"null {name}") for name in ("user_id", "game_id")]
    faults.append(Fault(numbers(plays["played_at"]) < FIRST_YEAR, "placeholder date before 2007"))
    plays = quarantine.keep(plays, file="plays.parquet", rows=row_numbers(plays.num_rows), faults=faults)

    ones = np.ones(plays.num_rows, np.int8)
    positives = pa.table([plays["played_at"], hash_ids(plays["user_id"]), hash_ids(plays["game_id"]), ones], schema=EVENTS)
    months = numbers(positives["timestamp"]).astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
    events, missing = with_negatives(positives, months // 3, per_positive=negatives_per_positive, exponent=0.5, seed=seed)
    metadata = {
        "source": "ifdb",
        "credit": "IFDB (ifdb.org), database dump published by the IF Archive, CC BY 3.0 US",
        "positive": "a play",
        "negatives": f"constructed: {negatives_per_positive} per play, games that others played in the same calendar quarter and this "
        "user never did, drawn by the square root of their plays in that quarter",
        "negatives_missing": missing,
        "past_count": "positives",
        "text": "as published; tags may have been added after a play",
    }
    impressions = impressions_of(events, past_count="positives", history_length=history_length)
    return SourceLog(_items(games, plays["game_id"]), impressions_schema_of(events.schema), impressions, quarantine, metadata)


def _game_faults(games: pa.Table) -> list[Fault]:
    return [Fault(is_empty(games["game_id"]), "null game_id"), Fault(is_repeated(games["game_id"]), "game_id met before")]


def _items(games: pa.Table, played: pa.ChunkedArray) -> pa.Table:
    undescribed = pc.unique(played.filter(pc.invert(pc.is_in(played, value_set=games["game_id"].combine_chunks()))))
    blank = pa.nulls(len(undescribed), pa.string())
    original = pa.chunked_array([*games["game_id"].chunks, undescribed])
    titles, texts = (pa.chunked_array([*games[name].chunks, blank]) for name in ("title", "text"))
    return items_table(hash_ids(original), original_ids=original, titles=titles, texts=texts)
