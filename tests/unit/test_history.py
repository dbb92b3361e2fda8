"""Histories and past counts against an oracle that looks at every pair of rows."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.history import Histories, PastEvents, RunningCounts

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
