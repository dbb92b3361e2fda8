"""Table 2 of paper A: which groups of codes should have rows, at equal rows."""

from typing import Any, NamedTuple

from pipeline.reproduce import paper_a
from pipeline.reproduce.compare import gain_row
from pipeline.reproduce.finding import Finding, Row
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Variant, World


class Scheme(NamedTuple):
    """A row of the table.

    Attributes:
        variant: name of the variant.
        words: for the page.
        paper: train NE gain over random hashing, percent; None where the paper lacks it.
        table: settings of the item table.
        levels: L.
        divisor: the recipe's K over this one's.
    """

    variant: str
    words: str
    paper: float | None
    table: dict[str, Any]
    levels: int = paper_a.LEVELS
    divisor: int = 1


def _prefix(depth: int) -> dict[str, Any]:
    return {"depth": depth, "mapping": "modulo"}


SCHEMES = {
    scheme.variant: scheme
    for scheme in (
        Scheme("target_trigram", "Trigram", -0.028, {"scheme": "trigram"}),
        Scheme("target_fourgram", "Fourgram", -0.035, {"scheme": "fourgram"}, levels=4),
        Scheme("target_all_bigrams", "All bigrams", -0.091, {"scheme": "all_bigrams"}, levels=4),
        Scheme("target_prefix_3_quarter", "Prefix-3 at K/4", -0.034, _prefix(3), divisor=4),
        Scheme("target_prefix_3_half", "Prefix-3 at K/2", -0.097, _prefix(3), divisor=2),
        Scheme(paper_a.SEMANTIC_ID, "Prefix-3", -0.141, paper_a.PREFIX_3),
        Scheme("target_prefix_5", "Prefix-5", -0.208, _prefix(5), levels=6),
        Scheme("target_prefix_6", "Prefix-6", -0.215, _prefix(6), levels=6),
        Scheme("target_unigram", "Unigram (the sum over levels)", None, {"scheme": "unigram"}),
        Scheme("target_spm", "SPM (learned pieces)", None, {"scheme": "spm"}),
    )
}
# What the table's numbers say of their order: the first of a pair has the lower NE.
ORDER = (
    ("target_prefix_3_half", "target_prefix_3_quarter"),
    (paper_a.SEMANTIC_ID, "target_prefix_3_half"),
    ("target_prefix_5", paper_a.SEMANTIC_ID),
    ("target_prefix_6", paper_a.SEMANTIC_ID),
    (paper_a.SEMANTIC_ID, "target_trigram"),
    (paper_a.SEMANTIC_ID, "target_fourgram"),
    (paper_a.SEMANTIC_ID, "target_all_bigrams"),
)


def variants(world: World) -> list[Variant]:
    """All schemes, the baseline and the control."""
    schemes = [paper_a.semantic_id(each.variant, world, each.table, levels=each.levels, divisor=each.divisor) for each in SCHEMES.values()]
    return [paper_a.random_hash(world), *schemes, paper_a.shuffled(world)]


def find(study: Study) -> Finding:
    """Train NE gain of each scheme over random hashing, and of one scheme over another."""
    world = study.world
    K = world.config.quantize.codebook_size
    gains = [_gain(study, each, K // each.divisor) for each in SCHEMES.values()]
    differences = [_difference(study, SCHEMES[better], SCHEMES[worse]) for better, worse in ORDER]
    control = paper_a.SHUFFLED_SEMANTIC_ID
    semantics = gain_row(study, "Prefix-3 against prefix-3 shuffled", paper_a.SEMANTIC_ID, control, "training", expected="negative")
    sizes = ", ".join(f"{each.words} {study.table_rows(each.variant):,}" for each in SCHEMES.values())
    notes = (
        paper_a.SETTING,
        paper_a.scale(world),
        f"{paper_a.equal_rows(world)} Rows of both tables together: {sizes}, random hash {study.table_rows(paper_a.RANDOM_HASH):,}.",
        "Train NE is that of the training period, one epoch, each row scored before it is trained on.",
        "Fourgram and all bigrams are of 4 levels, prefix-5 and prefix-6 of 6, the others of 3; each L and K has a quantizer of its own.",
        "Where one scheme is compared with another, the paper's number is the difference of its two gains.",
        "Shuffled Semantic IDs still give an item three rows, each of which learns from every click; that alone may differ from one hashed "
        "row. What the codes mean is told by prefix-3 against prefix-3 shuffled.",
        "Unigram and SPM are paper B's. SPM learns its pieces from how often items were shown in the first half of the rows, which is part "
        "of what it is judged on here; labels play no part in it.",
    )
    question = (
        "Which groups of an item's codes should have rows of their own? Change of train NE against hashed ids, and of one against another."
    )
    return Finding(1, "Table 2: token parameterizations", question, (*gains, *differences, semantics), notes)


def _gain(study: Study, scheme: Scheme, codes: int) -> Row:
    what = f"{scheme.words}, {codes} codes per level, against random hash"
    paper = "" if scheme.paper is None else f"{scheme.paper:.3f}%"
    control = paper_a.SHUFFLED_SEMANTIC_ID if scheme.variant == paper_a.SEMANTIC_ID else None
    return gain_row(study, what, scheme.variant, paper_a.RANDOM_HASH, "training", paper=paper, control=control)


def _difference(study: Study, better: Scheme, worse: Scheme) -> Row:
    assert better.paper is not None
    assert worse.paper is not None
    paper = f"{better.paper - worse.paper:.3f}%"
    return gain_row(study, f"{better.words} against {worse.words}", better.variant, worse.variant, "training", paper=paper)
