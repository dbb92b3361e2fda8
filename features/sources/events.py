"""A user's own event log, in any order and larger than memory: histories, counts and ages are made here, from the past alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.dataset import open_parquet
from features.errors import InputError
from features.external_sort import sort_by
from features.history import MICROSECONDS_PER_HOUR, FirstTimes, RunningCounts
from features.quarantine import Fault, Int64, Quarantine, is_null, numbers
from features.schema import CONTEXT, IMPRESSIONS, LABEL, columns_with_prefix
from features.sources.canonical import parquet_files, read_items, row_groups
from features.sources.log import EVENTS, SourceLog
from features.user_histories import with_histories
from features.validate import with_families

_COUNTED = ("dense_past_count", "dense_age_hours", "history_item_ids", "history_timestamps")


def read(raw: Path, *, history_length: int, delay: int, spill: Path, rows_in_memory: int) -> SourceLog:
    """Read items and events.

    Items are as in features.sources.canonical. Events need timestamp, user_id, item_id and label_click, and may have further label_* and
    context_* columns. Each event is an impression, and a positive where label_click is 1; simultaneous impressions come by user.

    Args:
        raw: a folder with items*.parquet or items/, and events*.parquet or events/.
        history_length: T.
        delay: microseconds between an event and the moment that the feature pipeline knows of it.
        spill: folder for sorting, with room for the log twice.
        rows_in_memory: rows sorted at a time.

    Raises:
        InputError: naming the file, and the column that is missing or has another type, or whose bytes cannot be read.
    """
    quarantine = Quarantine()
    items = read_items(parquet_files(raw, "items"), raw, quarantine)
    files = parquet_files(raw, "events")
    columns = _columns(open_parquet(files[0]).schema_arrow, files[0])
    for path in files[1:]:
        if _columns(open_parquet(path).schema_arrow, path) != columns:
            raise InputError(f"{path}: its columns differ from those of {files[0].name}")
    events = _accepted(files, raw, columns, np.sort(numbers(items["item_id"])), quarantine)
    by_user = sort_by(events, ["user_id", "timestamp"], spill, rows_in_memory=rows_in_memory)
    in_time = sort_by(with_histories(by_user, length=history_length, delay=delay), ["timestamp"], spill, rows_in_memory=rows_in_memory)
    schema = pa.schema([*columns, *(IMPRESSIONS.field(name) for name in _COUNTED)])
    metadata = {"source": "events", "credit": None, "positive": "label_click", "negatives": None, "past_count": "impressions"}
    return SourceLog(items, schema, _counted(in_time, items, schema), quarantine, metadata | {"history_delay_microseconds": delay})


def _columns(schema: pa.Schema, path: Path) -> pa.Schema:
    return with_families(schema, EVENTS, (LABEL, CONTEXT), str(path))


def _accepted(files: list[Path], raw: Path, columns: pa.Schema, known_items: Int64, quarantine: Quarantine) -> Iterator[pa.Table]:
    labels = columns_with_prefix(columns, LABEL)
    for path in files:
        for group, rows in row_groups(path, columns.names):
            faults = [Fault(is_null(group[name]), f"null {name}") for name in columns.names]
            faults += [Fault(~np.isin(numbers(group[name]), (0, 1)), f"{name} is not 0 or 1") for name in labels]
            faults.append(Fault(~np.isin(numbers(group["item_id"]), known_items), "unknown item"))
            kept = quarantine.keep(group, file=str(path.relative_to(raw)), rows=rows, faults=faults)
            if kept.num_rows:
                yield kept.cast(columns)


def _counted(rows: Iterator[pa.Table], items: pa.Table, schema: pa.Schema) -> Iterator[pa.Table]:
    """Impressions of the item so far, and hours since its creation or, where the items do not tell, its first event."""
    counts, firsts = RunningCounts(), FirstTimes()
    created = items.filter(items["created_at"].is_valid())
    firsts.add(numbers(created["created_at"]), numbers(created["item_id"]))
    for table in rows:
        times, ids = numbers(table["timestamp"]), numbers(table["item_id"])
        past = counts.count(times, ids)
        firsts.add(times, ids)
        hours = np.maximum(times - firsts.of(ids), 0) / MICROSECONDS_PER_HOUR
        made = {"dense_past_count": pa.array(past.astype(np.float32)), "dense_age_hours": pa.array(hours.astype(np.float32))}
        yield pa.table([made[name] if name in made else table[name] for name in schema.names], schema=schema)
