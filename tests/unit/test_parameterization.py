"""Every scheme against its formula in big integers, its key space by enumeration, and a table per group against torch's EmbeddingBags."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InputError
from features.parameterization import Mapping, Ngrams, Scheme
from features.prefix_ngram import coprime_rows, equal_shares

SCHEMES: tuple[Scheme, ...] = ("prefix_ngram", "trigram", "fourgram", "all_bigrams", "unigram", "bigram")
SMALL: list[tuple[Scheme, Mapping]] = [
    *((scheme, "modulo") for scheme in SCHEMES),
    ("prefix_ngram", "exact_coarse"),
    ("prefix_ngram", "nested"),
]


def made(scheme: Scheme, levels: int, size: int, mapping: Mapping = "modulo") -> Ngrams:
    return Ngrams(scheme, levels, size, levels if scheme == "prefix_ngram" else 0, mapping)


def formula(scheme: Scheme, codes: list[int], K: int) -> list[tuple[int, int]]:
    """Each key as (its range, its number): paper A's table 1 has one range; paper B a table per group."""
    L = len(codes)
    if scheme == "trigram":
        c1, c2, c3, *_ = codes
        return [(0, K**2 * c1 + K * c2 + c3)]
    if scheme == "fourgram":
        c1, c2, c3, c4, *_ = codes
        return [(0, K**3 * c1 + K**2 * c2 + K * c3 + c4)]
    if scheme == "all_bigrams":
        return [(0, K**2 * (i - 1) + K * codes[i - 1] + codes[i]) for i in range(1, L)]
    if scheme == "unigram":
        return list(enumerate(codes))
    if scheme == "bigram":
        pairs = [(g, K * codes[2 * g] + codes[2 * g + 1]) for g in range(L // 2)]
        return pairs + ([(L // 2, codes[-1])] if L % 2 else [])
    return [(0, sum(K ** (i - t) * (codes[t - 1] + 1) for t in range(1, i + 1)) - 1) for i in range(1, L + 1)]


def ranges(scheme: Scheme, levels: int, K: int, rows: int) -> list[int]:
    if scheme == "unigram":
        return equal_shares([K] * levels, rows, K)
    if scheme == "bigram":
        return equal_shares([K**2] * (levels // 2) + [K] * (levels % 2), rows, K)
    return [rows]


@given(st.data(), st.sampled_from(SCHEMES), st.integers(4, 8), st.integers(1, 2048) | st.integers(1, 65535))
def test_keys_agree_with_the_formula_in_big_integers(data: st.DataObject, scheme: Scheme, levels: int, size: int) -> None:
    rows = data.draw(st.integers(levels, 2**20) | st.integers(levels, 2**46))
    codes = data.draw(
        st.lists(st.lists(st.sampled_from([0, size // 2, size - 1]), min_size=levels, max_size=levels), min_size=1, max_size=5)
    )
    keys = made(scheme, levels, size).keys(np.array(codes, np.uint16), rows)
    shares = ranges(scheme, levels, size, rows)
    expected = [[sum(shares[:part]) + number % shares[part] for part, number in formula(scheme, row, size)] for row in codes]
    assert keys.tolist() == expected
    assert keys.dtype == np.int64
    assert keys.flags.c_contiguous
    assert keys.shape[1] == made(scheme, levels, size).keys_per_item


@pytest.mark.parametrize(("scheme", "mapping"), SMALL)
@pytest.mark.parametrize(("levels", "size"), [(4, 3), (5, 2)])
def test_a_table_of_the_key_space_has_no_collision_and_no_row_too_many(scheme: Scheme, mapping: Mapping, levels: int, size: int) -> None:
    codes = np.array(list(itertools.product(range(size), repeat=levels)), np.uint16)
    chosen = made(scheme, levels, size, mapping)
    rows = chosen.table_rows(10**9)
    assert rows == chosen.key_space
    keys = chosen.keys(codes, rows)
    assert np.array_equal(np.unique(keys), np.arange(rows))
    distinct = {(part, number) for row in codes.tolist() for part, number in formula(scheme, row, size)}
    assert len(distinct) == rows


@given(st.sampled_from(SMALL), st.integers(4, 8), st.integers(2, 65535), st.integers(1, 2**30))
def test_the_table_keeps_to_its_budget(kind: tuple[Scheme, Mapping], levels: int, size: int, spare: int) -> None:
    scheme, mapping = kind
    budget = size * levels + spare
    chosen = made(scheme, levels, size, mapping)
    rows = chosen.table_rows(budget)
    if budget >= chosen.key_space:
        assert rows == chosen.key_space
    elif mapping != "modulo" or scheme in ("unigram", "bigram"):
        assert rows == budget
    else:
        assert rows == coprime_rows(budget, size)
        assert math.gcd(rows, size) == 1
    keys = chosen.keys(np.array([[0] * levels, [size - 1] * levels], np.uint16), rows)
    assert keys.min() >= 0
    assert keys.max() < rows


@pytest.mark.parametrize(("scheme", "levels"), [("unigram", 3), ("bigram", 4), ("bigram", 5)])
def test_one_table_of_ranges_equals_a_table_per_group(scheme: Scheme, levels: int) -> None:
    """Paper B's summed tables: the same sums, and after steps of Adagrad the same rows."""
    size, width = 6, 4
    chosen = made(scheme, levels, size)
    codes = np.random.default_rng(0).integers(0, size, (50, levels))
    groups = [codes[:, start : start + (1 if scheme == "unigram" else 2)] for start in range(0, levels, 1 if scheme == "unigram" else 2)]
    numbers = [group[:, 0] if group.shape[1] == 1 else group[:, 0] * size + group[:, 1] for group in groups]
    apart = [torch.nn.EmbeddingBag(size ** group.shape[1], width, mode="sum") for group in groups]
    joint = torch.nn.EmbeddingBag(chosen.key_space, width, mode="sum")
    with torch.no_grad():
        joint.weight.copy_(torch.cat([table.weight for table in apart]))
    keys = torch.from_numpy(chosen.keys(codes.astype(np.uint16), chosen.key_space))
    weight = torch.arange(50 * width).view(50, width).cos()
    optimizers = [torch.optim.Adagrad([table.weight], lr=0.1) for table in (*apart, joint)]
    for _ in range(3):
        summed = torch.stack([table(torch.from_numpy(number)[:, None]) for table, number in zip(apart, numbers, strict=True)]).sum(0)
        pooled = joint(keys)
        assert torch.allclose(summed, pooled, atol=1e-6)
        (summed * weight).square().sum().backward()
        (pooled * weight).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert torch.allclose(torch.cat([table.weight for table in apart]), joint.weight, atol=1e-5)


def test_refusals_name_scheme_and_levels() -> None:
    with pytest.raises(InputError, match="scheme fourgram needs 4 levels, the codes have 3"):
        made("fourgram", 3, 16)
    with pytest.raises(InputError, match="scheme all_bigrams needs 2 levels, the codes have 1"):
        made("all_bigrams", 1, 16)
    with pytest.raises(InputError, match=r"prefix_ngram: depth 4 is not in 1\.\.3"):
        Ngrams("prefix_ngram", 3, 16, 4)
    with pytest.raises(InputError, match="2 rows are too few for 3 ranges"):
        made("unigram", 3, 16).keys(np.zeros((1, 3), np.uint16), 2)
