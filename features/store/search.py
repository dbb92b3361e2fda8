"""Compiled search in a snapshot: the positions of ids, and the codes that stand there."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from features.semantic_id import UNKNOWN_CODE

AT_ONCE = 512  # ids worked on between two steps: what is known of them stays in the processor's nearest cache
PROBES = 4  # candidates compared whatever the first ones are: a branch that cannot be foreseen costs more than a comparison


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on the first call, and keep that for other processes; in each anew, a second's work, where no folder can be written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # read-only code and no home
        return njit(nogil=True)(function)


@compiled
def find(
    ids: npt.NDArray[np.int64], directory: npt.NDArray[Any], asked: npt.NDArray[np.int64], bucket: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Where ids stand among a snapshot's.

    Args:
        ids: int64 [N], N >= 1, bucket by bucket.
        directory: [B + 1], where each bucket begins.
        asked: int64 [M].
        bucket: int64 [M], of each of them.

    Returns:
        int64 [M], -1 where the id is not there.
    """
    position, last = np.empty(len(asked), np.int64), len(ids) - 1
    first, further = np.empty(AT_ONCE, np.int64), np.empty(AT_ONCE, np.int64)
    for start in range(0, len(asked), AT_ONCE):
        # Loops of one step each, none of which waits for the one before it: the processor fetches many buckets from memory at a time.
        count, left = min(AT_ONCE, len(asked) - start), 0
        for index in range(count):
            first[index] = directory[bucket[start + index]]
        for index in range(count):
            wanted, found = asked[start + index], -1
            for probe in range(PROBES):  # past the bucket's end there are only other ids
                candidate = min(first[index] + probe, last)
                found = candidate if ids[candidate] == wanted else found
            position[start + index] = found
            further[left] = index
            left += (found < 0) & (first[index] + PROBES < directory[bucket[start + index] + 1])
        for index in further[:left]:
            for candidate in range(first[index] + PROBES, directory[bucket[start + index] + 1]):
                if ids[candidate] == asked[start + index]:
                    position[start + index] = candidate
    return position


@compiled
def gather(codes: npt.NDArray[np.uint16], position: npt.NDArray[np.int64], answer: npt.NDArray[np.uint16]) -> int:
    """Codes at positions.

    Args:
        codes: uint16 [N, L].
        position: int64 [M], -1 for none.
        answer: uint16 [M, L], written; `UNKNOWN_CODE` in every level where there is none.

    Returns:
        Of how many M the codes are unknown, there or because they are not there.
    """
    misses, levels = 0, codes.shape[1]
    for index in range(len(position)):
        at = position[index]
        for level in range(levels):
            answer[index, level] = codes[at, level] if at >= 0 else UNKNOWN_CODE
        misses += answer[index, 0] == UNKNOWN_CODE
    return misses
