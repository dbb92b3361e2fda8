"""Finding 14: Semantic IDs of a quantizer trained on earlier items rank as well as those of one trained on all (paper B)."""

import numpy as np
from numpy.typing import NDArray

from pipeline.exact_metrics import log_losses
from pipeline.reproduce.core import RANDOM_HASH, core, represented
from pipeline.reproduce.finding import Estimate, Finding, Row
from pipeline.reproduce.prefixes import codes_of, is_coded
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Coding, Variant, World, existing_items

Float = NDArray[np.float64]
EARLIER = Coding(until=0.5)
V0, V1, SHUFFLED_V1 = "semantic_id_of_earlier_items", "semantic_id", "shuffled_semantic_id"


def variants(world: World) -> list[Variant]:
    """Core's Semantic IDs, and the same with the codes of a quantizer that knows the first half of the log alone."""
    known = [each for each in core(world) if each.name in (RANDOM_HASH, V1, SHUFFLED_V1)]
    return [*known, represented(V0, {"semantic_id": {"kind": "semantic_id"}}, coding=EARLIER)]


def find(study: Study) -> Finding:
    """Change of NE, its size beside what Semantic IDs gain over random hash, and how many codes agree."""
    world = study.world
    ids = world.vectors[0]
    trained = np.isin(ids, existing_items(world.config, EARLIER.until))
    later = ~np.isin(study.log["item_id"][study.rows("stream")], ids[trained])
    control = study.gain(SHUFFLED_V1, RANDOM_HASH, "stream")
    gain = study.gain(V1, RANDOM_HASH, "stream")
    rows = (
        Row("NE of v0 against v1", "none", study.gain(V0, V1, "stream"), expected="zero"),
        Row("NE of v0 against v1, items that v0 was not trained on", "none", study.gain(V0, V1, "stream", later), expected="zero"),
        Row("NE of v0 against v1, after training", "none", study.gain(V0, V1, "frozen"), expected="zero"),
        Row("NE of v1 against random hash", "", gain, control=control),
        Row("NE of v0 against random hash", "", study.gain(V0, RANDOM_HASH, "stream"), expected="negative", control=control),
        _kept(study, gain),
        *_agreement(world, ids),
    )
    return Finding(
        14,
        "Paper B: Semantic IDs of an earlier and a later quantizer",
        "Do Semantic IDs of a quantizer that was trained on the items of the first half of the log (v0) rank as well as those of one that "
        "was trained on all items (v1)?",
        rows,
        (
            f"v0 was trained on {trained.sum():,} of {len(ids):,} items, those created or shown in the first half of the log, and codes "
            "all; paper B's two were trained on items six months apart. All else is equal, the tables' rows too, and the seed.",
            "Judged on the second half of the stream, when v0 is old, and after training, on the last rows.",
            "An interval that holds zero says little if it is wide: its bounds are what v0 may at most win or lose. So it is also asked "
            "whether v0 keeps more than half of v1's gain over random hash.",
            "Codes need not agree: each ranker learns the rows of its own codes from the start.",
        ),
    )


def _kept(study: Study, gain: Estimate) -> Row:
    what = "part of v1's gain over random hash that v0 keeps, less a half"
    if gain.sign != "negative":
        return Row(what, "", None, why_not="v1 has no clear gain over random hash on this log")
    labels = study.labels("stream")
    v0, v1, hashed = (log_losses(study.scores(name, "stream"), labels) for name in (V0, V1, RANDOM_HASH))
    return Row(what, "", study.estimate("stream", lambda w: part_kept(v0, v1, hashed, w) - 50), unit="points", expected="positive")


def part_kept(v0: Float, v1: Float, hashed: Float, weights: Float) -> Float:
    """The part of v1's gain over random hash that v0 has, in percent, of log losses by seed and row, [S, n], and row weights: [S]."""
    return 100 * ((hashed - v0) @ weights) / ((hashed - v1) @ weights)


def _agreement(world: World, ids: NDArray[np.int64]) -> list[Row]:
    v0, v1 = codes_of(world, ids, EARLIER), codes_of(world, ids)
    same = (v0 == v1)[is_coded(v0) & is_coded(v1)]
    first, whole = (Estimate(100 * float(each.mean()), np.nan, np.nan) for each in (same[:, 0], same.all(axis=1)))
    return [Row("items with the same first code in both", "", first), Row("items with the same Semantic ID in both", "", whole)]
