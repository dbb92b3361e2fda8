"""Representations: rows in range, the same for the same item, unknown items on their reserved row; hashing spreads evenly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from features.prefix_ngram import prefix_ngram_keys
from features.representation import ItemColumns, Mapping, Representation, hashed_rows, mix64

IDS = hnp.arrays(np.int64, st.integers(1, 50))


def splitmix64(value: int) -> int:
    """SplitMix64's finaliser in big integers."""
    mask = 2**64 - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


@given(IDS, st.integers(1, 2**40))
def test_hashing_agrees_with_big_integers(ids: np.ndarray, rows: int) -> None:
    assert hashed_rows(ids, rows).tolist() == [splitmix64(int(i) % 2**64) % rows for i in ids]
    assert mix64(ids.view(np.uint64)).tolist() == [splitmix64(int(i) % 2**64) for i in ids]


def test_hashing_spreads_consecutive_ids_evenly() -> None:
    counts = np.bincount(hashed_rows(np.arange(100_000), 100), minlength=100)
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 149  # 99.9% quantile of 99 degrees of freedom


@pytest.mark.parametrize("mapping", ["exact_coarse", "modulo"])
def test_unknown_items_share_the_reserved_row_and_disturb_no_other(mapping: Mapping) -> None:
    codes = np.random.default_rng(0).integers(0, 16, (20, 3)).astype(np.uint16)
    with_unknown = codes.copy()
    with_unknown[[3, 11]] = 65535
    sid = Representation("sid", "semantic_id", rows=97, depth=3, mapping=mapping, codebook_size=16)
    clean, mixed = (sid.keys(ItemColumns(np.arange(20), part, None)) for part in (codes, with_unknown))
    assert (mixed[[3, 11]] == 97).all()
    others = np.setdiff1d(np.arange(20), [3, 11])
    assert np.array_equal(mixed[others], clean[others])
    assert clean.min() >= 0
    assert clean.max() < 97
    assert sid.table_rows == 98
    if mapping == "modulo":
        assert np.array_equal(clean, prefix_ngram_keys(codes, depth=3, codebook_size=16, rows=97))


def test_individual_ids_outside_the_map_are_unknown() -> None:
    own = Representation("own", "individual", rows=5)
    assert own.keys(ItemColumns(np.arange(3), None, np.array([4, -1, 0])))[:, 0].tolist() == [4, 5, 0]
