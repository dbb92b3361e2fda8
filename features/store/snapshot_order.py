"""The order of a snapshot's items by their codes, which answers prefix to items; sorted on disk, in bounded memory."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.semantic_id import CODE_DTYPE, UNKNOWN_CODE, SidContract
from features.store.snapshot_files import by_prefix_file, codes_file, position_dtype
from features.store.spool import GrowingArray, Spool, blocks

RANGES = 1 << 10
SAMPLE = 1 << 18
KEY_LEVELS = 4  # leading codes that tell ranges apart: 64 bits of 16 each


def write_by_prefix(staging: Path, contract: SidContract, rows: int, spool_path: Path, memory_items: int) -> None:
    """Write by_prefix-SOURCE.npy from the codes that lie in `staging`.

    The items' keys, their leading codes, are cut into ranges of about equal numbers at the quantiles of a sample. Memory is bounded as
    long as no more than `memory_items` items share all of their first four codes.

    Args:
        staging: folder of the snapshot.
        contract: of these codes.
        rows: N.
        spool_path: where the records may be spooled.
        memory_items: items worked on at once.
    """
    path = staging / codes_file(contract.source)
    cuts = _cuts(path, rows, memory_items)
    record = np.dtype([("position", position_dtype(rows)), ("codes", CODE_DTYPE, (contract.levels,))])

    def range_of(records: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        return np.searchsorted(cuts, _keys(records["codes"]), side="right")

    spool = Spool(spool_path, record, RANGES, memory_items, range_of)
    try:
        start = 0
        for codes in blocks(path, memory_items):
            known = np.flatnonzero(codes[:, 0] != UNKNOWN_CODE)
            records = np.empty(len(known), record)
            records["position"], records["codes"] = known + start, codes.take(known, axis=0)
            spool.add(records)
            start += len(codes)
        with GrowingArray(staging / by_prefix_file(contract.source), position_dtype(rows)) as by_prefix:
            for records in spool.groups():
                # Stable, and spooled in order of position: so are items of the same codes.
                by_prefix.append(records["position"].take(np.lexsort(records["codes"].T[::-1])))
            start = 0
            for codes in blocks(path, memory_items):
                by_prefix.append(np.flatnonzero(codes[:, 0] == UNKNOWN_CODE) + start)
                start += len(codes)
    finally:
        spool.close()


def _cuts(path: Path, rows: int, block: int) -> npt.NDArray[np.uint64]:
    """Where one range of keys ends and the next begins: uint64, ascending, at most RANGES - 1."""
    every = -(-rows // SAMPLE)
    sampled, start = [], 0
    for codes in blocks(path, block):
        # Stored order is that of a hash of the id: every n-th item is as good as a random sample.
        chosen = codes[-start % every :: every]
        sampled.append(_keys(chosen[chosen[:, 0] != UNKNOWN_CODE]))
        start += len(codes)
    sample = np.sort(np.concatenate(sampled))
    return np.unique(sample[np.arange(1, RANGES) * len(sample) // RANGES]) if len(sample) else sample


def _keys(codes: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """The first four codes as one number that is ordered as they are: uint64 [n]."""
    keys = np.zeros(len(codes), np.uint64)
    for level in range(min(KEY_LEVELS, codes.shape[1])):
        keys = keys << np.uint64(16) | codes[:, level]
    return keys
