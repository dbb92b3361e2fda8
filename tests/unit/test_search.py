"""The compiled search where buckets are long, short or empty, and where nothing can be kept of the compilation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.caching import CacheImpl

from features.semantic_id import UNKNOWN_CODE
from features.store.search import AT_ONCE, PROBES, compiled, find, gather


@given(
    sizes=st.lists(st.integers(0, 3 * PROBES), min_size=1, max_size=20).filter(any),
    asked=st.lists(st.tuples(st.integers(0, 19), st.integers(-1, 3 * PROBES)), max_size=60),
)
def test_find_is_a_search_of_the_bucket(sizes: list[int], asked: list[tuple[int, int]]) -> None:
    """Ids are bucket * 100 + place, so that Python says where each stands; place -1 or past the end is of no item."""
    directory = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint32)
    ids = np.array([bucket * 100 + place for bucket, size in enumerate(sizes) for place in range(size)], np.int64)
    wanted = [(bucket % len(sizes), place) for bucket, place in asked]
    expected = [int(directory[bucket]) + place if 0 <= place < sizes[bucket] else -1 for bucket, place in wanted]
    found = find(ids, directory, np.array([b * 100 + p for b, p in wanted], np.int64), np.array([bucket for bucket, _ in wanted], np.int64))
    assert found.tolist() == expected


def test_more_ids_than_are_worked_on_at_once() -> None:
    """One bucket per id, in an order of their own, every third one unknown."""
    count = 3 * AT_ONCE + 7
    order = np.random.default_rng(0).permutation(count)
    asked = np.where(order % 3 == 0, -1 - order, order).astype(np.int64)
    found = find(np.arange(count), np.arange(count + 1, dtype=np.int64), asked, order.astype(np.int64))
    assert found.tolist() == [-1 if place % 3 == 0 else place for place in order.tolist()]


def test_gather_counts_what_is_unknown_there_or_not_there() -> None:
    """Codes of three items, the second of which has none."""
    codes = np.array([[1, 2], [UNKNOWN_CODE, UNKNOWN_CODE], [5, 6]], np.uint16)
    answer = np.zeros((4, 2), np.uint16)
    assert gather(codes, np.array([2, -1, 1, 0]), answer) == 2
    assert answer.tolist() == [[5, 6], [UNKNOWN_CODE] * 2, [UNKNOWN_CODE] * 2, [1, 2]]


def test_without_a_place_for_it_the_code_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose file system is read-only."""

    def doubled(value: int) -> int:
        return 2 * value

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    assert compiled(doubled)(21) == 42
