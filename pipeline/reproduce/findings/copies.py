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
    "For a near copy the item whose content has the highest cosine with the target's stands in, with its id and codes.",
    "Paper A's -43% is of a production model with six Semantic ID features against one without; here it is one beside the hashed id.",
)


def variants(world: World) -> list[Variant]:
    """Those of core, probed."""
    return [replace(each, probes=(f"{__name__}:{PROBE}",)) for each in core(world) if each.name in COPIED]


def probe_copies(trainer: "Trainer") -> dict[str, NDArray[Any]]:
    """Logits of rows after training with the target itself, with an exact copy and with a near one: float32 [n] each."""
    start = trainer.train_rows
    stop = min(trainer.rows, start + ROWS)
    near = _nearest(trainer)

    def scored(change: Any) -> NDArray[np.float32]:
        return trainer.score(start, stop, change=change)[:, 0]

    return {"own": scored(None), "copy": scored(lambda rows, _: exact_copies(rows)), "near": scored(lambda rows, _: near(rows))}


def exact_copies(rows: pa.Table) -> pa.Table:
    """The same items under ids that no item has: ids are never negative, and ~id always is."""
    return _replaced(rows, "item_id", pa.array(~rows.column("item_id").to_numpy()))


def _nearest(trainer: "Trainer") -> Any:
    """Rows to rows of the items whose content is nearest; an item without content stays."""
    ids, vectors = content_of(trainer.config)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def change(rows: pa.Table) -> pa.Table:
        items = nearest(rows.column("item_id").to_numpy(), ids, unit)
        rows = _replaced(rows, "item_id", pa.array(items))
        for source in trainer.source.contracts:
            codes = trainer.source.store.lookup(items, source).codes
            lists = pa.FixedSizeListArray.from_arrays(pa.array(codes.ravel()), codes.shape[1])
            rows = _replaced(rows, TARGET_CODES + source, lists)
        return rows

    return change


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


def _replaced(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, rows.schema.field(index), values)


def find(study: Study) -> Finding:
    """AAR of exact and near copies, and its change against random hash."""
    copies = {kind: {name: _aar(study, name, kind) for name in COPIED} for kind in ("copy", "near")}
    rows = []
    for name in COPIED[:-1]:
        expected = "zero" if name == "semantic_id" else None
        rows.append(Row(f"AAR of an exact copy: {name}", "", _mean(study, copies["copy"][name]), expected=expected))
    change = _change(study, copies["copy"], "semantic_id_and_random_hash")
    rows.append(Row("AAR of an exact copy: semantic_id_and_random_hash against random_hash", "-43%", change, expected="negative"))
    rows += [Row(f"AAR of a near copy: {name}", "", _mean(study, copies["near"][name])) for name in COPIED]
    control = _change(study, copies["near"], "shuffled_semantic_id")
    for name, wrong in (("semantic_id", control), ("semantic_id_and_random_hash", None)):
        ours = _change(study, copies["near"], name)
        rows.append(Row(f"AAR of a near copy: {name} against random_hash", "", ours, expected="negative", control=wrong))
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


def _mean(study: Study, aar: Float) -> Estimate:
    return study.estimate("frozen", lambda weights: 100 * np.average(aar, axis=1, weights=weights[: aar.shape[1]]))


def _change(study: Study, aar: dict[str, Float], name: str) -> Estimate:
    """In percent against random hash."""

    def change(weights: Float) -> Float:
        ours, theirs = (np.average(aar[each], axis=1, weights=weights[: aar[each].shape[1]]) for each in (name, RANDOM_HASH))
        return 100 * (ours / theirs - 1)

    return study.estimate("frozen", change)
