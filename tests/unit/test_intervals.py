"""Intervals of paired comparisons against known sampling distributions."""

import numpy as np

from pipeline.intervals import UserBootstrap


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Users share an effect, seeds share another: 95% intervals must hold the true change in about 95% of 300 repetitions."""
    generator = np.random.default_rng(3)
    users, per_user, seeds, hits = 80, 12, 4, 0
    for _ in range(300):
        user = np.repeat(np.arange(users), per_user)
        baseline = np.tile(generator.uniform(0.2, 0.8, users * per_user), (seeds, 1))
        effect = -0.01 + 0.02 * generator.normal(size=users)[user] + 0.002 * generator.normal(size=(seeds, 1))
        gain = UserBootstrap(user, 200, seed=int(generator.integers(2**31))).gain(
            baseline + effect * 0.5, baseline, np.ones(users * per_user, bool)
        )
        truth = 100 * -0.01 * 0.5 / 0.5
        hits += gain.low <= truth <= gain.high
    assert 0.91 <= hits / 300 <= 0.99


def test_resampling_users_is_wider_than_resampling_rows() -> None:
    generator = np.random.default_rng(0)
    user = np.repeat(np.arange(50), 40)
    baseline = np.full((1, 2000), 0.5)
    variant = baseline + 0.05 * generator.normal(size=50)[user]
    chosen = np.ones(2000, bool)
    by_user, by_row = (UserBootstrap(ids, 400).gain(variant, baseline, chosen) for ids in (user, np.arange(2000)))
    assert by_user.high - by_user.low > 4 * (by_row.high - by_row.low)


def test_same_scores_have_no_gain() -> None:
    losses = np.random.default_rng(0).uniform(0.1, 1, (3, 100))
    gain = UserBootstrap(np.arange(100) % 9, 100).gain(losses, losses, np.arange(100) < 50)
    assert gain == (0, 0, 0)
