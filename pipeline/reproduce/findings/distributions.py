"""Finding 9: how impressions and clicks are spread, over items, over days and over the rows of a table (paper A, figures 2, 3 and 6)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.parameterization import Ngrams
from features.representation import hashed_rows
from features.schema import LABEL
from pipeline.plots import skew_plot
from pipeline.reproduce.alikeness import Alikeness, alikeness, item_clicks
from pipeline.reproduce.finding import Estimate, Finding, Row
from pipeline.reproduce.plots_items import Axis, curves, exact
from pipeline.reproduce.prefixes import codes_in_words, codes_of, is_coded, prefix_groups
from pipeline.reproduce.study import Study, over_groups
from pipeline.reproduce.turnover import Turnover, half_life
from pipeline.reproduce.world import Variant, World
from pipeline.segments import HEAD, TORSO

Float = NDArray[np.float64]
Int64 = NDArray[np.int64]
DAY = 86_400_000_000  # microseconds
SIX_DAYS = 6
LAGS = 14  # points of the curve over days
DEPTH = 3  # of core's semantic_id
CHANCES = 8  # hashes and shuffles whose mean is taken, lest one of them be lucky
NOTES = (
    "These are facts of the log and of the codes, not of a model; nothing is trained for them.",
    "Turnover is told in two ways. Of the items that one half of the users is shown on a day: how many the other half is shown n days "
    "later, as a share of how many it is shown on that very day; so an item that is shown seldom is not taken for one that has left, but "
    "popular items, which are more often seen twice, count for more. And of all items of a day: how many are shown n days later or at any "
    "time after; there an item that is shown seldom seems to leave early.",
    "Two items of a row are alike if a click on an impression of one goes with clicks on the others: the correlation is over pairs of "
    "impressions of different items in a row, so that neither sampling noise nor rows with a single item add to it. At each length it is "
    "compared with as many hashed rows as there are prefixes in use. Here items are resampled, not users: a few items have most of the "
    "impressions, and which others they happen to share a row with is most of the chance.",
)


class Events(NamedTuple):
    """Rows of a log, [n] each: its item ids, their numbers from 0 without a gap, user ids, clicks (0 or 1), and days from any start."""

    ids: Int64
    item: Int64
    user: Int64
    clicks: Float
    day: Int64

    @classmethod
    def of(cls, ids: Int64, user: Int64, clicks: Float, day: Int64) -> "Events":
        """Number the items in the order of their ids."""
        return cls(ids, np.unique(ids, return_inverse=True)[1].ravel(), user, clicks, day)

    def where(self, chosen: NDArray[np.bool_]) -> "Events":
        """Some of the rows, their items numbered anew."""
        return Events.of(self.ids[chosen], self.user[chosen], self.clicks[chosen], self.day[chosen])


def variants(world: World) -> list[Variant]:
    """None: nothing is trained."""
    return []


def find(study: Study) -> Finding:
    """Skew, turnover, and what items that share a row have in common."""
    log, world = study.log, study.world
    clicks = log[LABEL + world.config.model.tasks[0]].astype(np.float64)
    events = Events.of(log["item_id"], log["user_id"], clicks, log["timestamp"] // DAY)
    constructed = world.impressions.metadata.get("negatives")
    notes = [*NOTES]
    if constructed:
        notes.append(
            f"Negatives of this log were {constructed}: skew and turnover are of the positives alone. As far as the negatives follow "
            "popularity, they leave items no click rate of their own, and little that items of a row could have in common."
        )
    shown = events.where(events.clicks > 0) if constructed else events
    turnover, drift = _turnover(shown)
    coded = events.where(is_coded(codes_of(world, events.ids)))
    use, clicks_by_row = _use_of_rows(coded, world)
    alike, alike_plot = _alike(coded, world)
    return Finding(
        9,
        "Figures 2, 3 and 6: skew, turnover, and clicks over the rows of a table",
        "How unevenly are impressions spread over items, how fast do items leave, and do items that share a Semantic ID row have more "
        "alike click rates than items that share a hashed row?",
        (*_skew(shown), *turnover, *use, *alike),
        tuple(notes),
        (skew_plot(np.sort(np.bincount(shown.item))[::-1]), drift, clicks_by_row, alike_plot),
    )


def _skew(events: Events) -> list[Row]:
    tier = tiers(np.bincount(events.item))[events.item]
    shares = over_groups(events.user, lambda w: (100 * np.bincount(tier, w, 3) / w.sum()).tolist())
    classes = (("the most impressed 0.1% of the items", "25%"), ("the next 5.5%", "50%"), ("the other 94.4%", "25%"))
    return [Row(f"share of the impressions: {name}", paper, ours) for (name, paper), ours in zip(classes, shares, strict=True)]


def tiers(counts: Int64) -> Int64:
    """Paper A's classes of items, int64 [N]: 0 for the most impressed 0.1% (at least one item), 1 for the next 5.5%, else 2."""
    order = np.argsort(-counts, kind="stable")
    head = max(1, round(HEAD * len(counts)))
    tier = np.full(len(counts), 2)
    tier[order[: head + max(1, round(TORSO * len(counts)))]] = 1
    tier[order[:head]] = 0
    return tier


