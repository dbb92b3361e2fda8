"""Cosine and size by prefix length, against loops over pairs and a counter."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reproduce.findings.prefix_similarity import cosine_to_others, similarity
from pipeline.reproduce.prefixes import prefix_groups


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_cosine_to_the_others_of_a_group(seed: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    unit, groups = _unit(rng.normal(size=(items, 3))), np.unique(rng.integers(0, 6, items), return_inverse=True)[1].ravel()
    found = cosine_to_others(unit, groups)
    for i in range(items):
        cosines = [unit[i] @ unit[j] for j in range(items) if j != i and groups[j] == groups[i]]
        assert found[i] == pytest.approx(np.mean(cosines) if cosines else np.nan, nan_ok=True, abs=1e-12)


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30))
def test_prefix_groups_are_those_of_equal_leading_codes(codes: list[tuple[int, ...]]) -> None:
    for length in range(4):
        groups = prefix_groups(np.array(codes, np.uint16), length)
        assert len(set(groups.tolist())) == groups.max() + 1 == len({code[:length] for code in codes})
        assert len({(code[:length], int(group)) for code, group in zip(codes, groups, strict=True)}) == groups.max() + 1


def test_similarity_rises_and_prefixes_shrink_where_codes_are_content() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, (3000, 3)).astype(np.uint16)
    centres = [scale * rng.normal(size=(6**level, 16)) for level, scale in ((1, 2.0), (2, 1.0), (3, 1.0))]
    numbers = [codes[:, 0], codes[:, 0] * 6 + codes[:, 1], (codes[:, 0] * 6 + codes[:, 1]) * 6 + codes[:, 2]]
    unit = _unit(sum(centre[number] for centre, number in zip(centres, numbers, strict=True)) + 0.2 * rng.normal(size=(3000, 16)))
    found, wrong = similarity(unit, codes), similarity(unit, codes[rng.permutation(3000)])
    assert [each.sign for each in found.rise] == ["positive", "positive"]
    assert [each.sign for each in found.fall] == ["negative", "negative"]
    assert all(abs(each.mean - wrong.cosine[0].mean) < 0.02 for each in wrong.cosine)
    for length, size in enumerate(found.size, start=1):
        assert size.mean == pytest.approx(np.mean(list(Counter(map(tuple, codes[:, :length].tolist())).values())))
    assert found.fall[0].mean == pytest.approx(100 * (found.size[1].mean / found.size[0].mean - 1))


def test_lengths_are_compared_on_items_with_companions_at_both() -> None:
    """Two of four items have a twin; the others are as far apart as can be."""
    unit = np.array([[1.0, 0], [1, 0], [0, 1], [-1, 0]])
    found = similarity(np.tile(unit, (5, 1)), np.array([[group, deep] for group in range(5) for deep in (0, 0, 1, 2)], np.uint16))
    assert found.cosine[0].mean == pytest.approx((0 + 0 + (0 + 0 + 0) / 3 - 2 / 3) / 4)
    assert found.cosine[1].mean == pytest.approx(1)
    assert found.rise[0].mean == pytest.approx(1 - 0)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
