"""Prefix-ngram keys against Python's big integers, and the two hazards: int64 overflow and a table size that shares a factor with K."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import prefix_ngram
from features.errors import InputError
from features.prefix_ngram import coprime_rows, exact_coarse_keys, prefix_ngram_keys, share_rows


@st.composite
def coded_items(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Codes uint16 [N, L], K and a depth."""
    levels = draw(st.integers(1, 8))
    size = draw(st.integers(1, 2048))
    codes = draw(st.lists(st.lists(st.integers(0, size - 1) | st.just(size - 1), min_size=levels, max_size=levels), min_size=1, max_size=6))
    return np.array(codes, np.uint16), size, draw(st.integers(1, levels))


def table_1(codes: list[int], size: int) -> int:
    """Paper A's key of one whole prefix, in exact integers, written as the power sum."""
    return sum(size ** (len(codes) - t) * (code + 1) for t, code in enumerate(codes, start=1)) - 1


@given(coded_items(), st.integers(1, 2**31) | st.integers(1, 2**51))
def test_keys_agree_with_big_integers(items: tuple[np.ndarray, int, int], rows: int) -> None:
    codes, size, depth = items
    keys = prefix_ngram_keys(codes, depth=depth, codebook_size=size, rows=rows)
    assert keys.dtype == np.int64
    assert keys.flags.c_contiguous
    assert keys.tolist() == [[table_1(row[:i], size) % rows for i in range(1, depth + 1)] for row in codes.tolist()]


@given(coded_items())
def test_keys_without_rows_are_exact_or_refused(items: tuple[np.ndarray, int, int]) -> None:
    codes, size, depth = items
    if table_1([size - 1] * depth, size) > 2**63 - 1:
        with pytest.raises(InputError, match="more than int64 holds"):
            prefix_ngram_keys(codes, depth=depth, codebook_size=size)
    else:
        keys = prefix_ngram_keys(codes, depth=depth, codebook_size=size)
        assert keys.tolist() == [[table_1(row[:i], size) for i in range(1, depth + 1)] for row in codes.tolist()]


@pytest.mark.parametrize(("size", "depth"), [(1, 4), (2, 6), (3, 4), (5, 3)])
def test_prefix_ranges_are_disjoint_and_contiguous(size: int, depth: int) -> None:
    codes = np.array(list(np.ndindex(*[size] * depth)), np.uint16)
    keys = prefix_ngram_keys(codes, depth=depth, codebook_size=size)
    ends = np.cumsum([size**i for i in range(1, depth + 1)])
    for level, end in enumerate(ends):
        assert np.array_equal(np.unique(keys[:, level]), np.arange(end - size ** (level + 1), end))


def test_blocks_join_without_a_seam() -> None:
    codes = np.random.default_rng(0).integers(0, 64, (prefix_ngram.BLOCK * 2 + 3, 3)).astype(np.uint16)
    whole = prefix_ngram_keys(codes, depth=3, codebook_size=64, rows=1009)
    seam = slice(prefix_ngram.BLOCK - 2, prefix_ngram.BLOCK + 2)
    assert np.array_equal(whole[seam], prefix_ngram_keys(codes[seam], depth=3, codebook_size=64, rows=1009))
    assert np.array_equal(whole[-3:], prefix_ngram_keys(codes[-3:], depth=3, codebook_size=64, rows=1009))


@given(coded_items(), st.integers(0, 2**31))
def test_exact_coarse_agrees_with_big_integers_and_keeps_levels_apart(items: tuple[np.ndarray, int, int], spare: int) -> None:
    codes, size, depth = items
    rows = size + depth - 1 + spare
    keys = exact_coarse_keys(codes, depth=depth, codebook_size=size, rows=rows)
    share = share_rows(depth=depth, codebook_size=size, rows=rows)
    assert np.array_equal(keys[:, 0], codes[:, 0])
    for level in range(1, depth):
        start = size + (level - 1) * share
        numbers = [sum(size ** (level - t) * code for t, code in enumerate(row[: level + 1])) for row in codes.tolist()]
        assert keys[:, level].tolist() == [start + number % share for number in numbers]
    assert keys.min() >= 0
    assert keys.max() < rows


