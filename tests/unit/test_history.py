"""Histories and past counts, in memory and of a sorted stream, against an oracle that looks at every pair of rows."""

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InputError
from features.external_sort import sort_by
from features.history import Histories, PastEvents, RunningCounts
from features.schema import IMPRESSIONS, TIMESTAMP
from features.user_histories import with_histories

INT64 = np.iinfo(np.int64)
SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.sampled_from([0, 1, 2, 3, 1000, 1 << 18])  # with the last, a table of the output has four rows
DELAYS = st.sampled_from([0, 1, 2, 5, 1 << 62, int(INT64.max)])
ROW = st.tuples(st.integers(0, 12), st.integers(-2, 3), st.integers(0, 5), st.booleans())
LOGS = st.lists(ROW, max_size=60).map(lambda rows: sorted(rows, key=lambda row: row[0]))


def columns(log: list[Any]) -> tuple[Any, ...]:
    rows = np.array(log, np.int64).reshape(-1, 4)
    return rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3].astype(bool)


@given(LOGS, st.integers(1, 4))
def test_histories_agree_with_every_pair_of_rows(log: list[Any], length: int) -> None:
    times, users, items, positive = columns(log)
    ids, stamps = Histories(times[positive], users[positive], items[positive]).before(times, users, length)
    for row, (time, user, _, _) in enumerate(log):
        past = [(t, i) for t, u, i, click in log if click and u == user and t < time][::-1][:length]
        assert ids[row].as_py() == [i for _, i in past]
        assert [stamp.value for stamp in stamps[row]] == [t for t, _ in past]
    assert ids.offsets.equals(stamps.offsets)


@given(LOGS)
def test_counts_and_ages_agree_with_every_pair_of_rows(log: list[Any]) -> None:
    times, _, items, _ = columns(log)
    past = PastEvents(items, times)
    earlier = [[t for t, _, i, _ in log if i == item and t < time] for time, _, item, _ in log]
    assert past.count_before(items, times).tolist() == [len(found) for found in earlier]
    ages = [(time - min(found)) / 3.6e9 if found else 0 for (time, *_), found in zip(log, earlier, strict=True)]
    assert past.hours_since_first(items, times) == pytest.approx(np.array(ages, np.float32))


@given(LOGS, st.lists(st.integers(0, 60), max_size=4))
def test_running_counts_do_not_depend_on_the_chunks(log: list[Any], cuts: list[int]) -> None:
    times, _, items, _ = columns(log)
    counts = RunningCounts()
    bounds = [0, *sorted(min(cut, len(log)) for cut in cuts), len(log)]
    chunks = [counts.count(times[a:b], items[a:b]) for a, b in pairwise(bounds)]
    assert np.concatenate(chunks).tolist() == PastEvents(items, times).count_before(items, times).tolist()


@given(LOGS, st.integers(1, 3))
def test_the_latest_positives_stand_in_for_the_whole_past(log: list[Any], length: int) -> None:
    times, users, items, positive = columns(log)
    whole = Histories(times[positive], users[positive], items[positive])
    later = np.full(6, 13), np.arange(-2, 4)
    assert Histories(*whole.latest(length)).before(*later, length) == whole.before(*later, length)


def test_simultaneous_rows_do_not_see_each_other() -> None:
    times, users, items = np.array([5, 5, 6]), np.array([1, 1, 1]), np.array([10, 11, 12])
    ids, _ = Histories(times, users, items).before(times, users, 9)
    assert ids.to_pylist() == [[], [], [11, 10]]


def test_a_user_without_positives_has_an_empty_history() -> None:
    empty = np.empty(0, np.int64)
    ids, stamps = Histories(empty, empty, empty).before(np.array([1, 2]), np.array([7, 8]), 3)
    assert ids.to_pylist() == stamps.to_pylist() == [[], []]


