"""Finding 10: how many clicks are lost when an item is swapped for another with the same prefix (paper A, figure 5)."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from features.history import MICROSECONDS_PER_HOUR
from features.sources.simulated import START
from features.sources.simulated import World as TrueWorld
from pipeline.reproduce.finding import Finding, Row
from pipeline.reproduce.plots_items import Axis, curves
from pipeline.reproduce.prefixes import codes_of, prefix_groups
from pipeline.reproduce.study import Study, over_groups
from pipeline.reproduce.world import Variant, World

Float = NDArray[np.float64]
Int64 = NDArray[np.int64]
PAPER = ("13.7%", "8.2%", "6.0%", "5.2%")
CHANCES = 8  # ways to shuffle whose mean is taken: a few items have most clicks, and one way may be lucky for them
PAIRS = 1 << 20  # of a row and an item looked at together
TITLE = "Figure 5: clicks lost by swapping an item for one with the same prefix"
QUESTION = "How many clicks are lost when a clicked item is swapped for another one that shares its first codes?"
NOTES = (
    "Clicks are simulated: the true click probability of the same user at the same time for the other item. The impressions S are those "
    "that were clicked, in place of what a production ranker recommends; what they lose is therefore more than there.",
    "An impression's item is swapped for each item that shares the prefix and exists at the time, and the mean is taken. Random swaps are "
    "among items that share a first code after the first codes were dealt out anew.",
    "Impressions whose item has no such companion are left out; two lengths are compared on the impressions that have one at both.",
    "Items are resampled, not users: true probabilities leave no chance to clicks, but a few items have most of the impressions, and which "
    "companions they happen to have matters.",
)
WHY_NOT = "a logged click does not tell whether the user would have clicked on another item, shown in its place"


def variants(world: World) -> list[Variant]:
    """None: the true click probabilities judge the codes themselves."""
    return []


def find(study: Study) -> Finding:
    """Loss by prefix length, and what each further code saves."""
    if not study.world.is_simulated:
        rows = [Row(f"clicks lost: {_swap(length)}", paper, None, why_not=WHY_NOT) for length, paper in enumerate(PAPER)]
        return Finding(10, TITLE, QUESTION, tuple(rows))
    swaps = _Swaps(study.world)
    mine, shuffled = swaps.losses(shuffled=False), swaps.losses(shuffled=True)
    lengths = range(len(mine.loss))
    rows = [Row(f"clicks lost: {_swap(n)}", PAPER[n] if n < len(PAPER) else "", mine.loss[n], control=shuffled.loss[n]) for n in lengths]
    for n in lengths[1:]:
        what = f"{_swap(n)} against {_swap(n - 1)}"
        rows.append(Row(f"clicks lost: {what}", _step(n), mine.saved[n - 1], "points", "negative", shuffled.saved[n - 1]))
    told = ", ".join(f"{100 * share:.0f}% for {_swap(n)}" for n, share in enumerate(mine.swapped))
    series = {"Semantic ID": (lengths, mine.loss), "shuffled Semantic ID": (lengths, shuffled.loss)}
    axes = Axis("codes that both items share; 0 is a random swap", whole=True), Axis("clicks lost, percent")
    plot = curves("click-loss", "Clicks lost by swapping an item, by the length of the shared prefix", series, *axes)
    return Finding(10, TITLE, QUESTION, tuple(rows), (*NOTES, f"Impressions with a companion: {told}."), (plot,))


def _swap(length: int) -> str:
    return f"{length}-prefix swap" if length else "random swap"


def _step(length: int) -> str:
    before, after = (float(PAPER[n].rstrip("%")) for n in (length - 1, length)) if length < len(PAPER) else (0.0, 0.0)
    return f"{after - before:.1f} points" if before else ""


class Losses:
    """By prefix length, from 0, a random swap.

    Attributes:
        loss: clicks lost in percent.
        saved: loss at each length from 1 on less that at the length before, on the impressions that have companions at both.
        swapped: share of the impressions that have a companion.
    """

    def __init__(self, item: Int64, own: Float, others: list[list[Float]]) -> None:
        """Take means over all ways to code the items that are given.

        Args:
            item: of each impression, [n].
            own: its click probability, [n].
            others: by way and length, the mean click probability of its companions, [n], NaN without any.
        """
        lengths = len(others[0])

        def figures(weights: Float) -> list[float]:
            return np.mean([_losses(own, each, weights) for each in others], axis=0).tolist()

        estimates = over_groups(item, figures)
        self.loss, self.saved = estimates[:lengths], estimates[lengths:]
        self.swapped = [float(np.mean([np.isfinite(each[length]) for each in others])) for length in range(lengths)]


def _losses(own: Float, others: list[Float], weights: Float) -> list[float]:
    """At each length, and then from each to the next on the impressions that have companions at both."""
    found = [click_loss(own, other, weights) for other in others]
    for before, after in pairwise(others):
        at_both = weights * (np.isfinite(before) & np.isfinite(after))
        found.append(click_loss(own, after, at_both) - click_loss(own, before, at_both))
    return found


def click_loss(own: Float, other: Float, weights: Float) -> float:
    """Clicks lost in percent, -(CTR on S' - CTR on S) / CTR on S, over the impressions whose item can be swapped; NaN without any.

    Args:
        own: click probability of the item shown, [n].
        other: of the one in its place; NaN where there is none.
        weights: [n].
    """
    weights = weights * np.isfinite(other)
    clicks = (weights * own).sum()
    return float(100 * (1 - (weights * np.nan_to_num(other)).sum() / clicks)) if clicks else np.nan


class _Swaps:
    """The clicked impressions of a simulated log, and what would have happened to other items in their place."""

    def __init__(self, world: World) -> None:
        self.world, self.true = world, TrueWorld(**world.config.simulate.model_dump())
        columns = [np.concatenate(parts) for parts in zip(*self.true.rows(), strict=True)]
        clicked = world.columns(["label_click"])["label_click"] > 0
        assert world.oracle is not None
        assert np.array_equal(columns[4], world.oracle), "the world made anew is not the one that wrote the log"
        time, self.item, _, self.taste, self.own = (column[clicked] for column in columns)
        self.hour = (time - START) / MICROSECONDS_PER_HOUR

    def losses(self, *, shuffled: bool) -> Losses:
        """By the world's own codes, or by the mean over some ways to deal them out to the wrong items."""
        codes, rng = codes_of(self.world, self.true.item_ids), np.random.default_rng(0)
        parts = [rng.permutation(prefix_groups(codes, 1))]  # a random swap
        parts += [prefix_groups(codes, length) for length in range(1, codes.shape[1] + 1)]
        orders = [rng.permutation(len(codes)) for _ in range(CHANCES)] if shuffled else [np.arange(len(codes))]
        return Losses(self.item, self.own, [[self._mean_of_companions(groups[order]) for groups in parts] for order in orders])

    def _mean_of_companions(self, groups: Int64) -> Float:
        def exists(row: Int64, item: Int64) -> NDArray[np.bool_]:
            return (self.true.birth[item] <= self.hour[row]) & (self.hour[row] < self.true.death[item])

        def click(row: Int64, item: Int64) -> Float:
            return self.true.click_probability(item, self.taste[row])

        return mean_of_companions(self.item, groups, exists, click)


def mean_of_companions(
    item: Int64, groups: Int64, exists: Callable[[Int64, Int64], NDArray[np.bool_]], value: Callable[[Int64, Int64], Float]
) -> Float:
    """Mean of a value over the other items of the group of each row's item that exist at the time; NaN without any: float64 [n].

    Args:
        item: its number, [n].
        groups: of each item, [N], numbered from 0.
        exists: of row numbers and item numbers, [m] each, which items exist at the time of the row: bool [m].
        value: of the same, float64 [m].
    """
    order = np.argsort(groups, kind="stable")  # the items of a group lie together
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    size = sizes[groups[item]]
    found = np.full(len(item), np.nan)
    ends = np.cumsum(size)
    for rows in np.split(np.arange(len(item)), np.searchsorted(ends, np.arange(PAIRS, int(ends[-1]), PAIRS))):
        pairs = size[rows]
        row = np.repeat(rows, pairs)
        within = np.arange(len(row)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        other = order[starts[groups[item[row]]] + within]
        kept = (other != item[row]) & exists(row, other)
        row, other = row[kept], other[kept]
        count = np.bincount(row - rows[0], minlength=len(rows)) if len(rows) else np.zeros(0)
        total = np.bincount(row - rows[0], value(row, other), len(rows)) if len(rows) else np.zeros(0)
        found[rows] = np.divide(total, count, out=np.full(len(rows), np.nan), where=count > 0)
    return found
