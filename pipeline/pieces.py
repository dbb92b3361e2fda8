"""The vocabularies of scheme spm: learned once per input and table size, from impressions that no stream is judged on."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sentencepiece import __version__ as trainer_version

from features.dataset import Dataset, iter_row_groups
from features.schema import TARGET_CODES
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.sid_pieces import train_pieces
from features.store.snapshot import Snapshot
from pipeline.progress import say

MERGE_EVERY = 1 << 20  # codes held before equal ones are counted together


def vocabulary_folder(root: Path, contract: SidContract, dataset: Dataset, store: Snapshot | None, *, stop: int, rows: int) -> Path:
    """Where a vocabulary lies, named by what it depends on.

    Args:
        root: folder of vocabularies.
        contract: of the codes.
        dataset: the impressions.
        store: what their codes are looked up in; None where they hold them.
        stop: learned from rows [0, stop).
        rows: the table's budget.
    """
    depends_on = [contract.to_json(), dataset.fingerprint, store.fingerprint if store else None, stop, rows, trainer_version]
    return root / hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:12]


def learn(folder: Path, contract: SidContract, dataset: Dataset, store: Snapshot | None, *, stop: int, rows: int) -> None:
    """Learn the vocabulary of `vocabulary_folder` unless it is there. Raises InputError where the rows are too few for the codes."""
    if folder.exists():
        return
    codes, impressions = impressed(dataset, store, contract.source, stop)
    train_pieces(folder, contract, codes, impressions, rows)
    say(f"pieces of {len(codes):,} Semantic IDs learned from {stop:,} rows: {folder}")


def impressed(dataset: Dataset, store: Snapshot | None, source: str, stop: int) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """The distinct Semantic IDs of the targets of rows [0, stop): uint16 [S, L] in ascending order, and how often, int64 [S]."""
    held: list[tuple[NDArray[np.uint16], NDArray[np.int64]]] = []
    start = waiting = 0
    for group in iter_row_groups(dataset, ["item_id" if store else TARGET_CODES + source]):
        codes = _codes(group.slice(0, stop - start), store, source)
        held.append((codes, np.ones(len(codes), np.int64)))
        start, waiting = start + group.num_rows, waiting + len(codes)
        if waiting >= MERGE_EVERY or start >= stop:
            held, waiting = [_counted(held)], 0
        if start >= stop:
            break
    codes, counts = held[0]
    known = codes[:, 0] != UNKNOWN_CODE
    return codes[known], counts[known]


def _codes(rows: pa.Table, store: Snapshot | None, source: str) -> NDArray[np.uint16]:
    if store is not None:
        return store.lookup(rows.column("item_id").to_numpy(), source).codes
    column = rows.column(TARGET_CODES + source).combine_chunks()
    codes: NDArray[np.uint16] = column.flatten().to_numpy().reshape(-1, column.type.list_size)
    return codes


def _counted(held: list[tuple[NDArray[np.uint16], NDArray[np.int64]]]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    distinct, place = np.unique(np.concatenate([codes for codes, _ in held]), axis=0, return_inverse=True)
    counts = np.bincount(place.ravel(), np.concatenate([counts for _, counts in held]))
    return distinct, counts.astype(np.int64)
