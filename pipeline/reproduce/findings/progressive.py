"""Beyond the papers: the stream, each row scored before it is trained on; what exact coarse rows do; when Semantic IDs help; the oracle."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from scipy.stats import f as fisher

from features.segments import PAST_IMPRESSIONS
from pipeline.reproduce.compare import Bools, Float, gain_row, losses, ne
from pipeline.reproduce.core import RANDOM_HASH, represented
from pipeline.reproduce.finding import Estimate, Finding, Row, Sign
from pipeline.reproduce.plots_segments import segment_plot
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Variant, World

OTHER_WORLDS = True  # it reads `Study.others`
MODULO = "semantic_id_modulo"
SHUFFLED = "shuffled_semantic_id"
OTHERS = {  # than the baseline
    "no_item": "no item",
    "individual": "a row per item",
    "semantic_id": "Semantic IDs",
    "semantic_id_and_random_hash": "Semantic IDs and random hash",
}
WORDS = {RANDOM_HASH: "random hash", **OTHERS, SHUFFLED: "Semantic IDs shuffled"}
NEVER_SHOWN = PAST_IMPRESSIONS.names[0]
CLAIMED = ("semantic_id", "semantic_id_and_random_hash")


def variants(world: World) -> list[Variant]:
    """One beside those of every world."""
    return [represented(MODULO, {"semantic_id": {"kind": "semantic_id", "mapping": "modulo"}})]


def find(study: Study) -> Finding:
    """Progressive NE by segment, and what follows."""
    rows = (*_segments(study), *_coarse_rows(study), *_worlds(study), *_distances(study))
    shown = {variant: words for variant, words in WORDS.items() if variant != RANDOM_HASH}
    plots = [segment_plot(study, "progressive", "stream", each, shown, RANDOM_HASH) for each in study.segments("stream")]
    notes = [
        "Judged on the second half of all rows, each scored before it is trained on: a model that goes on learning, as one in use does.",
        "Target and history are represented alike, and Semantic IDs have exact coarse rows.",
        f"Equal table rows, {study.world.config.model.rows:,} over all item tables, but for a row per item: it has "
        f"{study.table_rows('individual'):,} rows, and a trained unknown row, by which it knows that an item is new.",
        "No item: neither the item nor the history's are told; dense features tell how old the item is and how often it was shown.",
        f"The deviation over seeds comes from {len(study.seeds)} of them, too few to tell much; its interval supposes normal samples.",
    ]
    if study.world.is_simulated:
        notes.append(
            f"In this world {_share(study)} lies in the topics: of the variance of what an item is worth to everybody. Which topics a user "
            "likes lies in the content whatever that share is, so that Semantic IDs may help at 0% too."
        )
    question = "What do Semantic IDs bring to a model that goes on learning, for which items, and where does a row per item do better?"
    return Finding(16, "Beyond the papers: judged as a stream", question, rows, tuple(notes), tuple(plots))


def ratio_of_deviations(mine: Float, theirs: Float) -> Estimate | None:
    """Standard deviation of one sample over that of another, with the interval of normal samples; None where there is no such ratio.

    Args:
        mine: float64 [S].
        theirs: float64 [S'].
    """
    if min(len(mine), len(theirs)) < 2 or not theirs.std():
        return None
    ratio = float(mine.std(ddof=1) / theirs.std(ddof=1))
    low, high = (float(fisher.ppf(point, len(mine) - 1, len(theirs) - 1)) for point in (0.025, 0.975))
    return Estimate(ratio, ratio / high**0.5, ratio / low**0.5)


def covered(variant_SN: Float, no_item_SN: Float, oracle_N: Float, weights_N: Float) -> Float:
    """Share of the distance between no item and the oracle that a variant covers, percent: float64 [S].

    Args:
        variant_SN: log losses of the variant, float64 [S, N].
        no_item_SN: the same without items.
        oracle_N: log losses of the true probabilities, float64 [N].
        weights_N: float64 [N].
    """
    floor = oracle_N @ weights_N
    distance = no_item_SN @ weights_N - floor
    share: Float = 100 * (1 - (variant_SN @ weights_N - floor) / distance)
    return share


def _segments(study: Study) -> Iterator[Row]:
    """Every variant against hashed ids, on all rows and by segment."""
    parted = {"all rows": _all(study)}
    for parting, by in zip(study.segments("stream"), ("impressions so far", "age"), strict=True):
        parted |= {f"{by}: {name}": chosen for name, chosen in parting.segments.items()}
    claimed_of = ("all rows", f"impressions so far: {NEVER_SHOWN}")
    for where in claimed_of:
        what = f"Semantic IDs against Semantic IDs shuffled, {where}"
        yield gain_row(study, what, "semantic_id", SHUFFLED, "stream", parted[where], expected="negative")
    for where, chosen in parted.items():
        for variant, words in OTHERS.items():
            expected: Sign | None = "negative" if where in claimed_of and variant in CLAIMED else None
            control = SHUFFLED if variant == "semantic_id" else None
            what = f"{words} against random hash, {where} ({np.count_nonzero(chosen):,} rows)"
            yield gain_row(study, what, variant, RANDOM_HASH, "stream", chosen, expected=expected, control=control)


def _coarse_rows(study: Study) -> Iterator[Row]:
    """Exact coarse rows against the papers' modulo."""
    what = "Semantic IDs, exact coarse rows against modulo"
    yield gain_row(study, f"{what}: all rows", "semantic_id", MODULO, "stream")
    yield gain_row(study, f"{what}: items never shown before", "semantic_id", MODULO, "stream", _never_shown(study))
    labels, weights = study.labels("stream"), np.ones(len(study.labels("stream")))
    exact, modulo = (ne(losses(study, variant, "stream"), labels, weights) for variant in ("semantic_id", MODULO))
    ratio = ratio_of_deviations(exact, modulo)
    what = f"{what}: standard deviation of NE over seeds, one divided by the other"
    yield Row(what, "", ratio, unit="") if ratio else Row(what, "", None, unit="", why_not="it takes two seeds that differ")


def _worlds(study: Study) -> Iterator[Row]:
    """The same world with more or less of the item effect in the topics."""
    if not study.world.is_simulated:
        why_not = "how much of what an item is worth lies in its content can be set in a simulated world alone"
        yield Row("Semantic IDs and a row per item by the share of the item effect in the topics", "", None, why_not=why_not)
        return
    pairs = (("semantic_id", RANDOM_HASH), ("individual", RANDOM_HASH), ("semantic_id", "individual"))
    for each in (study, *study.others):
        for where, chosen in (("all rows", _all(each)), ("items never shown before", _never_shown(each))):
            for variant, baseline in pairs:
                what = f"{_share(each)} in the topics: {WORDS[variant]} against {WORDS[baseline]}, {where}"
                control = SHUFFLED if variant == "semantic_id" else None
                yield gain_row(each, what, variant, baseline, "stream", chosen, control=control)


def _distances(study: Study) -> Iterator[Row]:
    """How far from the true click probabilities."""
    if study.world.oracle is None:
        yield Row("Distance to the oracle", "", None, unit="", why_not="the true click probabilities of a real log are not known")
        return
    oracle, labels = study.world.oracle[study.rows("stream")], study.labels("stream")
    floor = -(labels * np.log(oracle) + (1 - labels) * np.log1p(-oracle))
    known = {variant: losses(study, variant, "stream") for variant in WORDS}
    for variant, mine in known.items():
        distance = study.estimate("stream", partial(ne, mine - floor, labels))
        yield Row(f"NE of {WORDS[variant]} minus NE of the oracle", "", distance, unit="")
    for variant, mine in known.items():
        if variant != "no_item":
            share = study.estimate("stream", partial(covered, mine, known["no_item"], floor))
            yield Row(f"Share of the distance from no item to the oracle that {WORDS[variant]} covers", "", share)


def _all(study: Study) -> Bools:
    return np.ones(len(study.labels("stream")), bool)


def _never_shown(study: Study) -> Bools:
    (so_far,) = (parting for parting in study.segments("stream") if parting.by == PAST_IMPRESSIONS.column)
    return so_far.segments[NEVER_SHOWN]


def _share(study: Study) -> str:
    return f"{study.world.config.simulate.semantic_share:.0%} of the item effect"
