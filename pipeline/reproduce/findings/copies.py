"""Finding 11: how far apart the predictions for an item and its copy are (paper A: A/A relative prediction difference)."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import expit

from features.schema import TARGET_CODES
from pipeline.reproduce.core import RANDOM_HASH, core
from pipeline.reproduce.finding import Estimate, Finding, Row
from pipeline.reproduce.study import Study
from pipeline.reproduce.world import Variant, World, content_of

if TYPE_CHECKING:
    from pipeline.loader import BatchSource
    from pipeline.trainer import Trainer

Float = NDArray[np.float64]
COPIED = (RANDOM_HASH, "individual", "semantic_id", "semantic_id_and_random_hash", "shuffled_semantic_id")
ROWS = 4096  # of the evaluation, the first ones
PROBE = "probe_copies"
NOTES = (
    "AAR = 2 |p(a) - p(b)| / (p(a) + p(b)), the mean over the first 4,096 impressions after training; only the target's id and codes "
    "change, not its dense features. All models have equal table rows.",
    "An exact copy has the same content, and so the same Semantic ID, but a raw id that no one has seen. That its AAR is 0 for Semantic "
    "IDs alone is no finding; what informs is the model that has both. A shuffled Semantic ID cannot lose that: a copy keeps the wrong "
    "codes.",
    "For a near copy the item whose content has the highest cosine with the target's stands in, with its id and codes. A model that has "
    "learned little of items has a small AAR for any two of them, near or not; so the AAR of near copies is also shown as a share of that "
    "of random items, of which nothing is claimed: it was added when the AAR alone was seen to tell little on a small log.",
    "Paper A's -43% is of a production model with six Semantic ID features against one without; here it is one beside the hashed id.",
)


def variants(world: World) -> list[Variant]:
    """Those of core, probed."""
    return [replace(each, probes=(f"{__name__}:{PROBE}",)) for each in core(world) if each.name in COPIED]


def probe_copies(trainer: "Trainer") -> dict[str, NDArray[Any]]:
    """Logits of rows after training with the target, an exact copy, a near copy and a random item in its place: float32 [n] each."""
    start = trainer.train_rows
    stop = min(trainer.rows, start + ROWS)
    ids, vectors = content_of(trainer.config)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def near(rows: pa.Table, first: int) -> pa.Table:
        return replaced(rows, trainer.source, nearest(rows.column("item_id").to_numpy(), ids, unit))

    def random(rows: pa.Table, first: int) -> pa.Table:
        return replaced(rows, trainer.source, np.random.default_rng(first).choice(ids, rows.num_rows))

    changes = {"own": None, "copy": lambda rows, first: exact_copies(rows), "near": near, "random": random}
    return {name: trainer.score(start, stop, change=change)[:, 0] for name, change in changes.items()}


def exact_copies(rows: pa.Table) -> pa.Table:
    """The same items under ids that no item has: ids are never negative, and ~id always is."""
    return _with_column(rows, "item_id", pa.array(~rows.column("item_id").to_numpy()))


def replaced(rows: pa.Table, source: "BatchSource", items: NDArray[np.int64]) -> pa.Table:
    """The rows with other targets, int64 [n], and their codes; all else stays, histories and dense features too."""
    rows = _with_column(rows, "item_id", pa.array(items))
    for name in source.contracts:
        codes = source.store.lookup(items, name).codes
        rows = _with_column(rows, TARGET_CODES + name, pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), codes.shape[1]))
    return rows


def nearest(wanted: NDArray[np.int64], ids: NDArray[np.int64], unit: NDArray[np.float32]) -> NDArray[np.int64]:
    """The item of highest cosine to each item, other than itself: int64 [n]; an item that is not among `ids` is its own.

    Args:
        wanted: ids, [n].
        ids: of the items with content, [N].
        unit: their content vectors of length 1, [N, D].
    """
    order = np.argsort(ids)
    distinct, back = np.unique(wanted, return_inverse=True)
    place = order[np.minimum(np.searchsorted(ids, distinct, sorter=order), len(ids) - 1)]
    known = ids[place] == distinct
    cosine = unit[place[known]] @ unit.T
    cosine[np.arange(len(cosine)), place[known]] = -np.inf
    found = distinct.copy()
    found[known] = ids[cosine.argmax(1)]
    return found[back.ravel()]


def _with_column(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, rows.schema.field(index), values)


def find(study: Study) -> Finding:
    """AAR of exact and near copies, and its change against random hash."""
    exact, near, random = ({name: _aar(study, name, kind) for name in COPIED} for kind in ("copy", "near", "random"))
    both = "semantic_id_and_random_hash"
    rows = [Row(f"AAR of an exact copy: {name}", "", _ratio(study, exact[name])) for name in (RANDOM_HASH, "individual", both)]
    rows.append(Row("AAR of an exact copy: semantic_id", "", _ratio(study, exact["semantic_id"]), expected="zero"))
    rows.append(Row(f"AAR of an exact copy: {both} against {RANDOM_HASH}", "-43%", _change(study, exact, both), expected="negative"))
    rows += [Row(f"AAR of a near copy: {name}", "", _ratio(study, near[name])) for name in COPIED]
    what, control = "AAR of a near copy: {} against random_hash", _change(study, near, "shuffled_semantic_id")
    rows.append(Row(what.format("semantic_id"), "", _change(study, near, "semantic_id"), expected="negative", control=control))
    rows.append(Row(what.format(both), "", _change(study, near, both), expected="negative"))
    rows += [Row(f"AAR of a near copy, of that of a random item: {name}", "", _ratio(study, near[name], random[name])) for name in COPIED]
    title = "A/A relative prediction difference of an item and its copy"
    question = "How much does the prediction change when an item is listed anew, or gives way to the item most like it?"
    return Finding(11, title, question, tuple(rows), NOTES)


def relative_difference(one: Float, other: Float) -> Float:
    """AAR of each row, 0 to 2, of the probabilities of an item and its copy."""
    return 2 * np.abs(one - other) / (one + other)


def _aar(study: Study, name: str, kind: str) -> Float:
    """By seed and row, float64 [S, n]."""
    probed = study.probed(name, PROBE)
    return np.stack([relative_difference(*(expit(each[key].astype(np.float64)) for key in ("own", kind))) for each in probed])


def _ratio(study: Study, above: Float, below: Float | None = None) -> Estimate:
    """The mean of one AAR over the rows, or its ratio to that of another, in percent."""
    return study.estimate("frozen", lambda weights: 100 * _mean(above, weights) / (1 if below is None else _mean(below, weights)))


def _change(study: Study, aar: dict[str, Float], name: str) -> Estimate:
    """Of the mean AAR against random hash, in percent."""
    return study.estimate("frozen", lambda weights: 100 * (_mean(aar[name], weights) / _mean(aar[RANDOM_HASH], weights) - 1))


def _mean(aar: Float, weights: Float) -> Float:
    """Over the rows that were probed, the first of the part: [S]."""
    return np.average(aar, axis=1, weights=weights[: aar.shape[1]])