def event_log(seed: int) -> pa.Table:
    """Up to 24 rows sorted by user and time, with many ties, at the ends of int64 too, and users without positives."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 25)
    users, times = rng.integers(-1, 3, rows), rng.integers(0, 8, rows) + rng.choice([0, INT64.min, INT64.max - 8])
    order = np.lexsort((times, users))
    labels = rng.random(rows) < rng.choice([0, 0.3, 0.7, 1], 3)[users]
    columns = [np.arange(rows), times[order], rng.integers(0, 9, rows), labels.astype(np.int8)[order], users[order]]
    return events(*columns)


def events(rows: Any, times: Any, items: Any, labels: Any, users: Any) -> pa.Table:
    """A log with one column that is only passed through."""
    times = pa.array(times, pa.int64()).cast(TIMESTAMP)
    columns = {"row": rows, "timestamp": times, "item_id": items, "label_click": pa.array(labels, pa.int8()), "user_id": users}
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def batches(log: pa.Table, seed: int) -> Iterator[pa.Table | pa.RecordBatch]:
    """The log cut at up to four random places: tables and record batches, some of them empty."""
    rng = np.random.default_rng(seed)
    for a, b in pairwise([0, *sorted(rng.integers(0, log.num_rows + 1, rng.integers(5))), log.num_rows]):
        part = log.slice(a, b - a)
        yield from part.to_batches() if rng.random() < 0.5 else [part]


def whole(tables: Iterator[pa.Table]) -> pa.Table:
    return pa.concat_tables([event_log(0).slice(0, 0), *tables], promote_options="default").combine_chunks()


def integers(table: pa.Table, *names: str) -> list[list[Any]]:
    """Columns as Python's ints, times in microseconds."""
    types = [pa.list_(pa.int64()) if pa.types.is_list(table[name].type) else pa.int64() for name in names]
    return [table[name].cast(kind).to_pylist() for name, kind in zip(names, types, strict=True)]


@pytest.mark.slow
@settings(max_examples=1_000, deadline=None)
@given(SEEDS, LENGTHS, DELAYS)
def test_histories_of_a_stream_agree_with_every_pair_of_rows(seed: int, length: int, delay: int) -> None:
    log = event_log(seed)
    found = whole(with_histories(batches(log, seed + 1), length=length, delay=delay))
    assert found.select(log.column_names).equals(log)
    if log.num_rows == 0:
        return
    rows = list(zip(*integers(log, "timestamp", "user_id", "item_id", "label_click"), strict=True))
    expected = [[(t, i) for t, u, i, click in rows if click and u == user and t + delay < time][::-1][:length] for time, user, _, _ in rows]
    ids, times = integers(found, "history_item_ids", "history_timestamps")
    assert ids == [[i for _, i in past] for past in expected]
    assert times == [[t for t, _ in past] for past in expected]


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(SEEDS, LENGTHS, DELAYS)
def test_no_history_of_a_stream_has_what_was_not_known(seed: int, length: int, delay: int) -> None:
    for table in with_histories(batches(event_log(seed), seed + 1), length=length, delay=delay):
        row_times, history_times = integers(table, "timestamp", "history_timestamps")
        for time, history in zip(row_times, history_times, strict=True):
            assert all(past + delay < time for past in history)


@pytest.mark.slow
@settings(max_examples=1_000, deadline=None)
@given(SEEDS, SEEDS, LENGTHS, DELAYS)
def test_histories_of_a_stream_do_not_depend_on_its_batches(seed: int, cuts: int, length: int, delay: int) -> None:
    log = event_log(seed)
    in_batches, at_once = batches(log, cuts), [log]
    assert whole(with_histories(in_batches, length=length, delay=delay)).equals(whole(with_histories(at_once, length=length, delay=delay)))


def test_columns_of_the_stream_are_those_of_the_schema() -> None:
    log = events([1], [5], [9], [1], [7]).rename_columns(["row", "timestamp", "item_id", "label_buy", "user_id"])
    (found,) = with_histories([log], length=2, positive="label_buy")
    assert found.schema.equals(pa.schema([*log.schema, IMPRESSIONS.field("history_item_ids"), IMPRESSIONS.field("history_timestamps")]))
    assert list(with_histories([], length=2)) == list(with_histories([event_log(0).slice(0, 0)], length=2)) == []


