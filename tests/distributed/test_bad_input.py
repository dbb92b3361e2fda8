"""Bad input at scale: files that are damaged at random, and malformed rows among good ones; nothing wrong gets in and nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from features.dataset import open_parquet, read_row_group
from features.errors import InputError
from features.schema import TIMESTAMP
from tests.distributed.ranks import ROOT
from tests.unit.ingesting import ingested

CASES = 2550  # of which 51 leave the file as it is
ROWS, ROWS_PER_FILE, ROWS_PER_GROUP, MALFORMED = 1_000_000, 300_000, 50_000, 10_000
ITEMS = 3000
HOUR, SPACING = 3_600_000_000, 100_000  # microseconds; the time between impressions
UNKNOWN = 10**9  # the id of no item

ROW_FAULTS = (
    *(f"null {name}" for name in ("timestamp", "user_id", "item_id", "label_click", "label_like", "dense_past_count", "dense_age_hours")),
    *(f"null {name}" for name in ("history_item_ids", "history_timestamps", "context_country", "context_tags", "oracle_probability")),
    *(f"null in {name}" for name in ("history_item_ids", "history_timestamps", "context_tags")),
    "label_click is not 0 or 1",
    "label_like is not 0 or 1",
    "dense_past_count is negative or not finite",
    "dense_age_hours is negative or not finite",
    "unknown item",
    "history_item_ids and history_timestamps differ in length",
    "history item not before its impression",
    "history is not most recent first",
    "timestamp out of order",
)
ITEM_FAULTS = ("null item_id", "title is not UTF-8", "text is not UTF-8", "vector_image is missing or not finite", "item_id met before")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 4 * CASES, CASES))
def test_damaged_files_give_the_right_rows_or_a_clear_error(tmp_path: Path, first: int) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.soak.mutations", str(tmp_path), str(CASES), str(first)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    ends = json.loads(done.stdout.splitlines()[-1])
    assert ends["ours, refused"] + ends["ours, right"] == CASES
    assert 51 <= ends["ours, right"] < CASES // 20
    assert ends["ours, by a job, refused"] > CASES // 30
    assert ends["ours, another part by row numbers, right"] > CASES // 10  # such damage as the reader cannot know of without looking
    assert ends["ours, row group named"] == ends["with page checksums, row group named"] > CASES // 20
    logs = [f"{kind} page checksums, as a canonical log, {end}" for kind in ("with", "without") for end in ("right", "refused")]
    assert min(ends[log] for log in logs) > 5
    assert ends["without page checksums, wrong"] > 9  # which shows that there was something to be seen


def test_rows_that_a_footer_takes_away_or_makes_up_are_told(tmp_path: Path) -> None:
    path, table = tmp_path / "0.parquet", pa.table({"id": range(100), "tags": [[i] * (i % 3) for i in range(100)]})
    pq.write_table(table, path)
    whole, hundred = path.read_bytes(), b"\xc8\x01"  # as the footer writes it, a zigzag varint
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    places = [place for place in range(footer, len(whole)) if whole[place : place + 2] == hundred]
    refused = []
    changes: list[tuple[list[int], int]] = [*(([place], change) for place in places for change in (-2, 2)), (places, 2)]
    for changed, change in changes:
        damaged = bytearray(whole)
        for place in changed:
            damaged[place] += change
        path.write_bytes(damaged)
        try:
            file = open_parquet(path)
            assert read_row_group(file, path, 0).equals(table)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) >= 5, "the file's rows and the row group's, one more and one less, and all at once"
    assert all(str(path) in error for error in refused)
    assert sum("row group 0 cannot be read" in error for error in refused) >= 1


def test_malformed_rows_among_a_million_go_to_the_quarantine_and_no_others(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    items, item_faults = items_table(draw)
    faults = np.full(ROWS, "", object)
    malformed = draw.choice(np.arange(100, ROWS), MALFORMED, replace=False)
    faults[malformed] = np.resize(np.array(ROW_FAULTS, object), MALFORMED)
    faults[[ROWS_PER_GROUP, ROWS_PER_FILE]] = "timestamp out of order"  # in the first row of a row group, and of a file
    good_ids = items["item_id"].to_numpy()[item_faults == ""]
    bad_ids = np.setdiff1d(items["item_id"].drop_null().to_numpy(), good_ids)
    impressions = impressions_table(draw, faults, good_ids.astype(np.int64), bad_ids.astype(np.int64))
    raw = tmp_path / "raw"
    (raw / "impressions").mkdir(parents=True)
    pq.write_table(items, raw / "items.parquet", row_group_size=ITEMS // 7)
    for number, start in enumerate(range(0, ROWS, ROWS_PER_FILE)):
        part = impressions.slice(start, ROWS_PER_FILE)
        pq.write_table(part, raw / "impressions" / f"{number}.parquet", row_group_size=ROWS_PER_GROUP, write_page_checksum=True)

    log = ingested(raw, "canonical", history_length=6)

    expected = {("items.parquet", int(row) + 1, item_faults[row]) for row in np.flatnonzero(item_faults)}
    for row in np.flatnonzero(faults):
        file, place = divmod(int(row), ROWS_PER_FILE)
        expected.add((f"impressions/{file}.parquet", place + 1, faults[row]))
    assert len(log.quarantine) == len(expected) > MALFORMED
    assert set(log.quarantine) == expected
    counts = log.metadata["counts"]
    assert sum(count["read"] for file, count in counts.items() if file != "items.parquet") == ROWS
    assert counts["items.parquet"]["read"] == ITEMS
    accepted = impressions.filter(pa.array(faults == ""))
    assert log.impressions.num_rows == accepted.num_rows
    for name in accepted.column_names:
        assert log.impressions[name].cast(accepted[name].type).equals(accepted[name]), name
    earlier = pd.Series(accepted["item_id"].to_numpy()).groupby(accepted["item_id"].to_numpy()).cumcount()
    assert np.array_equal(log.impressions["past_impressions"].to_numpy(), earlier.to_numpy())
    good_items = items.filter(pa.array(item_faults == ""))
    for name in good_items.column_names:
        assert log.items[name].cast(good_items[name].type).equals(good_items[name]), name


def items_table(draw: np.random.Generator) -> tuple[pa.Table, NDArray[np.object_]]:
    """Items with text and vectors, and each row's fault, "" for none; every other faulty row has the id of the good one after it."""
    faults = np.full(ITEMS, "", object)
    malformed = np.arange(3, ITEMS - 1, 5)
    faults[malformed] = np.resize(np.array(ITEM_FAULTS, object), len(malformed))

    def at(fault: str) -> NDArray[np.int64]:
        return np.flatnonzero(faults == fault)

    ids = draw.permutation(10 * ITEMS)[:ITEMS]
    ids[malformed[::2]] = ids[malformed[::2] + 1]
    repeated = at("item_id met before")
    ids[repeated] = ids[repeated - np.where(np.arange(len(repeated)) % 2 * repeated > ITEMS // 2, ITEMS // 2 + 2, 2)]  # near or far
    columns: dict[str, pa.Array] = {"item_id": pa.array(ids, mask=faults == "null item_id")}
    for name in ("title", "text"):
        strings = [None if i % 11 == 0 else f"{name} of item {i}: é".encode() for i in range(ITEMS)]
        for row in at(f"{name} is not UTF-8"):
            strings[row] = (b"\xff", b"half of a letter \xc3", b"\xed\xa0\x80")[row % 3]
        columns[name] = pa.array(strings, pa.binary()).view(pa.string())
    vectors, broken = draw.normal(size=(ITEMS, 3)).astype(np.float32), at("vector_image is missing or not finite")
    vectors[broken[0::4], 1], vectors[broken[1::4], 2] = np.nan, -np.inf
    nulls, null_elements = np.zeros(ITEMS, bool), np.zeros((ITEMS, 3), bool)
    nulls[broken[2::4]], null_elements[broken[3::4], 0] = True, True
    elements = pa.array(vectors.reshape(-1), mask=null_elements.reshape(-1))
    columns["vector_image"] = pa.FixedSizeListArray.from_arrays(elements, 3, mask=pa.array(nulls))
    return pa.table(columns), faults


def impressions_table(
    draw: np.random.Generator, faults: NDArray[np.object_], good_ids: NDArray[np.int64], bad_ids: NDArray[np.int64]
) -> pa.Table:
    """Impressions of good items, each with the fault that it is to have, "" for none."""
    rows = {fault: np.flatnonzero(faults == fault) for fault in ROW_FAULTS}
    times = 1_700_000_000_000_000 + SPACING * np.arange(ROWS)
    lengths = np.where(faults == "", draw.integers(0, 6, ROWS), draw.integers(2, 6, ROWS))
    first, of_row = np.cumsum(lengths) - lengths, np.repeat(np.arange(ROWS), lengths)
    position = np.arange(len(of_row)) - first[of_row]
    history_times = times[of_row] - HOUR * (1 + position)
    late, rising = first[rows["history item not before its impression"]], first[rows["history is not most recent first"]]
    history_times[late] = times[of_row[late]] + np.resize([0, 1, HOUR], len(late))
    history_times[rising] -= 2 * HOUR
    time_lengths = lengths.copy()
    time_lengths[rows["history_item_ids and history_timestamps differ in length"]] -= 1
    kept = position < time_lengths[of_row]
    times[rows["timestamp out of order"]] -= 10 * SPACING
    times[rows["null user_id"]] += 24 * HOUR  # which must not make the rows after them late
    numbers = {
        "user_id": draw.integers(0, 10**6, ROWS),
        "item_id": draw.choice(good_ids, ROWS),
        "label_click": draw.integers(0, 2, ROWS, np.int8),
        "label_like": draw.integers(0, 2, ROWS, np.int8),
        "dense_past_count": draw.random(ROWS, np.float32),
        "dense_age_hours": draw.random(ROWS, np.float32),
        "context_country": draw.integers(0, 200, ROWS),
        "oracle_probability": draw.random(ROWS),
    }
    numbers["item_id"][rows["unknown item"]] = np.resize([UNKNOWN, *bad_ids], len(rows["unknown item"]))
    for name, wrong in (("label", [-1, 2, 127]), ("dense", [np.nan, np.inf, -np.inf, -0.001])):
        for fault in ROW_FAULTS:
            column, _, told = fault.partition(" is ")
            if told and column.startswith(name):
                numbers[column][rows[fault]] = np.resize(wrong, len(rows[fault]))
    columns = {name: pa.array(values, mask=faults == f"null {name}") for name, values in numbers.items()}
    columns["timestamp"] = pa.array(times, TIMESTAMP, mask=faults == "null timestamp")
    tags = np.maximum(lengths - 1, 0)
    lists: dict[str, tuple[NDArray[np.int64], NDArray[np.int64], pa.DataType]] = {
        "history_item_ids": (lengths, draw.integers(0, 10**6, len(of_row)), pa.int64()),
        "history_timestamps": (time_lengths, history_times[kept], TIMESTAMP),
        "context_tags": (tags, draw.integers(0, 50, tags.sum()), pa.int64()),
    }
    for name, (sizes, elements, kind) in lists.items():
        starts, null = np.cumsum(sizes) - sizes, np.zeros(len(elements), bool)
        broken = rows[f"null in {name}"]
        null[starts[broken] + np.arange(len(broken)) % sizes[broken]] = True
        offsets = pa.array(np.append(starts, len(elements)), pa.int32())
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(elements, kind, mask=null), mask=pa.array(faults == f"null {name}"))
    return pa.table(columns)
