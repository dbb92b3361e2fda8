"""Constructed negatives for logs of positives only: what others did in the same period and this user never did."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
NONE = -1
ROUNDS = 16  # rejection rounds before the exact draw takes over what is left
EXPANDED = 1 << 22  # (positive, candidate) pairs looked at together in the exact draw


@dataclass(frozen=True)
class Negatives:
    """Constructed negatives, grouped by positive.

    Attributes:
        positive: int64 [M], index of the positive that a negative belongs to; it shares that one's user and timestamp.
        item_ids: int64 [M]; the items of one positive are distinct.
        missing: how many were asked for but do not exist, because the user did nearly everything of a period.
    """

    positive: Int64
    item_ids: Int64
    missing: int


def construct_negatives(periods: Int64, user_ids: Int64, item_ids: Int64, *, per_positive: int, exponent: float, seed: int) -> Negatives:
    """Draw N negatives per positive without replacement, with probability proportional to count(item, period) ** exponent.

    Candidates are the items of the positive's period that its user has at no time. Drawing until enough distinct acceptable items have
    come up is the same distribution as ranking all candidates by log-weight plus Gumbel noise, so the cheap rejection rounds and the
    exact draw of what they left may be mixed.

    Args:
        periods: int64 [P], the period of each positive, e.g. its day.
        user_ids: int64 [P].
        item_ids: int64 [P].
        per_positive: N.
        exponent: 1 draws by popularity, 0.5 by its square root.
        seed: equal seeds and inputs give equal negatives.

    Returns:
        The negatives of positive 0, 1, ... in this order.
    """
    sampler = _Sampler(periods, user_ids, item_ids, exponent, np.random.default_rng(seed))
    drawn = np.full((len(periods), per_positive), NONE, np.int64)
    left = np.arange(len(periods))
    for _ in range(ROUNDS):
        if len(left):
            drawn[left] = sampler.fill(drawn[left], left)
            left = left[(drawn[left] == NONE).any(axis=1)]
    # The rows whose user leaves few or no candidates; their number, not their order, sets the size of a step.
    step = max(1, EXPANDED // max(1, sampler.largest_period))
    for start in range(0, len(left), step):
        rows = left[start : start + step]
        drawn[rows] = sampler.fill_exactly(drawn[rows], rows)
    found = drawn != NONE
    return Negatives(np.nonzero(found)[0], sampler.items[drawn[found]], int((~found).sum()))


class _Sampler:
    """Item distributions of all periods on one line of cumulative weights, and the users' own items."""

    def __init__(self, periods: Int64, user_ids: Int64, item_ids: Int64, exponent: float, rng: np.random.Generator) -> None:
        self.items, item = np.unique(item_ids, return_inverse=True)
        _, self._user = np.unique(user_ids, return_inverse=True)
        _, self._period = np.unique(periods, return_inverse=True)
        self._rng = rng
        self._owned = np.unique(self._user * len(self.items) + item)
        pairs, counts = np.unique(self._period * len(self.items) + item, return_counts=True)
        self._candidate, pair_period = pairs % max(1, len(self.items)), pairs // max(1, len(self.items))
        self._weight = counts.astype(np.float64) ** exponent
        self._line = np.cumsum(self._weight)
        self._bounds = np.searchsorted(pair_period, np.arange(len(np.unique(periods)) + 1))
        self.largest_period = int(np.diff(self._bounds).max(initial=0))

    def fill(self, drawn: Int64, rows: Int64) -> Int64:
        """One draw for every empty slot of `drawn` [n, N]; what the user has, or the row has already, leaves the slot empty."""
        empty = drawn == NONE
        row, slot = np.nonzero(empty)
        first, last = self._bounds[self._period[rows[row]]], self._bounds[self._period[rows[row]] + 1]
        below = np.where(first > 0, self._line[first - 1], 0.0)
        point = below + self._rng.random(len(row)) * (self._line[last - 1] - below)
        # Rounding may put a point on the next period's first item.
        new = self._candidate[np.minimum(np.searchsorted(self._line, point, side="right"), last - 1)]
        drawn = drawn.copy()
        drawn[row, slot] = np.where(self._has(self._user[rows[row]], new), NONE, new)
        for j in range(drawn.shape[1]):
            for i in range(drawn.shape[1]):
                # A new draw gives way to an older one, and of two new ones the later gives way.
                repeated = empty[:, j] & (drawn[:, i] == drawn[:, j]) & (~empty[:, i] if i > j else i != j)
                drawn[repeated, j] = NONE
        return drawn

    def fill_exactly(self, drawn: Int64, rows: Int64) -> Int64:
        """Fill the empty slots of `drawn` [n, N] from the list of all candidates; a slot stays empty only if there is none left."""
        first, sizes = self._bounds[self._period[rows]], np.diff(self._bounds)[self._period[rows]]
        row = np.repeat(np.arange(len(rows)), sizes)
        pair = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(first, sizes)
        item = self._candidate[pair]
        free = ~self._has(self._user[rows[row]], item) & ~(drawn[row] == item[:, None]).any(axis=1)
        row, item, pair = row[free], item[free], pair[free]
        score = np.log(self._weight[pair]) + self._rng.gumbel(size=len(pair))
        order = np.lexsort((-score, row))
        row, item = row[order], item[order]
        position = np.arange(len(row)) - np.searchsorted(row, row)
        empty = drawn == NONE
        taken = position < empty.sum(axis=1)[row]
        # The k-th best candidate goes to the k-th empty slot of its row.
        slots = np.argsort(~empty, axis=1, kind="stable")
        drawn = drawn.copy()
        drawn[row[taken], slots[row[taken], position[taken]]] = item[taken]
        return drawn

    def _has(self, user: Int64, item: Int64) -> npt.NDArray[np.bool_]:
        wanted = user * len(self.items) + item
        return self._owned[np.minimum(np.searchsorted(self._owned, wanted), len(self._owned) - 1)] == wanted