@given(st.integers(2, 8), st.integers(1, 2048), st.integers(0, 2**31))
def test_share_is_the_largest_coprime_one(depth: int, size: int, spare: int) -> None:
    share = share_rows(depth=depth, codebook_size=size, rows=size + depth - 1 + spare)
    most = (depth - 1 + spare) // (depth - 1)
    assert 1 <= share <= most
    assert math.gcd(share, size) == 1
    assert all(math.gcd(larger, size) > 1 for larger in range(share + 1, most + 1))


def test_exact_coarse_is_free_of_collisions_where_a_level_fits() -> None:
    codes = np.array(list(np.ndindex(4, 4, 4)), np.uint16)
    keys = exact_coarse_keys(codes, depth=3, codebook_size=4, rows=4 + 2 * 65)
    for level in range(3):
        assert len(np.unique(keys[:, level])) == 4 ** (level + 1)


def test_equal_prefixes_have_equal_keys() -> None:
    first, second = np.array([[7, 3, 1], [7, 3, 9]], np.uint16)
    for make in (prefix_ngram_keys, exact_coarse_keys):
        keys = make(np.stack([first, second]), depth=3, codebook_size=16, rows=97)
        assert np.array_equal(keys[0, :2], keys[1, :2])
        assert keys[0, 2] != keys[1, 2]


def test_power_of_two_rows_lose_the_coarse_codes_and_coprime_rows_keep_them() -> None:
    """With K = 2^11 and H = 2^22 a 3-prefix's key is a function of its last two codes alone."""
    size, rows = 2048, 1 << 22
    codes = np.stack([np.arange(size), np.full(size, 5), np.full(size, 9)], axis=1).astype(np.uint16)
    assert len(np.unique(prefix_ngram_keys(codes, depth=3, codebook_size=size, rows=rows)[:, 2])) == 1
    cured = coprime_rows(rows, size)
    assert cured == rows + 1
    assert len(np.unique(prefix_ngram_keys(codes, depth=3, codebook_size=size, rows=cured)[:, 2])) == size


@given(st.integers(1, 2**31), st.integers(1, 65535))
def test_coprime_rows_is_the_next_one(rows: int, size: int) -> None:
    rounded = coprime_rows(rows, size)
    assert rounded >= rows
    assert math.gcd(rounded, size) == 1
    assert all(math.gcd(skipped, size) > 1 for skipped in range(rows, rounded))


def test_unknown_codes_raise_nothing_and_leave_other_items_alone() -> None:
    codes = np.array([[1, 2, 3], [65535] * 3, [4, 5, 6]], np.uint16)
    for make in (prefix_ngram_keys, exact_coarse_keys):
        keys = make(codes, depth=3, codebook_size=16, rows=997)
        assert np.array_equal(keys[[0, 2]], make(codes[[0, 2]], depth=3, codebook_size=16, rows=997))


def test_refusals_name_the_numbers() -> None:
    codes = np.zeros((1, 3), np.uint16)
    with pytest.raises(InputError, match=r"depth 4 is not in 1\.\.3"):
        prefix_ngram_keys(codes, depth=4, codebook_size=8, rows=100)
    with pytest.raises(InputError, match=r"257 rows are too few for depth 3.*256"):
        exact_coarse_keys(codes, depth=3, codebook_size=256, rows=257)
    with pytest.raises(InputError, match="outside what int64"):
        prefix_ngram_keys(codes, depth=3, codebook_size=2048, rows=1 << 53)
    with pytest.raises(InputError, match="codes must be integers"):
        prefix_ngram_keys(codes.astype(np.float32), depth=3, codebook_size=8, rows=100)
