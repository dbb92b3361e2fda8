"""Finding 12: n-grams and SentencePiece pieces of Semantic IDs against random hashing, and content as it is (paper B)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.dataset import DatasetWriter, iter_row_groups
from features.schema import DENSE
from features.segments import ITEM_AGE
from pipeline.reproduce.core import RANDOM_HASH, core, represented
from pipeline.reproduce.finding import Finding, Row
from pipeline.reproduce.study import Bools, Study
from pipeline.reproduce.world import Variant, World

Float = NDArray[np.float64]
DENSE_CONTENT = "dense_content"  # the log and the columns' stem
COMPONENTS = 32  # principal components of the content
SIZES = (0.5, 1.0, 2.0)  # of the tables, by the recipe's rows
YOUNG = ITEM_AGE.names[0]
SPM, NGRAMS = "paper_b_spm", ("paper_b_unigram", "paper_b_bigram")
NOTES = (
    "Each scheme is used for target and history alike; all are compared at equal table rows, which a scheme with fewer keys does not use "
    "up (unigram has L K of them). Judged on the second half of the stream, each row scored before it was trained on.",
    "The Semantic IDs are the recipe's, with three levels where paper B has eight; a bigram is c1 c2, and c3 alone.",
    "Dense content stands in for the target's id, as its 32 first principal components, each of mean 0 and variance 1 over the items; the "
    "history keeps its hashed ids. The ranker takes sign(x) ln(1 + |x|) of dense columns, so they are stored as sign(x) (e^|x| - 1), and "
    "what it sees is x. An item without content has the mean.",
)


def variants(world: World) -> list[Variant]:
    """Random hash and pieces at three sizes, both n-grams at the recipe's, dense content without ids, and the control."""
    made = [*(_of_scheme(scheme, world) for scheme in NGRAMS), _of_scheme(SPM, world, shuffled=True)]
    for size in SIZES:
        made += [_of_scheme(SPM, world, size), _hashed(world, size)]
    no_item = next(each for each in core(world) if each.name == "no_item")
    return [*made, replace(no_item, name=DENSE_CONTENT, log=DENSE_CONTENT)]


def logs(world: World) -> dict[str, Callable[[Path], None]]:
    """The world's log with the target's content as dense columns."""
    return {DENSE_CONTENT: lambda folder: write_dense_content(world, folder)}


def _name(scheme: str, size: float = 1.0, *, shuffled: bool = False) -> str:
    return f"{'shuffled_' if shuffled else ''}{scheme}{'' if size == 1 else f'_at_{size:g}_rows'}"


def _of_scheme(scheme: str, world: World, size: float = 1.0, *, shuffled: bool = False) -> Variant:
    table = {"kind": "semantic_id", "scheme": scheme.removeprefix("paper_b_"), "rows": int(size * world.config.model.rows)}
    store = "store_shuffled" if shuffled else "store"
    return represented(_name(scheme, size, shuffled=shuffled), {"semantic_id": table}, train__store=store)


def _hashed(world: World, size: float) -> Variant:
    rows = {} if size == 1 else {"rows": int(size * world.config.model.rows)}  # at the recipe's size it is core's
    return represented(_name(RANDOM_HASH, size), {"random_hash": {"kind": "random_hash", **rows}})


def write_dense_content(world: World, folder: Path) -> None:
    """Write the log of `logs`; a row group in memory at a time, and a vector per item."""
    ids, vectors = world.vectors
    values = stored(principal_components(vectors.astype(np.float64), COMPONENTS)).astype(np.float32)
    order = np.argsort(ids)
    names = [f"{DENSE}content_{number:02d}" for number in range(values.shape[1])]
    source = world.impressions
    schema = pa.schema([*source.schema, *(pa.field(name, pa.float32(), nullable=False) for name in names)])
    with DatasetWriter(folder, schema, source.metadata) as writer:
        for rows in iter_row_groups(source):
            items = rows.column("item_id").to_numpy()
            place = order[np.minimum(np.searchsorted(ids, items, sorter=order), len(ids) - 1)]
            content = np.where((ids[place] == items)[:, None], values[place], np.float32(0))
            writer.write(pa.table([*rows.columns, *(pa.array(column) for column in content.T)], schema=schema))


def principal_components(vectors: Float, count: int) -> Float:
    """The first `count` of them, or as many as there are, each with mean 0 and variance 1 over the items: float64 [N, C]."""
    about = vectors - vectors.mean(0)
    variance, directions = np.linalg.eigh(about.T @ about / len(about))  # ascending
    kept = np.flatnonzero(variance > 1e-9 * variance[-1])[::-1][:count]
    return about @ directions[:, kept] / np.sqrt(variance[kept])


def stored(values: Float) -> Float:
    """What sign(x) ln(1 + |x|) makes `values` of."""
    return np.copysign(np.expm1(np.abs(values)), values)


def find(study: Study) -> Finding:
    """AUC gains over random hash, of all items and of those under a day old."""
    young = next(parting for parting in study.segments("stream") if parting.by == ITEM_AGE.column).segments[YOUNG]
    return Finding(
        12,
        "Paper B: click prediction with n-grams, SentencePiece pieces and dense content",
        "Do Semantic IDs split into n-grams or learned pieces predict clicks better than hashed ids, above all for new items? And does "
        "content do as it is?",
        (*_of_all(study), *_of_young(study, young)),
        NOTES,
    )


def _of_all(study: Study) -> list[Row]:
    rows = [*_pieces(study, "+0.15 to +0.22%", "all items", None)]
    rows += [
        Row(f"AUC of {scheme.removeprefix('paper_b_')}, all items", "", study.auc_gain(_name(scheme), RANDOM_HASH, "stream"))
        for scheme in NGRAMS
    ]
    dense = study.auc_gain(DENSE_CONTENT, RANDOM_HASH, "stream")
    return [*rows, Row("AUC of dense content instead of ids, all items", "a loss", dense, expected="negative")]


def _of_young(study: Study, young: Bools) -> list[Row]:
    of = f"items {YOUNG} old"
    gains = {scheme: study.auc_gain(_name(scheme), RANDOM_HASH, "stream", young) for scheme in NGRAMS}
    rows = [*_pieces(study, "+0.47 to +0.61%", of, young)]
    rows += [Row(f"AUC of {scheme.removeprefix('paper_b_')}, {of}", "+0.61%", gain, expected="positive") for scheme, gain in gains.items()]
    return [*rows, Row(f"AUC of dense content instead of ids, {of}", "", study.auc_gain(DENSE_CONTENT, RANDOM_HASH, "stream", young))]


def _pieces(study: Study, paper: str, of: str, chosen: Bools | None) -> Iterator[Row]:
    for size in SIZES:
        baseline = _name(RANDOM_HASH, size)
        control = study.auc_gain(_name(SPM, shuffled=True), baseline, "stream", chosen) if size == 1 else None
        ours = study.auc_gain(_name(SPM, size), baseline, "stream", chosen)
        yield Row(f"AUC of pieces, {size:g} times the recipe's rows, {of}", paper, ours, expected="positive", control=control)
