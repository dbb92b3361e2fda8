"""The prefix tree against dictionaries: stretches, unused codes, table rows, and cosines pair by pair."""

from collections import defaultdict
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.parameterization import Ngrams
from features.prefix_ngram import exact_coarse_keys, prefix_ngram_keys
from features.representation import Representation
from pipeline import prefix_tree
from pipeline.prefix_tree import Cosines, code_order, mean_cosines, prefix_rows, prefix_starts, unit_vectors, unused_codes

K = 4
STORES = st.lists(st.lists(st.integers(0, K - 1), min_size=3, max_size=3), min_size=1, max_size=40)


def sorted_codes(rows: list[list[int]]) -> np.ndarray:
    codes = np.array(rows, np.uint16)
    return codes[code_order(np.arange(len(codes)), codes)]


@given(STORES, st.randoms())
def test_the_order_is_that_of_python_tuples(rows: list[list[int]], random: Any) -> None:
    ids = random.sample(range(-1000, 1000), len(rows))
    order = code_order(np.array(ids), np.array(rows, np.uint16))
    assert order.tolist() == sorted(range(len(rows)), key=lambda item: (rows[item], ids[item]))


@given(STORES)
def test_every_prefix_is_one_stretch_with_all_of_its_items(rows: list[list[int]]) -> None:
    codes = sorted_codes(rows)
    starts = prefix_starts(codes)
    assert len(starts) == 4
    for length, of_length in enumerate(starts):
        members: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for item, row in enumerate(codes.tolist()):
            members[tuple(row[:length])].append(item)
        stretches = [list(range(begin, end)) for begin, end in pairwise(of_length)]
        assert stretches == [members[prefix] for prefix in sorted(members)]


@given(STORES)
def test_unused_codes_are_those_that_no_item_has(rows: list[list[int]]) -> None:
    found = [codes.tolist() for codes in unused_codes(np.array(rows, np.uint16), K)]
    assert found == [[code for code in range(K) if code not in {row[level] for row in rows}] for level in range(3)]


@given(STORES, st.integers(1, 3), st.sampled_from(["exact_coarse", "modulo"]))
def test_a_prefix_has_the_table_row_that_its_items_have(rows: list[list[int]], depth: int, mapping: Any) -> None:
    codes, keys = sorted_codes(rows), Ngrams("prefix_ngram", 3, K, depth, mapping)
    table = Representation("sid", "semantic_id", keys.table_rows(9), source="text", parameterization=keys)
    starts = prefix_starts(codes)
    found = prefix_rows(codes, starts, table)
    keys_of: dict[str, Any] = {"exact_coarse": exact_coarse_keys, "modulo": prefix_ngram_keys}
    expected = keys_of[mapping](codes, depth=depth, codebook_size=K, rows=table.rows)
    assert len(found) == depth
    for length, of_prefixes in enumerate(found, start=1):
        of_items = np.repeat(of_prefixes, np.diff(starts[length]))
        assert of_items.tolist() == expected[:, length - 1].tolist()


@pytest.mark.parametrize("block", [1, 3, 1 << 15])
@given(rows=STORES, seed=st.integers(0, 99))
def test_cosines_are_the_means_over_pairs(block: int, rows: list[list[int]], seed: int) -> None:
    codes, generator = sorted_codes(rows), np.random.default_rng(seed)
    vectors = generator.normal(size=(len(codes), 5)).astype(np.float32) * generator.choice([0, 1, 7], (len(codes), 1), p=[0.2, 0.4, 0.4])
    starts = prefix_starts(codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "BLOCK_ROWS", block)
        found = mean_cosines(unit_vectors(vectors), starts)
    everywhere: list[list[float]] = []
    for length, cosines in enumerate(found):
        everywhere.append([])
        for prefix, (begin, end) in enumerate(zip(starts[length][:-1], starts[length][1:], strict=True)):
            present = [vector for vector in vectors[begin:end].astype(float) if vector.any()]
            pairs = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in combinations(present, 2)]
            everywhere[-1] += pairs
            assert cosines.pairs_P[prefix] == 2 * len(pairs)
            assert cosines.mean_P[prefix] == pytest.approx(np.mean(pairs) if pairs else np.nan, abs=2e-3, nan_ok=True)
        assert cosines.over_all == (pytest.approx(np.mean(everywhere[-1]), abs=2e-3) if everywhere[-1] else None)


def test_no_pair_no_mean() -> None:
    assert Cosines(np.array([np.nan]), np.array([0])).over_all is None
