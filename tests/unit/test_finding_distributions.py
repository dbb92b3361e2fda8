"""Skew, turnover and alikeness of items in a row, against loops over sets and pairs, and on logs made with known answers."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reproduce.alikeness import alikeness, item_clicks
from pipeline.reproduce.findings.distributions import entropy_bits, tiers
from pipeline.reproduce.turnover import Turnover, half_life

IMPRESSIONS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 9)), min_size=2, max_size=60)  # item, day, user


def test_tiers_are_paper_a_s() -> None:
    counts = np.arange(4000, 0, -1) ** 2
    order = np.random.default_rng(0).permutation(4000)
    tier = tiers(counts[order])
    assert [np.count_nonzero(tier == number) for number in range(3)] == [4, 220, 3776]
    assert counts[order][tier == 0].min() > counts[order][tier == 1].max()
    assert counts[order][tier == 1].min() > counts[order][tier == 2].max()


@settings(max_examples=40)
@given(IMPRESSIONS, st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_turnover_counts_what_sets_count(impressions: list[tuple[int, int, int]], lag: int, seed: int) -> None:
    item, day, user = np.array(impressions).T
    weights = np.random.default_rng(seed).integers(0, 3, len(item)).astype(float)
    turnover = Turnover(item, day + 7, user)
    half_of = {int(each): bool(half) for each, half in zip(user, turnover._half, strict=True)}
    shown: dict[tuple[bool, int], set[int]] = defaultdict(set)
    for (i, d, u), weight in zip(impressions, weights, strict=True):
        if weight:
            shown[half_of[u], d].add(i)
    first, last = int(day.min()), int(day.max())
    days = range(first, last - lag + 1)
    again = sum(len(shown[half, d] & shown[not half, d + lag]) for d in days for half in (True, False)) / 2
    early, late = (sum(len(shown[True, d] & shown[False, d]) for d in part) for part in (days, [d + lag for d in days]))
    expected = again / np.sqrt(early * late) if early and late else np.nan
    assert turnover.staying(lag)(weights) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=40)
@given(IMPRESSIONS, st.integers(1, 3))
def test_items_shown_again_are_those_with_a_later_day(impressions: list[tuple[int, int, int]], lag: int) -> None:
    item, day, user = np.array(impressions).T
    if np.ptp(day) < lag:
        return
    days_of = defaultdict(set)
    for i, d, _ in impressions:
        days_of[i].add(d)
    seen = [max(days) >= d + lag for days in days_of.values() for d in days if d + lag <= day.max()]
    assert Turnover(item, day, user).shown_again(lag) == pytest.approx(np.mean(seen))


def test_turnover_of_items_that_are_seldom_shown_is_their_true_one() -> None:
    """Items live 6 days by half, some are shown forty times as often as others, most not once a day."""
    rng = np.random.default_rng(0)
    birth, rate = rng.uniform(-40, 24, 9000), 10 ** rng.uniform(-1.3, 0.3, 9000)
    death = birth + rng.exponential(6 / np.log(2), 9000)
    start, stop = birth.clip(0, 24), death.clip(0, 24)
    item = np.repeat(np.arange(9000), rng.poisson(rate * (stop - start)))
    day = np.floor(start[item] + rng.random(len(item)) * (stop - start)[item]).astype(np.int64)
    turnover = Turnover(item, day, rng.integers(0, 3000, len(item)))
    assert turnover.staying(6)(np.ones(len(item))) == pytest.approx(0.5, abs=0.04)
    assert turnover.shown_again(6) < 0.45  # which takes those for gone that are just not shown


def test_half_life_lies_between_the_points_around_one_half() -> None:
    assert half_life(np.array([1, 2, 4]), np.array([0.8, 0.6, 0.4])) == pytest.approx(3.0)
    assert half_life(np.array([2]), np.array([0.25])) == pytest.approx(4 / 3)
    assert np.isnan(half_life(np.array([1, 2]), np.array([0.8, 0.6])))


def test_entropy_in_bits() -> None:
    assert entropy_bits(np.array([3.0, 3, 0, 3, 3])) == pytest.approx(2)
    assert entropy_bits(np.array([0.0, 7])) == 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 6)), min_size=3, max_size=40))
def test_alikeness_is_the_mean_over_pairs(impressions: list[tuple[int, int, int]]) -> None:
    clicks, weights, item = np.array(impressions, float).T
    rows = np.array([0, 0, 0, 1, 1, 2, 3])
    if weights.sum() == 0 or np.average(clicks, weights=weights) in (0, 1):
        return
    found = alikeness(item_clicks(clicks, weights, item.astype(int), len(rows)), rows)
    rate = np.average(clicks, weights=weights)
    everyone = range(len(clicks))
    total = covariance = variance = 0.0
    for i in range(len(rows)):
        mine = [a for a in everyone if item[a] == i and weights[a]]
        others = [b for b in everyone if item[b] != i and weights[b] and rows[int(item[b])] == rows[i]]
        pairs = [(a, b) for a in mine for b in mine if a != b]
        if not others or not pairs:
            continue
        about = {a: clicks[a] - rate for a in everyone}
        shown = sum(weights[a] for a in mine)
        total += shown
        covariance += sum(weights[a] * about[a] for a in mine) * np.average(
            [about[b] for b in others], weights=[weights[b] for b in others]
        )
        variance += shown * np.average([about[a] * about[b] for a, b in pairs], weights=[weights[a] * weights[b] for a, b in pairs])
    if not total:
        assert np.isnan(found.correlation)
        return
    assert found.correlation == pytest.approx(100 * covariance / total / (rate * (1 - rate)), abs=1e-9)
    if abs(variance) > 1e-6:
        assert found.within == pytest.approx(100 * (1 - covariance / variance) if variance > 0 else np.nan, nan_ok=True)


def test_rows_that_hold_all_of_the_click_rate_leave_none_within() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 200, 2000)
    rate = rng.uniform(0, 1, 200)[rows]
    item = rng.integers(0, 2000, 60_000)
    sums = item_clicks((rng.random(60_000) < rate[item]).astype(float), np.ones(60_000), item, 2000)
    mine, hashed = alikeness(sums, rows), alikeness(sums, rng.permutation(rows))
    assert mine.within == pytest.approx(0, abs=5)
    assert mine.correlation == pytest.approx(100 * rate[item].var() / 0.25, abs=3)
    assert hashed.within == pytest.approx(100, abs=5)
    assert hashed.correlation == pytest.approx(0, abs=2)
