"""Finding 13: how alike the content of items is that share a prefix, and how many share one (paper B)."""

from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.reproduce.finding import Estimate, Finding, Row, Sign
from pipeline.reproduce.plots_items import Axis, curves
from pipeline.reproduce.prefixes import codes_in_words, codes_of, is_coded, prefix_groups
from pipeline.reproduce.study import Study, over_groups
from pipeline.reproduce.world import Coding, Variant, World

Float = NDArray[np.float64]
Int64 = NDArray[np.int64]
LEVELS = 4  # as many as paper B tells of
CODING = Coding.of(levels=LEVELS)
COSINES = ("0.41", "0.68", "0.91", "0.97")
SIZES = ("150k-450k", "20-150", "1-5", "1")
NOTES = (
    "A quantizer of four levels with the recipe's codes per level; paper B has eight levels of 2048 codes and far more items, so that its "
    "prefixes hold more of them.",
    "The cosine of an item is the mean over the other items that share its prefix, and items count alike; those without such a companion "
    "are left out. Two lengths are compared on the items that have companions at both. Intervals resample the first codes with all their "
    "items.",
)


def variants(world: World) -> list[Variant]:
    """None: no ranker is needed."""
    return []


def codings(world: World) -> list[Coding]:
    """The recipe's quantizer with four levels."""
    return [CODING]


class Similarity(NamedTuple):
    """By prefix length, 1 to L.

    Attributes:
        cosine: mean content cosine of two items that share the prefix.
        rise: of the cosine from one length to the next, L - 1 of them.
        size: mean number of items of a prefix.
        fall: change of that number from one length to the next in percent.
    """

    cosine: list[Estimate]
    rise: list[Estimate]
    size: list[Estimate]
    fall: list[Estimate]


def find(study: Study) -> Finding:
    """Cosine and size by length."""
    ids, vectors = study.world.vectors
    codes, shuffled = codes_of(study.world, ids, CODING), codes_of(study.world, ids, CODING, shuffled=True)
    coded = is_coded(codes)
    unit = vectors[coded].astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    mine, wrong = similarity(unit, codes[coded]), similarity(unit, shuffled[coded])
    lengths = range(1, LEVELS + 1)
    rows = [
        _row(f"content cosine of two items that share {codes_in_words(n)}", COSINES[n - 1], mine.cosine[n - 1], "", wrong.cosine[n - 1])
        for n in lengths
    ]
    for n, before, after in zip(lengths[1:], COSINES, COSINES[1:], strict=False):
        paper = f"{float(after) - float(before):+.2f}"
        rows.append(_row(f"cosine at {n} codes less that at {n - 1}", paper, mine.rise[n - 2], "", wrong.rise[n - 2], "positive"))
    rows += [Row(f"items of a prefix of {codes_in_words(n)}", SIZES[n - 1], mine.size[n - 1], "") for n in lengths]
    rows += [Row(f"items of a prefix: {n} codes against {n - 1}", "fewer", mine.fall[n - 2], expected="negative") for n in lengths[1:]]
    return Finding(
        13,
        "Paper B: content of items that share a prefix",
        "Is content more alike, and are items fewer, the more codes they share?",
        tuple(rows),
        NOTES,
        _plots(mine, wrong),
    )


def _row(what: str, paper: str, ours: Estimate, unit: str, control: Estimate, expected: Sign | None = None) -> Row:
    if np.isnan(ours.mean):
        return Row(what, paper, None, unit, expected, why_not="no two items share so many codes")
    return Row(what, paper, ours, unit, expected, control)


def _plots(mine: Similarity, wrong: Similarity) -> tuple[str, ...]:
    lengths, across = range(1, len(mine.cosine) + 1), Axis("codes that the items share", whole=True)
    cosines = {"Semantic ID": (lengths, mine.cosine), "shuffled Semantic ID": (lengths, wrong.cosine)}
    label = "Mean content cosine of two items by the number of codes that they share, beside shuffled codes"
    cosine = curves("prefix-cosine", label, cosines, across, Axis("content cosine"))
    sizes = {"Semantic ID": (lengths, mine.size)}
    return cosine, curves("prefix-size", "Items of a prefix by its length", sizes, across, Axis("items of a prefix", log=True))


def similarity(unit: Float, codes: NDArray[np.uint16]) -> Similarity:
    """Of items with content vectors of length 1, float64 [N, D], and codes, [N, L]."""
    levels = codes.shape[1]
    groups = [prefix_groups(codes, length) for length in range(1, levels + 1)]
    cosines = [cosine_to_others(unit, each) for each in groups]
    # 1 / size sums to 1 over the items of a prefix: so resampled items count prefixes.
    prefixes = [1 / np.bincount(each)[each] for each in groups]

    def figures(weights: Float) -> list[float]:
        found = [_mean(each, weights) for each in cosines]
        found += [_mean(after - before, weights) for before, after in pairwise(cosines)]
        sizes = [_mean(1 / each, weights * each) for each in prefixes]
        return [*found, *sizes, *(100 * (after / before - 1) for before, after in pairwise(sizes))]

    estimates = iter(over_groups(groups[0], figures))
    return Similarity(*(list(islice(estimates, count)) for count in (levels, levels - 1, levels, levels - 1)))


def cosine_to_others(unit: Float, groups: Int64) -> Float:
    """Mean cosine of each item with the others of its group: float64 [N], NaN for one that is alone.

    Args:
        unit: vectors of length 1, [N, D].
        groups: [N], numbered from 0.
    """
    sizes = np.bincount(groups)[groups]
    order = np.argsort(groups, kind="stable")
    sums = np.add.reduceat(unit[order], np.flatnonzero(np.diff(groups[order], prepend=-1)), axis=0)
    with_itself = np.einsum("nd,nd->n", unit, sums[groups])
    return np.divide(with_itself - 1, sizes - 1, out=np.full(len(unit), np.nan), where=sizes > 1)


def _mean(values: Float, weights: Float) -> float:
    known = np.isfinite(values)
    total = weights[known].sum()
    return float((weights[known] * values[known]).sum() / total) if total else np.nan
