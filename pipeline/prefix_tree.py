"""The prefix tree of Semantic IDs: items in the order of their codes, in which every prefix is one stretch.

Dimensions: N items, D content width, L levels, P prefixes of one length. Prefixes of a length are numbered in lexicographic order; number
p has the items starts[p] .. starts[p + 1] - 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from features.representation import ItemColumns, Representation

BLOCK_ROWS = 1 << 15  # vectors added up at a time

Int64 = NDArray[np.int64]


def code_order(ids_N: Int64, codes_NL: NDArray[np.uint16]) -> Int64:
    """Positions of the items in lexicographic order of their codes, int64 [N]; items of one Semantic ID by their ids."""
    return np.lexsort([ids_N, *codes_NL.T[::-1]])


def prefix_starts(codes_NL: NDArray[np.uint16]) -> list[Int64]:
    """Where the stretch of each prefix begins, and N: int64 [P + 1] for each length 0 .. L.

    Args:
        codes_NL: in `code_order`, N >= 1.
    """
    first_N = np.zeros(len(codes_NL), bool)
    first_N[0] = True
    starts = []
    for length in range(codes_NL.shape[1] + 1):
        if length:  # a prefix begins where the one before begins, or the next code changes
            first_N[1:] |= codes_NL[1:, length - 1] != codes_NL[:-1, length - 1]
        starts.append(np.append(np.flatnonzero(first_N), len(codes_NL)))
    return starts


def unused_codes(codes_NL: NDArray[np.uint16], codebook_size: int) -> list[Int64]:
    """Codes of each level that no item has, ascending."""
    return [np.flatnonzero(np.bincount(codes_N, minlength=codebook_size) == 0) for codes_N in codes_NL.T]


def prefix_rows(codes_NL: NDArray[np.uint16], starts: Sequence[Int64], table: Representation) -> list[Int64]:
    """The table row of each prefix of length 1 .. depth, int64 [P] each.

    Args:
        codes_NL: in `code_order`.
        starts: of `prefix_starts`.
        table: of scheme prefix_ngram, whose key number i is of the first i codes alone.
    """
    assert table.source is not None
    rows = []
    for length in range(1, table.keys_per_item + 1):
        firsts = ItemColumns(codes={table.source: codes_NL[starts[length][:-1]]})
        rows.append(np.ascontiguousarray(table.keys(firsts)[:, length - 1]))
    return rows


def unit_vectors(vectors_ND: NDArray[np.float32]) -> NDArray[np.float16]:
    """Vectors at length 1, as float16; those of length 0 stay so."""
    lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return (vectors_ND / np.where(lengths_N > 0, lengths_N, 1)).astype(np.float16)


class Cosines(NamedTuple):
    """Content cosines within the prefixes of one length.

    Attributes:
        mean_P: of two different items that have content, float64 [P]; NaN where the prefix has no two.
        pairs_P: how many pairs that is the mean of, twice, int64 [P].
    """

    mean_P: NDArray[np.float64]
    pairs_P: Int64

    @property
    def over_all(self) -> float | None:
        """Mean over the pairs of all prefixes; None where there is no pair."""
        return float(np.nansum(self.mean_P * self.pairs_P) / self.pairs_P.sum()) if self.pairs_P.any() else None


def mean_cosines(unit_ND: NDArray[np.float16], starts: Sequence[Int64]) -> list[Cosines]:
    """Mean cosine of two items of each prefix, for each length.

    With s the sum of n unit vectors u, ||s||^2 = sum ||u||^2 + 2 (sum over pairs u u'), so the mean over the pairs is
    (||s||^2 - sum ||u||^2) / (n (n - 1)).

    Args:
        unit_ND: of `unit_vectors`, in `code_order`; zeros for an item without content.
        starts: of `prefix_starts`.
    """
    squares_N = np.empty(len(unit_ND))
    sums = [_SquaredSums(each, unit_ND.shape[1]) for each in starts]
    for begin in range(0, len(unit_ND), BLOCK_ROWS):
        block_BD = unit_ND[begin : begin + BLOCK_ROWS].astype(np.float32)
        squares_N[begin : begin + len(block_BD)] = np.einsum("bd,bd->b", block_BD, block_BD)
        for each in sums:
            each.add(begin, block_BD)
    cosines = []
    for each in sums:
        own_P = np.add.reduceat(squares_N, each.starts[:-1])
        present_P = np.add.reduceat((squares_N > 0).astype(np.int64), each.starts[:-1])
        pairs_P = present_P * (present_P - 1)
        cosines.append(Cosines(np.where(pairs_P > 0, (each.squares_P - own_P) / np.maximum(pairs_P, 1), np.nan), pairs_P))
    return cosines


class _SquaredSums:
    """Squared length of each prefix's sum of vectors, which come block by block; a prefix may reach over several blocks."""

    def __init__(self, starts: Int64, dim: int) -> None:
        self.starts, self.squares_P = starts, np.empty(len(starts) - 1)
        self._open_D = np.zeros(dim)  # the sum so far of the prefix that the last block has not ended

    def add(self, begin: int, block_BD: NDArray[np.float32]) -> None:
        end = begin + len(block_BD)
        first = int(np.searchsorted(self.starts, begin, side="right")) - 1
        last = int(np.searchsorted(self.starts, end))  # prefixes first .. last - 1 have rows in the block
        bounds = np.clip(self.starts[first : last + 1], begin, end) - begin
        ones = np.ones(len(block_BD), np.float32)
        sums_PD = (csr_array((ones, np.arange(len(block_BD)), bounds)) @ block_BD).astype(np.float64)
        sums_PD[0] += self._open_D
        whole = last - first - int(self.starts[last] > end)
        self.squares_P[first : first + whole] = np.einsum("pd,pd->p", sums_PD[:whole], sums_PD[:whole])
        self._open_D = sums_PD[-1] if whole < last - first else np.zeros_like(self._open_D)
