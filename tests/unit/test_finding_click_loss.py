"""Clicks lost by a swap: companions against loops, losses by hand, and the simulated world's own topics as codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.sources import simulated
from pipeline.reproduce.findings import click_loss as finding
from pipeline.reproduce.findings.click_loss import Losses, click_loss, mean_of_companions


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_companions_are_the_others_of_the_group_that_exist(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.unique(rng.integers(0, 4, 12), return_inverse=True)[1].ravel()
    item = rng.integers(0, 12, rows)
    there, worth = rng.random((rows, 12)) < 0.5, rng.random((rows, 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "PAIRS", 7)  # several portions
        found = mean_of_companions(item, groups, lambda row, other: there[row, other], lambda row, other: worth[row, other])
    for row in range(rows):
        values = [worth[row, j] for j in range(12) if j != item[row] and groups[j] == groups[item[row]] and there[row, j]]
        assert found[row] == pytest.approx(np.mean(values) if values else np.nan, nan_ok=True)


def test_loss_is_of_the_impressions_that_can_be_swapped() -> None:
    own, other = np.array([0.6, 0.4, 0.9]), np.array([0.3, 0.2, np.nan])
    assert click_loss(own, other, np.ones(3)) == pytest.approx(50)
    assert click_loss(own, np.array([0.3, 0.4, np.nan]), np.array([2.0, 1, 5])) == pytest.approx(100 * (1 - 1.0 / 1.6))
    assert np.isnan(click_loss(own, np.full(3, np.nan), np.ones(3)))


def test_lengths_are_compared_on_the_same_impressions() -> None:
    """Those without a companion at the longer prefix would lose everything at the shorter one."""
    item = np.arange(1000)
    own = np.full(1000, 0.5)
    shorter = np.where(item < 500, 0.4, 0.0)
    longer = np.where(item < 500, 0.45, np.nan)
    losses = Losses(item, own, [[shorter, longer]])
    assert [each.mean for each in losses.loss] == pytest.approx([60, 10])
    assert losses.saved[0].mean == pytest.approx(-10)
    assert losses.saved[0].sign == "negative"
    assert losses.swapped == [1.0, 0.5]
    twice = Losses(item, own, [[shorter, longer], [shorter, longer / 3]])
    assert [each.mean for each in twice.loss] == pytest.approx([60, 40])
    assert twice.saved[0].mean == pytest.approx(20)


def test_click_probability_is_the_oracle_of_the_item_that_was_shown() -> None:
    world = _world()
    for _, item, _, taste, probability in world.rows():
        assert np.array_equal(world.click_probability(item, taste), probability)
        other = np.flatnonzero(world.leaf != world.leaf[item[0]])[0]
        odds = (
            world.bias
            + simulated.ITEM_EFFECT * world.effect[other]
            + simulated.TASTE_EFFECT * (taste[0] @ world.loading[world.leaf[other]])
        )
        assert world.click_probability(np.array([other]), taste[:1])[0] == pytest.approx(1 / (1 + np.exp(-odds)))


def test_topics_as_codes_lose_less_than_a_random_swap_and_deeper_ones_least() -> None:
    world = _world()
    _, item, _, taste, own = (np.concatenate(parts) for parts in zip(*world.rows(), strict=True))
    random = np.random.default_rng(0).permutation(world.leaf // 48)
    levels = [random, world.leaf // 48, world.leaf // 6, world.leaf]
    others = [
        mean_of_companions(
            item,
            np.unique(groups, return_inverse=True)[1],
            lambda row, _: np.ones(len(row), bool),
            lambda row, other: world.click_probability(other, taste[row]),
        )
        for groups in levels
    ]
    clicked = (np.random.default_rng(1).random(len(own)) < own).astype(np.float64)
    found = [click_loss(own, other, clicked * np.isfinite(others[-1])) for other in others]
    assert found == sorted(found, reverse=True)
    assert found[0] > 2 * found[-1]


def _world() -> simulated.World:
    return simulated.World(impressions=4000, items=2000, users=300, days=2, tree=(12, 8, 6), vector_dim=8, semantic_share=0.8, seed=0)
