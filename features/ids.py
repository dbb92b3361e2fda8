"""Hashes of ids: publishers' ids that are not integers become stable 64-bit numbers, and any number can be mixed into a random one."""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

INT63 = (1 << 63) - 1


def hash_id(original: str) -> int:
    """The id of one original: the first 63 bits of its BLAKE2b-64 digest, so never negative and the same on every machine."""
    return int.from_bytes(hashlib.blake2b(original.encode(), digest_size=8).digest(), "little") & INT63


def hash_ids(originals: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Ids of a column of strings, each distinct one hashed once.

    Args:
        originals: strings [N] without nulls.

    Returns:
        int64 [N].

    Raises:
        RuntimeError: two distinct originals share a hash (for a million ids the odds are 5 in 100 million).
    """
    import pyarrow.compute as pc  # whose import takes longer than a worker that wants mix64 alone should wait

    distinct = pc.unique(originals)
    hashes = np.fromiter((hash_id(original) for original in distinct.to_pylist()), np.int64, len(distinct))
    if len(np.unique(hashes)) < len(hashes):
        raise RuntimeError("two distinct ids have the same 63-bit hash")
    return hashes[pc.index_in(originals, value_set=distinct).to_numpy()]


def mix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words that spreads every input bit."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
