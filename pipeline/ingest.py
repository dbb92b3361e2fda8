"""Stage ingest: raw files as published to canonical Parquet: items, impressions in time order, and the quarantine."""

import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from features.dataset import DatasetWriter
from features.errors import InputError
from features.history import RunningCounts
from features.quarantine import QUARANTINE, numbers
from features.schema import IMPRESSIONS
from features.sources import canonical, events, ifdb, mind, movielens, online_retail
from features.sources.log import SourceLog
from features.validate import COUNTED
from pipeline.config import IngestConfig, RunConfig


def run(config: RunConfig) -> None:
    """Write the data sets items, impressions and quarantine.

    Raises:
        InputError: no folder is given, a file or column is at fault, or not one impression was accepted (the quarantine tells why).
    """
    started = time.perf_counter()
    log = _read(config.ingest, config.workdir)
    metadata = log.metadata | {"history_length": config.ingest.history_length, "last_rows": config.ingest.last_rows}
    with DatasetWriter(config.path("items"), log.items.schema, metadata) as items:
        items.write(log.items)
    schema = pa.schema([*log.schema, IMPRESSIONS.field(COUNTED)])
    rows = 0
    with DatasetWriter(config.location("impressions"), schema, metadata) as impressions:
        for table in numbered(latest(log.impressions, config.ingest.last_rows)):
            impressions.write(table)
            rows += table.num_rows
        metadata["counts"] = log.quarantine.counts_json()
        with DatasetWriter(config.path("quarantine"), QUARANTINE, metadata) as quarantine:
            quarantine.write(log.quarantine.table())
        if rows == 0:
            raise InputError(f"{config.ingest.raw}: no impression was accepted; the reasons are in {config.path('quarantine')}")
    for file, counts in metadata["counts"].items():
        print(f"ingest: {file}: {counts['read']} rows read, {counts['accepted']} accepted, {counts['quarantined']} quarantined", flush=True)
    print(f"ingest: {log.items.num_rows} items, {rows} impressions in {time.perf_counter() - started:.1f} s", flush=True)


def latest(tables: Iterator[pa.Table], rows: int | None) -> Iterator[pa.Table]:
    """The last `rows` rows, or all; holds no more than these rows and one table."""
    if rows is None:
        yield from tables
        return
    kept: deque[pa.Table] = deque()
    held = 0
    for table in tables:
        kept.append(table)
        held += table.num_rows
        while held - kept[0].num_rows >= rows:
            held -= kept.popleft().num_rows
    if kept and held > rows:
        kept[0] = kept[0].slice(held - rows)
    yield from kept


def numbered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Append past_impressions: how often the item was in an earlier row of what is written."""
    counts = RunningCounts()
    field = IMPRESSIONS.field(COUNTED)
    for table in tables:
        past = counts.count(numbers(table["timestamp"]), numbers(table["item_id"]))
        yield table.append_column(field, pa.array(past, field.type))


def _read(config: IngestConfig, workdir: Path) -> SourceLog:
    if config.source == "simulated":
        raise InputError("'ingest.source': the simulated world has no raw files; its stage is simulate")
    if config.raw is None:
        raise InputError(f"'ingest.raw': name the folder that holds the raw files of {config.source}")
    raw, length, seed = Path(config.raw).expanduser(), config.history_length, config.seed
    if not raw.is_dir():
        raise InputError(f"'ingest.raw': {raw} is no folder")
    if config.source == "movielens":
        return movielens.read(raw, history_length=length, seed=seed)
    if config.source == "mind":
        return mind.read(raw, history_length=length, seed=seed)
    if config.source == "canonical":
        return canonical.read(raw, history_length=length)
    if config.source == "events":
        workdir.mkdir(parents=True, exist_ok=True)
        delay = round(config.history_delay_seconds * 1e6)
        return events.read(raw, history_length=length, delay=delay, spill=workdir, rows_in_memory=config.rows_in_memory)
    construct = ifdb.read if config.source == "ifdb" else online_retail.read
    return construct(raw, history_length=length, negatives_per_positive=config.negatives_per_positive, seed=seed)


if __name__ == "__main__":
    from pipeline.cli import main

    sys.exit(main(stage="ingest"))
