"""How fast items leave a log: who of a day's items is still shown some days later."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from features.representation import hashed_rows

Float = NDArray[np.float64]
Int64 = NDArray[np.int64]


class Turnover:
    """The items of each day, as shown to either half of the users."""

    def __init__(self, item: Int64, day: Int64, user: Int64) -> None:
        """Args: [n] each, one per impression."""
        self.days = int(np.ptp(day)) + 1
        # Room for as many days again keeps an item's later days apart from the next item's.
        self._keys, self._key = np.unique(item * 2 * self.days + (day - day.min()), return_inverse=True)
        self._day = self._keys % (2 * self.days)
        self._half = hashed_rows(np.ascontiguousarray(user), 2) == 1

    def staying(self, lag: int) -> Callable[[Float], float]:
        """The share of a day's items that are still there `lag` days later, as a function of the rows' weights, [n].

        With A_d and B_d the items that the two halves of the users are shown on day d: the sum over d of |A_d & B_(d+lag)| and
        |B_d & A_(d+lag)|, halved, over the geometric mean of the sums of |A_d & B_d| over the earlier and over the later days. What an
        item's chance to be shown is cancels out, so that one that is shown seldom is not taken for one that has left.
        """
        found = np.minimum(np.searchsorted(self._keys, self._keys + lag), len(self._keys) - 1)
        first = np.flatnonzero(self._keys[found] == self._keys + lag)
        later = found[first]
        early, late = self._day < self.days - lag, self._day >= lag

        def share(weights: Float) -> float:
            a, b = (np.bincount(self._key, weights * half, len(self._keys)) > 0 for half in (self._half, ~self._half))
            both = a & b
            again = (np.count_nonzero(a[first] & b[later]) + np.count_nonzero(b[first] & a[later])) / 2
            at_once = np.sqrt(float(np.count_nonzero(both & early)) * np.count_nonzero(both & late))
            return float(again / at_once) if at_once else np.nan

        return share

    def shown_again(self, lag: int) -> float:
        """The share of a day's items that are shown `lag` days later or at any time after that, over the days that have such a day."""
        item = self._keys // (2 * self.days)
        last = np.append(item[1:] != item[:-1], True)  # the keys of an item are in the order of its days
        last_day = self._day[last][np.cumsum(last) - last]
        early = self._day < self.days - lag
        return float((last_day - self._day >= lag)[early].mean())


def half_life(lags: Int64, staying: Float) -> float:
    """Where a curve that starts at 1 first falls to a half, straight between its points; NaN where it does not."""
    x, y = np.concatenate([[0], lags]).astype(np.float64), np.concatenate([[1.0], staying])
    below = np.flatnonzero(y <= 0.5)
    if not len(below):
        return np.nan
    after = below[0]
    return float(x[after - 1] + (y[after - 1] - 0.5) / (y[after - 1] - y[after]) * (x[after] - x[after - 1]))
