"""What the click rates of items that share a row have in common, free of sampling noise: no impression is paired with itself."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int64 = NDArray[np.int64]


class ItemClicks(NamedTuple):
    """Weighted sums over the impressions of each item, [N] each, and the click rate of all impressions.

    Attributes:
        shown: of weights.
        clicked: of clicks less the click rate.
        pairs, products: over ordered pairs of different impressions: of weights, and of products of clicks less the click rate.
        rate: of all impressions.
    """

    shown: Float
    clicked: Float
    pairs: Float
    products: Float
    rate: float


def item_clicks(clicks: Float, weights: Float, item: Int64, items: int) -> ItemClicks:
    """Args: clicks (0 or 1), weights and item numbers of impressions, [n] each; N."""
    rate = float((weights * clicks).sum() / weights.sum())
    about = weights * (clicks - rate)
    shown, clicked, squares, of_squares = (_sums(item, values, items) for values in (weights, about, weights**2, about**2))
    return ItemClicks(shown, clicked, shown**2 - squares, clicked**2 - of_squares, rate)


def _sums(item: Int64, values: Float, items: int) -> Float:
    return np.bincount(item, values, items).astype(np.float64)


class Alikeness(NamedTuple):
    """Of clicks in a row; NaN where no row has two items.

    Attributes:
        correlation: of the clicks on two impressions of different items of a row, in percent.
        within: the part of the variance of items' click rates that lies within rows, in percent; NaN where items do not differ.
    """

    correlation: float
    within: float


def alikeness(sums: ItemClicks, rows: Int64) -> Alikeness:
    """Over impressions of items that have others in their row.

    Args:
        sums: of the items.
        rows: the row of each item, [N].
    """
    others_shown = np.bincount(rows, sums.shown)[rows] - sums.shown
    others_clicked = np.bincount(rows, sums.clicked)[rows] - sums.clicked
    chosen = (others_shown > 0) & (sums.pairs > 0)  # an item shown once tells nothing of the variance
    shown = sums.shown[chosen]
    if not len(shown):
        return Alikeness(np.nan, np.nan)
    covariance = (sums.clicked[chosen] * others_clicked[chosen] / others_shown[chosen]).sum() / shown.sum()
    variance = (shown * sums.products[chosen] / sums.pairs[chosen]).sum() / shown.sum()
    within = 100 * (1 - covariance / variance) if variance > 0 else np.nan
    return Alikeness(float(100 * covariance / (sums.rate * (1 - sums.rate))), float(within))
