"""Prefix-ngram keys against Python's big integers, and the two hazards: int64 overflow and a table size that shares a factor with K."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import horner
from features.errors import InputError
from features.prefix_ngram import coprime_rows, equal_shares, exact_coarse_keys, level_rows, nested_keys, prefix_ngram_keys


@st.composite
def coded_items(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Codes uint16 [N, L], K and a depth."""
    levels = draw(st.integers(1, 8))
    size = draw(st.integers(1, 2048) | st.integers(1, 65535))
    codes = draw(st.lists(st.lists(st.integers(0, size - 1) | st.just(size - 1), min_size=levels, max_size=levels), min_size=1, max_size=6))
    return np.array(codes, np.uint16), size, draw(st.integers(1, levels))


def table_1(codes: list[int], size: int) -> int:
    """Paper A's key of one whole prefix, in exact integers, written as the power sum."""
    return sum(size ** (len(codes) - t) * (code + 1) for t, code in enumerate(codes, start=1)) - 1


@given(coded_items(), st.integers(1, 2**31) | st.integers(1, 2**46))
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
    codes = np.random.default_rng(0).integers(0, 64, (horner.BLOCK * 2 + 3, 3)).astype(np.uint16)
    whole = prefix_ngram_keys(codes, depth=3, codebook_size=64, rows=1009)
    seam = slice(horner.BLOCK - 2, horner.BLOCK + 2)
    assert np.array_equal(whole[seam], prefix_ngram_keys(codes[seam], depth=3, codebook_size=64, rows=1009))
    assert np.array_equal(whole[-3:], prefix_ngram_keys(codes[-3:], depth=3, codebook_size=64, rows=1009))


@given(coded_items(), st.integers(0, 2**31) | st.integers(0, 2**46))
def test_exact_coarse_agrees_with_big_integers_and_keeps_levels_apart(items: tuple[np.ndarray, int, int], spare: int) -> None:
    codes, size, depth = items
    rows = size + depth - 1 + spare
    keys = exact_coarse_keys(codes, depth=depth, codebook_size=size, rows=rows)
    sizes = level_rows(depth=depth, codebook_size=size, rows=rows)
    assert np.array_equal(keys[:, 0], codes[:, 0])
    for level, share in enumerate(sizes):
        numbers = [sum(size ** (level - t) * code for t, code in enumerate(row[: level + 1])) for row in codes.tolist()]
        assert keys[:, level].tolist() == [sum(sizes[:level]) + number % share for number in numbers]
    assert keys.min() >= 0
    assert keys.max() < rows


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 2048), st.integers(0, 2**40))
def test_ranges_get_all_their_keys_or_equal_coprime_shares(exponents: list[int], size: int, spare: int) -> None:
    sizes, rows = [size**exponent for exponent in exponents], len(exponents) + spare
    low, high = 1, rows  # the oracle: the highest level up to which all ranges can be filled, found by bisection
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(each, middle) for each in sizes) <= rows else (low, middle - 1)
    for each, share in zip(sizes, equal_shares(sizes, rows, size), strict=True):
        if each <= low:
            assert share == each
        elif each == size:
            assert share == low
        else:
            assert 1 <= share <= low
            assert math.gcd(share, size) == 1
            assert all(math.gcd(larger, size) > 1 for larger in range(share + 1, low + 1))


def test_coarse_levels_get_their_own_rows_as_far_as_the_table_allows() -> None:
    assert level_rows(depth=3, codebook_size=4, rows=14) == [4, 5, 5]
    assert level_rows(depth=3, codebook_size=4, rows=60) == [4, 16, 39]
    assert level_rows(depth=3, codebook_size=4, rows=1000) == [4, 16, 64]


def test_exact_coarse_is_free_of_collisions_where_a_level_fits() -> None:
    codes = np.array(list(np.ndindex(4, 4, 4)), np.uint16)
    keys = exact_coarse_keys(codes, depth=3, codebook_size=4, rows=4 + 2 * 65)
    for level in range(3):
        assert len(np.unique(keys[:, level])) == 4 ** (level + 1)


@given(coded_items(), st.integers(0, 2**31) | st.integers(0, 2**44))
def test_nested_agrees_with_big_integers(items: tuple[np.ndarray, int, int], spare: int) -> None:
    codes, size, depth = items
    rows = size * depth + spare
    sizes = level_rows(depth=depth, codebook_size=size, rows=rows)
    exact = [share for level, share in enumerate(sizes) if share == size ** (level + 1)]
    share = (rows - sum(exact)) // max(depth - len(exact), 1) // size
    part = next((part for part in range(share, 1, -1) if math.gcd(part, size) == 1), 1)
    expected = []
    for row in codes.tolist():
        keys = []
        for level in range(depth):
            rest = sum(code * size ** (level - index) for index, code in enumerate(row[: level + 1]) if index)
            if level < len(exact):
                keys.append(sum(exact[:level]) + row[0] * size**level + rest)
            else:
                keys.append(sum(exact) + (level - len(exact)) * size * part + row[0] * part + rest % part)
        expected.append(keys)
    assert nested_keys(codes, depth=depth, codebook_size=size, rows=rows).tolist() == expected


@pytest.mark.parametrize("rows", [3 * 5, 5 + 25 + 5, 5 + 25 + 61, 5 + 25 + 125])
def test_what_collides_in_a_nested_row_shares_its_first_code(rows: int) -> None:
    codes = np.array(list(np.ndindex(5, 5, 5)), np.uint16)
    keys = nested_keys(codes, depth=3, codebook_size=5, rows=rows)
    assert keys.max() < rows
    owners: dict[int, set[tuple[int, int]]] = {}
    for level in range(3):
        for key, first in zip(keys[:, level].tolist(), codes[:, 0].tolist(), strict=True):
            owners.setdefault(key, set()).add((level, first))
    assert all(len(owner) == 1 for owner in owners.values())
    # The other mapping of ours gives no such promise, or this test would show nothing.
    other = exact_coarse_keys(codes, depth=3, codebook_size=5, rows=5 + 25 + 61)[:, 2]
    assert any(len(set(codes[other == key, 0].tolist())) > 1 for key in np.unique(other))


def test_equal_prefixes_have_equal_keys() -> None:
    first, second = np.array([[7, 3, 1], [7, 3, 9]], np.uint16)
    for make in (prefix_ngram_keys, exact_coarse_keys, nested_keys):
        keys = make(np.stack([first, second]), depth=3, codebook_size=16, rows=561)
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
    for make in (prefix_ngram_keys, exact_coarse_keys, nested_keys):
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
    with pytest.raises(InputError, match="2 rows are too few for 3 ranges"):
        equal_shares([8, 8, 8], 2, 8)
    with pytest.raises(InputError, match="codes must be integers"):
        prefix_ngram_keys(codes.astype(np.float32), depth=3, codebook_size=8, rows=100)