def _turnover(events: Events) -> tuple[list[Row], str]:
    turnover = Turnover(events.item, events.day, events.user)
    lags = np.unique(np.geomspace(1, max(1, 0.75 * (turnover.days - 1)), LAGS).round().astype(np.int64))
    staying = [turnover.staying(int(lag)) for lag in [*lags, SIX_DAYS]]

    def figures(weights: Float) -> list[float]:
        *curve, six = (share(weights) for share in staying)
        return [100 * (1 - six), half_life(lags, np.array(curve)), *(100 * share for share in curve)]

    left, half, *curve = over_groups(events.user, figures)
    what = "items of a day that have left six days later", "items of a day not shown again six days later or at any time after"
    if turnover.days <= SIX_DAYS + 1:
        rows = [Row(each, "50%", None, why_not=f"this log has {turnover.days} days") for each in what]
    else:
        rows = [Row(what[0], "50%", left), Row(what[1], "50%", Estimate(100 * (1 - turnover.shown_again(SIX_DAYS)), np.nan, np.nan))]
    known = np.isfinite(half.low)
    why_not = "" if known else f"{100 - curve[-1].mean:.0f}% have left after {lags[-1]} days, and it is not clear when half of them had"
    rows.append(Row("days after which half of the items of a day have left", "6", half if known else None, "", why_not=why_not))
    everything = Estimate(100.0, np.nan, np.nan)
    series = {
        "chance to be shown cancelled out": ([0, *lags], [everything, *curve]),
        "shown again then or later": ([0, *lags], [everything, *exact([100 * turnover.shown_again(int(lag)) for lag in lags])]),
    }
    label = "Share of a day's items that are still shown some days later"
    return rows, curves("drift", label, series, Axis("days later", whole=True), Axis("items of a day, percent"))