@settings(max_examples=500, deadline=None)
@given(SEEDS, SEEDS)
def test_the_first_row_at_fault_is_named_however_the_log_is_cut(seed: int, cuts: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, [[3], [3], [3], [2]], (4, 12)).astype(object)
    values[:2, :8] = values[:2, np.lexsort((values[1, :8], values[0, :8]))]  # in order at first
    values[3, rng.integers(8, 12)] = 2
    values[rng.integers(4), rng.integers(8, 12)] = None
    users, times, items, labels = values.tolist()
    faults = (
        (lambda row: None in (users[row], times[row], items[row], labels[row]), "is null"),
        (lambda row: labels[row] == 2, "label_click is neither 0 nor 1"),
        (lambda row: row > 0 and users[row] < users[row - 1], "not sorted by user_id"),
        (lambda row: row > 0 and users[row] == users[row - 1] and times[row] < times[row - 1], "not sorted by timestamp"),
    )
    first, reason = next((row, reason) for row in range(12) for holds, reason in faults if holds(row))
    log = events(list(range(12)), times, pa.array(items, pa.int64()), labels, pa.array(users, pa.int64()))
    with pytest.raises(InputError, match=f"event log: row {first + 1}, user {users[first]}: .*{reason}"):
        list(with_histories(batches(log, cuts), length=2))


def test_a_user_who_comes_again_is_not_sorted() -> None:
    log = events([0, 1, 2], [1, 1, 2], [9, 9, 9], [1, 1, 1], [7, 8, 7])
    with pytest.raises(InputError, match="event log: row 3, user 7: the log is not sorted by user_id"):
        list(with_histories([log.slice(0, 2), log.slice(2)], length=2))


def test_logs_and_arguments_that_cannot_be_used_are_named() -> None:
    log = events([0], [1], [9], [1], [7])
    for bad, match in (
        (log.drop_columns("item_id"), "event log: column 'item_id' .* is missing"),
        (log.set_column(1, "timestamp", pa.array([1])), "event log: column 'timestamp' is int64, expected timestamp"),
        (whole(with_histories([log], length=1)), "already has history_item_ids, history_timestamps"),
    ):
        with pytest.raises(InputError, match=match):
            list(with_histories([bad], length=1))
    for length, delay in ((-1, 0), (1, -1), (1, 1 << 63)):
        with pytest.raises(InputError, match="length of 0 or more and a delay of 0 or more"):
            list(with_histories([log], length=length, delay=delay))


@pytest.mark.parametrize(("delay", "most"), [(0, 0.5e6), (30_000, 5e6)])
def test_of_a_long_user_only_what_can_still_be_seen_is_kept(delay: int, most: float) -> None:
    """One user has 200,000 positives, one a microsecond; about 100 bytes of NumPy's per positive that is kept, 20 MB for all."""
    steps = np.arange(1000)
    log = (events(steps, steps + 1000 * part, steps, steps * 0 + 1, steps * 0) for part in range(200))
    tracemalloc.start()
    rows = sum(table.num_rows for table in with_histories(log, length=5, delay=delay))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 200_000
    assert peak < most


def test_sorted_by_user_and_back_a_log_has_the_histories_made_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = 30_000
    times, users = np.sort(rng.integers(0, 3000, rows)), rng.integers(0, 300, rows)  # some positives of a user are simultaneous
    log = events(np.arange(rows), times, rng.integers(0, 500, rows), rng.random(rows) < 0.3, users)
    tables = [log.slice(start, 700) for start in range(0, rows, 700)]
    by_user = sort_by(tables, ["user_id", "timestamp"], tmp_path, rows_in_memory=2000)
    made = sort_by(with_histories(by_user, length=20), ["timestamp", "row"], tmp_path, rows_in_memory=2000)
    found = pa.concat_tables(made)
    assert found.select(log.column_names).equals(log)
    positives = log.filter(pa.array(log["label_click"].to_numpy() == 1))
    columns = (positives[name].cast(pa.int64()).to_numpy() for name in ("timestamp", "user_id", "item_id"))
    ids, stamps = Histories(*columns).before(times, users, 20)
    assert found["history_item_ids"].combine_chunks().equals(ids)
    assert found["history_timestamps"].combine_chunks().equals(stamps)
    assert list(tmp_path.iterdir()) == []
