"""The made-up log of the enrich benchmark, skewed as Zipf's law has it, the store of its items, and what enrichment adds."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.dataset import DatasetWriter, open_dataset
from features.dataset import publish as publish_dataset
from features.enrich import Additions
from features.ids import mix64
from features.location import Location
from features.parameterization import Ngrams
from features.schema import IMPRESSIONS, TIMESTAMP
from features.semantic_id import SidContract
from features.store.publish import publish

CONTRACT = SidContract(levels=3, codebook_size=2048, codebook_hash="benchmark", source="text", generation=1)
NGRAMS = Ngrams("prefix_ngram", CONTRACT.levels, CONTRACT.codebook_size, CONTRACT.levels, "modulo")
TABLE_ROWS = NGRAMS.table_rows(1_000_000)  # H
ADDITIONS = Additions((CONTRACT.source,))
LONGEST, EMPTY = 100, 0.05  # history items of a row: uniform up to so many, and the share of rows without any
UNKNOWN = 0.05  # share of ids that the store does not have
CHUNK = 1 << 16  # rows made at once
NOW = 1_750_000_000  # seconds


def write_store(folder: Path, items: int) -> None:
    """Publish the items, with codes drawn at random."""
    codes = np.random.default_rng(0).integers(0, CONTRACT.codebook_size, (items, CONTRACT.levels)).astype(np.uint16)
    publish(folder, [(_ids(np.arange(items)), {CONTRACT.source: codes})], [CONTRACT])


def write_impressions(folder: Path, rows: int, items: int, *, files: int, longest: int = LONGEST) -> int:
    """Write `rows` impressions in `files` equal parts, with up to `longest` history items each; the number of those over all rows."""
    ids = 0
    with DatasetWriter(folder, IMPRESSIONS, {"source": "benchmark"}, rows_per_file=-(-rows // files)) as writer:
        for start in range(0, rows, CHUNK):
            table = _impressions(start, min(start + CHUNK, rows), items, longest)
            ids += len(table.column("history_item_ids").chunk(0).values)
            writer.write(table)
    return ids


def repeat_impressions(once: Path, folder: Path, times: int) -> None:
    """A log as long as so many of another one, whose files it links to; it takes no time to write and no room on the disk."""
    dataset = open_dataset(once)
    folder.mkdir()
    files = []
    for number in range(times * len(dataset.files)):
        file = dataset.files[number % len(dataset.files)]
        files.append(replace(file, name=f"part-{number:05d}-{file.sha256[:8]}.parquet"))
        os.link(once / file.name, folder / files[-1].name)
    publish_dataset(Location.of(folder), files, dataset.metadata)


def _impressions(start: int, stop: int, items: int, longest: int) -> pa.Table:
    generator, rows = np.random.default_rng([1, start]), stop - start
    lengths = generator.integers(1, longest + 1, rows) * (generator.random(rows) >= EMPTY)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    now = NOW + np.arange(start, stop) // 16
    ages = np.cumsum(generator.integers(1, 20_000, offsets[-1]))  # each some hours after the one before it, within a row
    ages -= np.repeat(np.concatenate([[0], ages])[offsets[:-1]], lengths)
    past = generator.integers(0, 1000, rows)
    history = _ids(_popular(generator, int(offsets[-1]), items))
    columns = {
        "timestamp": _timestamps(now),
        "user_id": pa.array(generator.integers(0, 1 << 40, rows)),
        "item_id": pa.array(_ids(_popular(generator, rows, items))),
        "label_click": pa.array((generator.random(rows) < 0.1).astype(np.int8)),
        "dense_past_count": pa.array(past.astype(np.float32)),
        "dense_age_hours": pa.array(generator.integers(0, 10_000, rows).astype(np.float32)),
        "history_item_ids": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(history)),
        "history_timestamps": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _timestamps(np.repeat(now, lengths) - ages)),
        "past_impressions": pa.array(past.astype(np.int32)),
    }
    return pa.table(columns, schema=IMPRESSIONS)


def _popular(generator: np.random.Generator, count: int, items: int) -> NDArray[np.int64]:
    """Numbers of items, the n-th drawn about in proportion to 1 / n; those from `items` on are unknown."""
    numbers = np.exp(generator.random(count) * np.log(items)).astype(np.int64) - 1
    return numbers + items * (generator.random(count) < UNKNOWN)


def _ids(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    return mix64(numbers.astype(np.uint64) ^ np.uint64(0x5EED)).view(np.int64)


def _timestamps(seconds: NDArray[np.int64]) -> pa.Array:
    return pa.array(seconds * 1_000_000).cast(pa.timestamp("us")).cast(TIMESTAMP)