def _use_of_rows(events: Events, world: World) -> tuple[list[Row], str]:
    total, ids = world.config.model.rows, np.unique(events.ids)
    codes = codes_of(world, ids)
    scheme = Ngrams("prefix_ngram", codes.shape[1], world.config.quantize.codebook_size, min(DEPTH, codes.shape[1]), "exact_coarse")
    tables = {"random hash": hashed_rows(ids, total)[:, None], "Semantic ID": scheme.keys(codes, scheme.table_rows(total))}

    def clicked(weights: Float) -> list[Float]:
        each = np.bincount(events.item, weights * events.clicks, len(ids))
        sums = (np.bincount(keys.ravel(), np.repeat(each, keys.shape[1]), total) for keys in tables.values())
        return [counts.astype(np.float64) for counts in sums]

    entropies = over_groups(events.user, lambda w: [entropy_bits(counts) for counts in clicked(w)])
    in_use = [Estimate(100 * len(np.unique(keys)) / total, np.nan, np.nan) for keys in tables.values()]
    rows = [Row(f"rows in use of {total:,}: {name}", "", ours) for name, ours in zip(tables, in_use, strict=True)]
    rows += [Row(f"entropy of the clicks over the rows: {name}", "", ours, "bits") for name, ours in zip(tables, entropies, strict=True)]
    rank = np.unique(np.geomspace(1, total, 200).round().astype(np.int64))
    series = {}
    for name, counts in zip(tables, clicked(np.ones(len(events.item))), strict=True):
        share = np.cumsum(np.sort(counts)[::-1]) / counts.sum()
        series[name] = ((100 * rank / total).tolist(), exact(100 * share[rank - 1]))
    label = "Cumulative share of clicks over the rows of a table, most clicked first, by random hash and by Semantic ID"
    axes = Axis("rows of the table, most clicked first, percent", log=True), Axis("clicks, percent")
    return rows, curves("clicks-by-row", label, series, *axes)


def entropy_bits(counts: Float) -> float:
    """Of a distribution given by counts [H]."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _alike(events: Events, world: World) -> tuple[list[Row], str]:
    """At each prefix length, the correlation of clicks within a row, and how much of the spread of click rates lies within rows."""
    ids, rng = np.unique(events.ids), np.random.default_rng(0)
    codes = codes_of(world, ids)
    lengths = range(1, codes.shape[1] + 1)
    parted = []
    for length in lengths:
        mine = prefix_groups(codes, length)
        chance = [(hashed_rows(ids ^ salt, int(mine.max()) + 1), rng.permutation(mine)) for salt in range(CHANCES)]
        parted.append((mine, *zip(*chance, strict=True)))

    def figures(weights: Float) -> list[float]:
        sums, found = item_clicks(events.clicks, weights, events.item, len(ids)), []
        for parts in parted:
            mine = alikeness(sums, parts[0])
            hashed, wrong = (Alikeness(*np.mean([alikeness(sums, rows) for rows in each], axis=0)) for each in parts[1:])
            found += [mine.correlation, hashed.correlation, wrong.correlation]
            found += [mine.correlation - hashed.correlation, wrong.correlation - hashed.correlation, mine.within, hashed.within]
        return found

    estimates = over_groups(events.item, figures)
    each = [estimates[first : first + 7] for first in range(0, len(estimates), 7)]
    rows = []
    for length, (*_, gain, control, _, _) in zip(lengths, each, strict=True):
        what = f"correlation of the clicks on two items that share {codes_in_words(length)}, less that of two items of a hashed row"
        rows.append(Row(what, "", gain, "points", "positive", control))
    rows += _within_rows([(f"{codes_in_words(length)} shared", of[-2], of[-1]) for length, of in zip(lengths, each, strict=True)])
    names = ("Semantic ID", "hashed rows", "shuffled Semantic ID")
    series = {name: ([*lengths], [estimates[index] for estimates in each]) for index, name in enumerate(names)}
    label = "Correlation of the clicks on two items of a row, by the number of codes that they share, beside hashed and shuffled rows"
    return rows, curves("alike", label, series, Axis("codes that items of a row share", whole=True), Axis("correlation, percent"))


def _within_rows(found: list[tuple[str, Estimate, Estimate]]) -> list[Row]:
    """By prefix length in words: of rows with a common prefix, and of hashed ones."""
    what = "variance of items' click rates that lies within a row"
    rows = []
    for shared, *ours in found:
        for name, within in zip((shared, f"hashed rows, as many as of {shared}"), ours, strict=True):
            if np.isfinite(within.low):
                rows.append(Row(f"{what}: {name}", "", within))
    return rows or [Row(what, "", None, why_not="items of this log do not clearly differ in their click rates")]
