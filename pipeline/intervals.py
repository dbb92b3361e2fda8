"""Paired comparison of two variants on the same rows: change of NE with a 95% interval over seeds and users."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t


class Gain(NamedTuple):
    """Relative change of NE in percent, negative is better, and its 95% interval; NaN where undefined."""

    mean: float
    low: float
    high: float


def log_losses(logits: NDArray[np.floating], labels: NDArray[np.floating]) -> NDArray[np.float64]:
    """-[y ln p + (1-y) ln(1-p)] per row, float64, from logits so that no probability rounds to 0 or 1."""
    z = logits.astype(np.float64)
    return np.logaddexp(0, np.where(labels > 0, -z, z))


class UserBootstrap:
    """Resamples users, not rows: a user's rows are not independent, and resampling rows gives half the true width.

    All comparisons share one set of draws, so that they are paired.
    """

    def __init__(self, user_ids: NDArray[np.int64], draws: int, seed: int = 0) -> None:
        """Args: user_ids int64 [N], one per row; number of resamplings; seed."""
        _, self._user = np.unique(user_ids, return_inverse=True)
        self._users = int(self._user.max()) + 1
        generator = np.random.default_rng(seed)
        self._weights = generator.poisson(1.0, (draws, self._users)).astype(np.float64)  # [draws, U]

    def gain(self, variant_SN: NDArray[np.float64], baseline_SN: NDArray[np.float64], chosen: NDArray[np.bool_]) -> Gain:
        """Compare log losses of the rows `chosen` (bool [N]).

        NE's denominator is the same for both, so the change of NE is that of the summed log loss, seed by seed. The standard error adds
        the variance over resampled users and the variance over seeds; the quantile is Student's t with Satterthwaite's degrees of freedom.

        Args:
            variant_SN: float64 [S, N], log loss per seed and row.
            baseline_SN: the same of the baseline; seed s of one is paired with seed s of the other.
            chosen: bool [N].
        """
        if not chosen.any():
            return Gain(np.nan, np.nan, np.nan)
        variant_SU, baseline_SU = self._per_user(variant_SN, chosen), self._per_user(baseline_SN, chosen)
        seed_gain_S = variant_SU.sum(1) / baseline_SU.sum(1) - 1
        below = self._weights @ baseline_SU.T
        if not (below > 0).all():  # so few users that a draw can miss them all
            return Gain(100 * float(seed_gain_S.mean()), np.nan, np.nan)
        resampled = (self._weights @ variant_SU.T / below - 1).mean(1)
        return _interval(100 * seed_gain_S, 100 * resampled, int(np.count_nonzero(baseline_SU[0])))

    def estimate(self, statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Gain:
        """Any figure with its interval: the variance over resampled users and that over seeds add up, as in `gain`.

        Args:
            statistic: takes a weight per row, float64 [N], and gives the figure of each seed, float64 [S]; called once for each draw, and
                once with weights of 1.
        """
        seeds_S = statistic(np.ones(len(self._user)))
        resampled = np.array([statistic(weights[self._user]).mean() for weights in self._weights])
        return _interval(seeds_S, resampled, self._users)

    def _per_user(self, losses_SN: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.stack([np.bincount(self._user[chosen], losses[chosen], self._users) for losses in losses_SN])


def _interval(seeds_S: NDArray[np.float64], resampled_D: NDArray[np.float64], users: int) -> Gain:
    """The mean over seeds, and Student's t with Satterthwaite's degrees of freedom around it; no interval where a draw has no figure."""
    mean, seeds = float(seeds_S.mean()), len(seeds_S)
    if not np.isfinite(resampled_D).all():
        return Gain(mean, np.nan, np.nan)
    of_users = float(resampled_D.var(ddof=1))
    of_seeds = float(seeds_S.var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance = of_users + of_seeds
    freedom = variance**2 / (of_users**2 / max(users - 1, 1) + of_seeds**2 / max(seeds - 1, 1)) if variance else 1.0
    half = float(student_t.ppf(0.975, freedom)) * np.sqrt(variance)
    return Gain(mean, mean - half, mean + half)
