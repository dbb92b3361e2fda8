"""Constructed negatives: only what the user never did, from the right period, with the right odds, and never more than there are."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features import negatives
from features.negatives import construct_negatives

PLAYS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=50)


def columns(plays: Any) -> tuple[Any, ...]:
    rows = np.array(plays, np.int64).reshape(-1, 3)
    return rows[:, 0], rows[:, 1], rows[:, 2]


@given(PLAYS, st.integers(1, 4), st.integers(0, 2), st.integers(0, 16))
def test_each_positive_gets_all_that_exist_up_to_n(plays: Any, wanted: int, seed: int, rounds: int) -> None:
    before = negatives.ROUNDS
    try:
        negatives.ROUNDS = rounds  # none leaves everything to the exact draw
        drawn = construct_negatives(*columns(plays), per_positive=wanted, exponent=0.5, seed=seed)
    finally:
        negatives.ROUNDS = before
    assert (np.diff(drawn.positive) >= 0).all()
    missing = 0
    for index, (period, user, _) in enumerate(plays):
        own = {i for _, u, i in plays if u == user}
        candidates = {i for p, _, i in plays if p == period} - own
        got = drawn.item_ids[drawn.positive == index].tolist()
        assert len(set(got)) == len(got) == min(wanted, len(candidates))
        assert set(got) <= candidates
        missing += wanted - len(got)
    assert drawn.missing == missing


def test_equal_seeds_give_equal_negatives() -> None:
    rng = np.random.default_rng(0)
    log = rng.integers(0, 3, 2000), rng.integers(0, 200, 2000), rng.integers(0, 300, 2000)
    first, again, other = (construct_negatives(*log, per_positive=4, exponent=0.5, seed=seed) for seed in (1, 1, 2))
    assert first.item_ids.tobytes() == again.item_ids.tobytes()
    assert first.item_ids.tobytes() != other.item_ids.tobytes()


def frequencies(exponent: float, rounds: int) -> Any:
    """Drawn shares of items 0..2 that have 1, 4 and 16 plays of others in the period, for a user with one play of item 3."""
    plays = [0] * 1 + [1] * 4 + [2] * 16
    users = [100 + index for index in range(len(plays))] + [200 + index for index in range(20_000)]
    items = plays + [3] * 20_000
    before = negatives.ROUNDS
    try:
        negatives.ROUNDS = rounds
        drawn = construct_negatives(
            np.zeros(len(items), np.int64), np.array(users), np.array(items), per_positive=1, exponent=exponent, seed=0
        )
    finally:
        negatives.ROUNDS = before
    mine = drawn.item_ids[drawn.positive >= len(plays)]
    return np.bincount(mine, minlength=3) / len(mine)


def test_the_odds_are_the_power_of_the_plays_in_the_period() -> None:
    # Three standard errors of a share among 20,000 draws are 0.011.
    for rounds in (16, 0):
        assert np.allclose(frequencies(0.5, rounds), np.array([1, 2, 4]) / 7, atol=0.011)
        assert np.allclose(frequencies(1.0, rounds), np.array([1, 4, 16]) / 21, atol=0.011)


def test_plays_of_other_periods_do_not_count() -> None:
    drawn = construct_negatives(np.array([0, 0, 1]), np.array([1, 2, 3]), np.array([7, 8, 9]), per_positive=4, exponent=1, seed=0)
    assert drawn.positive.tolist() == [0, 1]
    assert drawn.item_ids.tolist() == [8, 7]
    assert drawn.missing == 10
