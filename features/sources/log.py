"""What every adapter returns, and the steps they share: finding files, reading columns, time order, and events to impressions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.dataset import open_parquet, row_groups_of
from features.errors import InputError
from features.history import Histories, PastEvents
from features.negatives import construct_negatives
from features.quarantine import Quarantine, numbers
from features.schema import CONTEXT, IMPRESSIONS, ITEMS, TIMESTAMP, columns_with_prefix
from features.validate import COUNTED

Int64 = npt.NDArray[np.int64]
CHUNK = 1 << 16

EVENTS = pa.schema([IMPRESSIONS.field(name) for name in ("timestamp", "user_id", "item_id", "label_click")])


@dataclass(frozen=True)
class SourceLog:
    """A log in canonical form.

    Attributes:
        items: features.schema.ITEMS, plus vector_* columns where the source has them.
        schema: columns of the impressions: features.schema.IMPRESSIONS without past_impressions, which is counted while rows are
            written, plus further column families.
        impressions: tables in time order, to be consumed once.
        quarantine: rejected rows and counts per file; complete when the impressions are consumed.
        metadata: `source`, `credit`, `positive` (what counts as one), `negatives` (how they were constructed, None where the log has real
            impressions), `past_count` ("positives" or "impressions"), and what else a report should say.
    """

    items: pa.Table
    schema: pa.Schema
    impressions: Iterator[pa.Table]
    quarantine: Quarantine
    metadata: dict[str, Any]


def raw_file(raw: Path, names: Sequence[str], *files: str) -> Path:
    """The first of the alternative `files` that lies in `raw` itself, or in a folder in it with one of `names`.

    Raises:
        InputError: naming the files and the folder.
    """
    for file in files:
        for folder in (raw, *(raw / name for name in names)):
            if (folder / file).is_file():
                return folder / file
    raise InputError(f"{raw}: no {' or '.join(files)} here or in a folder '{names[0]}' below it")


def read_columns(path: Path, schema: pa.Schema) -> pa.Table:
    """The columns of a Parquet file, cast to `schema`; timestamps without a zone are taken as UTC.

    Raises:
        InputError: naming the file, and the column that is missing or of a type that does not fit.
    """
    file = open_parquet(path)
    present = file.schema_arrow.names
    for name in schema.names:
        if name not in present:
            raise InputError(f"{path}: column '{name}' ({schema.field(name).type}) is missing; columns are {', '.join(present)}")
    if file.metadata.num_rows == 0:
        raise InputError(f"{path}: the file has no rows")
    table = pa.concat_tables(row_groups_of(file, path, schema.names))
    columns = []
    for field in schema:
        try:
            columns.append(table[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{path}: column '{field.name}' is {table[field.name].type}, expected {field.type}") from error
    return pa.table(columns, schema=schema)


def items_table(
    item_ids: Int64, *, original_ids: pa.Array | None = None, titles: pa.Array | None = None, texts: pa.Array | None = None
) -> pa.Table:
    """ITEMS [N] of a source that does not tell when an item was created."""
    strings = (pa.nulls(len(item_ids), pa.string()) if given is None else given for given in (original_ids, titles, texts))
    return pa.table([item_ids, pa.nulls(len(item_ids), TIMESTAMP), *strings], schema=ITEMS)


def in_time_order(events: pa.Table, seed: int) -> pa.Table:
    """Sort by time; simultaneous rows in an order drawn from `seed`, so that a positive's place among its negatives tells nothing."""
    tie = np.random.default_rng(seed).permutation(events.num_rows)
    return events.take(pa.array(np.lexsort((tie, numbers(events["timestamp"])))))


def with_negatives(positives: pa.Table, periods: Int64, *, per_positive: int, exponent: float, seed: int) -> tuple[pa.Table, int]:
    """Positives and their constructed negatives in time order.

    Args:
        positives: EVENTS and context_* columns [P], label_click 1.
        periods: int64 [P], from which period a positive's negatives are drawn.
        per_positive: N, see construct_negatives.
        exponent: 1 draws by popularity in the period, 0.5 by its square root.
        seed: of the draws and of the order of simultaneous rows.

    Returns:
        The events, and how many negatives were missing. A negative has its positive's time, user and context.
    """
    users, items = numbers(positives["user_id"]), numbers(positives["item_id"])
    drawn = construct_negatives(periods, users, items, per_positive=per_positive, exponent=exponent, seed=seed)
    negatives = positives.take(pa.array(drawn.positive))
    for name, values in (("item_id", drawn.item_ids), ("label_click", np.zeros(len(drawn.item_ids), np.int8))):
        index = negatives.schema.get_field_index(name)
        negatives = negatives.set_column(index, negatives.schema.field(index), pa.array(values))
    return in_time_order(pa.concat_tables([positives, negatives]), seed), drawn.missing


def impressions_schema_of(events: pa.Schema) -> pa.Schema:
    """Columns of the impressions that `impressions_of` makes of `events`."""
    fixed = [field for field in IMPRESSIONS if field.name != COUNTED]
    return pa.schema([*fixed, *(events.field(name) for name in columns_with_prefix(events, CONTEXT))])


def impressions_of(events: pa.Table, *, past_count: str, history_length: int, earlier: pa.Table | None = None) -> Iterator[pa.Table]:
    """Events to canonical impressions, with histories and the two dense features of the past.

    Args:
        events: EVENTS and context_* columns, in time order.
        past_count: "positives" or "impressions", what dense_past_count counts and dense_age_hours starts from.
        history_length: T.
        earlier: EVENTS, positives from before the log; in histories, not in counts.

    Yields:
        Tables of `impressions_schema_of(events.schema)`.
    """
    times, users, items = (numbers(events[name]) for name in ("timestamp", "user_id", "item_id"))
    positive = numbers(events["label_click"]) == 1
    before = [numbers((EVENTS.empty_table() if earlier is None else earlier)[name]) for name in ("timestamp", "user_id", "item_id")]
    histories = Histories(*(np.concatenate((old, new[positive])) for old, new in zip(before, (times, users, items), strict=True)))
    counted = positive if past_count == "positives" else np.ones_like(positive)
    past = PastEvents(items[counted], times[counted])
    schema = impressions_schema_of(events.schema)
    for start in range(0, events.num_rows, CHUNK):
        chunk = events.slice(start, CHUNK)
        time, user, item = (values[start : start + CHUNK] for values in (times, users, items))
        history_items, history_times = histories.before(time, user, history_length)
        made = {
            "dense_past_count": past.count_before(item, time).astype(np.float32),
            "dense_age_hours": past.hours_since_first(item, time),
            "history_item_ids": history_items,
            "history_timestamps": history_times,
        }
        yield pa.table([made[name] if name in made else chunk[name] for name in schema.names], schema=schema)
