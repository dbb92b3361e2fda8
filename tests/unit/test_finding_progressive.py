"""The stream's finding: distances to an oracle by hand, and the interval of a ratio of deviations against sampling."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pipeline.reproduce.core import core
from pipeline.reproduce.findings import progressive
from pipeline.reproduce.findings.progressive import covered, ratio_of_deviations
from pipeline.reproduce.world import Variant
from tests.unit.toy_finding import ROWS, Results, toy_study, toy_world


def test_the_oracle_covers_all_and_no_item_nothing() -> None:
    oracle = np.array([0.2, 0.4, 9.0])
    no_item = np.array([[0.6, 0.8, 0.0], [0.6, 0.8, 5.0]])
    half_way = np.array([[0.4, 0.6, 3.0], [0.5, 0.7, 3.0]])
    weights = np.array([1.0, 3.0, 0.0])
    assert covered(no_item, no_item, oracle, weights) == pytest.approx([0, 0])
    assert covered(np.stack([oracle, oracle]), no_item, oracle, weights) == pytest.approx([100, 100])
    assert covered(half_way, no_item, oracle, weights) == pytest.approx([50, 25])


def test_the_ratio_of_deviations() -> None:
    ratio = ratio_of_deviations(np.array([1.0, 2.0, 3.0]), np.array([10.0, 14.0, 18.0]))
    assert ratio is not None
    assert ratio.mean == pytest.approx(0.25)
    # F tables: the 97.5% point with 2 and 2 degrees of freedom is 39.0, the 2.5% point one over it
    assert (ratio.low, ratio.high) == (pytest.approx(0.25 / 39**0.5), pytest.approx(0.25 * 39**0.5))


def test_no_ratio_of_one_seed_or_of_seeds_alike() -> None:
    assert ratio_of_deviations(np.array([1.0]), np.array([2.0])) is None
    assert ratio_of_deviations(np.array([1.0, 2.0]), np.array([2.0, 2.0])) is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        ratio = ratio_of_deviations(2.0 * generator.normal(size=3), generator.normal(size=5))
        assert ratio is not None
        hits += ratio.low <= 2.0 <= ratio.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_rows_of_made_up_scores(tmp_path: Path) -> None:
    """Semantic IDs are the oracle itself, no item and hashed ids a constant, and a row per item half way in log-odds on new items."""
    world = toy_world(tmp_path)
    columns = world.columns(["oracle_probability", "past_impressions", "label_click"])
    odds = np.log(columns["oracle_probability"] / (1 - columns["oracle_probability"]))
    never, half = columns["past_impressions"] == 0, np.arange(ROWS) >= ROWS // 2

    def results(variant: Variant, seed: int) -> Results:
        if variant.name in ("semantic_id", "semantic_id_and_random_hash"):
            return odds.astype(np.float32), {}
        logits = np.full(ROWS, -0.5) if variant.name != "individual" else np.where(never, odds / 2, -0.5)
        return (logits + 0.1 * seed * (variant.name == "semantic_id_modulo")).astype(np.float32), {}

    module = ModuleType("with_core")
    module.variants = lambda world: [*core(world), *progressive.variants(world)]  # type: ignore[attr-defined]
    finding = progressive.find(toy_study(world, module, results))
    rows = {row.what.split(" (")[0]: row for row in finding.rows}
    assert len(finding.plots) == 2
    assert len(rows) == len(finding.rows)

    def loss(logits: np.ndarray, chosen: np.ndarray) -> float:
        signs = 2 * columns["label_click"][chosen] - 1
        return float(np.log1p(np.exp(-signs * logits[chosen])).sum())

    flat = np.full(ROWS, -0.5)
    expected = {
        "No item against random hash, all rows": 0.0,
        "Semantic IDs against random hash, all rows": 100 * (loss(odds, half) / loss(flat, half) - 1),
        "Semantic IDs against random hash, impressions so far: 0": 100 * (loss(odds, half & never) / loss(flat, half & never) - 1),
        "A row per item against random hash, impressions so far: 0": 100 * (loss(odds / 2, half & never) / loss(flat, half & never) - 1),
        "A row per item against random hash, impressions so far: 10-49": 0.0,
        "NE of Semantic IDs minus NE of the oracle": 0.0,
        "Share of the distance from no item to the oracle that Semantic IDs covers": 100.0,
        "Share of the distance from no item to the oracle that random hash covers": 0.0,
        "Semantic IDs, exact coarse rows against modulo: standard deviation of NE over seeds, one divided by the other": 0.0,
    }
    for what, mean in expected.items():
        ours = rows[what].ours
        assert ours is not None, what
        assert ours.mean == pytest.approx(mean, rel=1e-4, abs=1e-4), what
    assert rows["Semantic IDs against random hash, all rows"].verdict == "confirmed"
    assert "no row that is judged" in rows["Semantic IDs against random hash, age: over 30 days"].why_not
