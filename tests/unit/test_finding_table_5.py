"""Clusters of embeddings: found by codes as a dictionary finds them, their spread against loops, and known clusters told from chance."""

from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.dense_ids import DenseIdMap
from features.semantic_id import UNKNOWN_CODE
from pipeline.recipe import with_overrides
from pipeline.reproduce.clusters import by_prefix, compared, largest, of_sizes, sizes, spread
from pipeline.reproduce.findings import table_5
from pipeline.reproduce.world import Variant
from tests.unit.toy_finding import Results, toy_study, toy_world


def codes_of(seed: int, items: int = 60, known: float = 0.9) -> np.ndarray:
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 4, (items, 3)).astype(np.uint16)
    codes[generator.random(items) > known] = UNKNOWN_CODE
    return codes


def grouped(codes: np.ndarray, length: int) -> list[set[int]]:
    groups: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for item, its in enumerate(codes.tolist()):
        if its[0] != UNKNOWN_CODE:
            groups[tuple(its[:length])].add(item)
    return list(groups.values())


def as_sets(cluster: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(cluster == number).tolist()) for number in set(cluster.tolist()) - {-1}}


@given(st.integers(0, 1000), st.integers(1, 3), st.sampled_from([0.0, 0.5, 1.0]))
def test_items_that_share_a_prefix_are_a_cluster(seed: int, length: int, known: float) -> None:
    codes = codes_of(seed, known=known)
    cluster = by_prefix(codes, length)
    assert as_sets(cluster) == set(map(frozenset, grouped(codes, length)))
    assert sorted(sizes(cluster), reverse=True) == list(sizes(cluster)) == sorted(map(len, grouped(codes, length)), reverse=True)


@given(st.integers(0, 1000), st.integers(1, 100))
def test_small_clusters_have_the_prefix_length_that_takes_in_most_items(seed: int, items: int) -> None:
    codes = codes_of(seed, items)
    taken = {length: [group for group in grouped(codes, length) if 4 <= len(group) <= 10] for length in (1, 2, 3)}
    covered = {length: sum(map(len, groups)) for length, groups in taken.items()}
    length, cluster = of_sizes(codes, 4, 10)
    assert covered[length] == max(covered.values())
    assert as_sets(cluster) == set(map(frozenset, taken[length]))


def test_no_items() -> None:
    _, cluster = of_sizes(np.empty((0, 3), np.uint16), 4, 10)
    assert len(cluster) == len(sizes(cluster)) == len(largest(np.empty((0, 3), np.uint16), 5)) == 0


def test_the_largest_clusters_are_of_the_first_code() -> None:
    codes = np.array([[code, item, 0] for code, count in ((7, 2), (3, 5), (5, 1), (9, 4)) for item in range(count)], np.uint16)
    assert as_sets(largest(codes, 2)) == {frozenset(range(2, 7)), frozenset(range(8, 12))}
    assert as_sets(largest(codes, 9)) == set(map(frozenset, grouped(codes, 1)))


@given(st.integers(0, 1000))
def test_spread_against_loops(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows, cluster = generator.normal(size=(40, 3)), generator.integers(-1, 9, 40)
    groups = [rows[sorted(group)] for group in as_sets(cluster) if len(group) > 1]
    variance = np.mean([np.mean([np.var(group[:, column]) for column in range(3)]) for group in groups])
    distance = np.mean([np.linalg.norm(a.mean(0) - b.mean(0)) for a, b in combinations(groups, 2)])
    assert spread(rows, cluster) == pytest.approx((variance, distance))


def test_spread_by_hand() -> None:
    rows = np.array([[0.0, 0], [2, 0], [5, 5], [10, 0], [10, 4], [-3, 1]])
    # Within: 1 and 0, 0 and 4, over two dimensions; centroids (1, 0) and (10, 2); a cluster of one and a row of none.
    assert spread(rows, np.array([0, 0, 2, 1, 1, -1])) == pytest.approx((1.25, 85**0.5))


def test_known_clusters_are_told_from_random_ones() -> None:
    """Rows are a cluster's own part and noise, both of variance 1: within clusters of 5 it is 0.8, at random nearly 2 * 0.8."""
    generator = np.random.default_rng(0)
    cluster = np.repeat(np.arange(200), 5)
    rows = [generator.normal(size=(200, 16))[cluster] + generator.normal(size=(1000, 16)) for _ in range(3)]
    found = compared(rows, cluster)
    assert found.variance.mean == pytest.approx(-50, abs=1)
    assert found.variance.sign == "negative"
    assert found.distance.mean == pytest.approx(100 * ((1.2 / 0.4) ** 0.5 - 1), abs=3)  # centroids vary by 1 + 1/5 against 2/5
    assert found.distance.sign == "positive"


def test_clusters_that_mean_nothing_have_zero_in_their_interval() -> None:
    """The rows of seeds are alike, as those of an item are, so that seeds alone would be sure of any chance difference."""
    covered = 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        rows = generator.normal(size=(200, 4))
        cluster = np.where(generator.random(200) < 0.2, -1, generator.integers(0, 40, 200))
        found = compared([rows + 0.01 * generator.normal(size=rows.shape) for _ in range(3)], cluster)
        covered += found.variance.sign == "zero"
    assert covered >= 17


def test_one_seed_gives_no_interval() -> None:
    generator = np.random.default_rng(0)
    found = compared([generator.normal(size=(50, 4))], generator.integers(0, 10, 50))
    assert np.isnan(found.variance.low)
    assert found.variance.sign == "zero"


def test_the_probe_gives_each_item_its_row() -> None:
    ids = DenseIdMap(np.array([3, 5, 9]), np.array([2, 0, 1]), np.zeros(3, np.int64))
    weight = torch.arange(8.0).reshape(4, 2)  # the last row is of unknown items
    trainer: Any = SimpleNamespace(
        source=SimpleNamespace(builder=SimpleNamespace(dense_ids=ids)),
        model=SimpleNamespace(state_dict=lambda: {"tables": {"individual": {"weight": weight}}}),
    )
    found = table_5.item_rows(trainer)
    assert found["item_ids"].tolist() == [3, 5, 9]
    assert found["rows"].tolist() == [[4, 5], [0, 1], [2, 3]]


def test_the_finding(tmp_path: Path) -> None:
    """Rows that follow the first code are alike in clusters of Semantic IDs, and not in those of shuffled ones."""
    world = toy_world(tmp_path)
    world.config = with_overrides(world.config, {"quantize.codebook_size": 32})
    log = world.columns(["item_id"])["item_id"]
    items = np.unique(log)
    first = world.store().lookup(items).codes[:, 0].astype(np.int64) % 16

    def results(_: Variant, seed: int) -> Results:
        generator = np.random.default_rng([7, seed])
        rows = np.random.default_rng(1).normal(size=(16, 8))[first] + 0.1 * generator.normal(size=(len(items), 8))
        return np.zeros(len(log), np.float32), {"item_rows": {"item_ids": items, "rows": rows}}

    study = toy_study(world, table_5, results, seeds=3)
    finding = table_5.find(study)
    assert [row.verdict for row in finding.rows] == ["shown", "shown", "confirmed", "confirmed", "confirmed", "shown"]
    controls = [row.control for row in finding.rows if row.control]
    assert controls
    assert {each.sign for each in controls} == {"zero"}
    counts = Counter(log[: study.train_rows].tolist())
    judged = sum(count >= 5 for count in counts.values())
    assert finding.notes[0].startswith(f"Judged are the {judged} items with 5 or more")
