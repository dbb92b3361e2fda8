"""How items become rows of an embedding table: random hash, individual rows, Semantic ID prefixes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.prefix_ngram import exact_coarse_keys, prefix_ngram_keys
from features.semantic_id import UNKNOWN_CODE

Kind = Literal["individual", "random_hash", "semantic_id"]
Mapping = Literal["exact_coarse", "modulo"]


@dataclass(frozen=True)
class ItemColumns:
    """The items of a batch as the loader knows them; N counts targets and history items alike.

    Attributes:
        ids: int64 [N].
        codes: uint16 [N, L]; every level is UNKNOWN_CODE for an item without a Semantic ID; None where no representation needs it.
        dense_rows: int64 [N], the row of the dense id map, -1 where unknown; None where no representation needs it.
    """

    ids: NDArray[np.int64]
    codes: NDArray[np.uint16] | None
    dense_rows: NDArray[np.int64] | None


@dataclass(frozen=True)
class Representation:
    """One table and the rule that maps an item to G of its rows, which are sum-pooled (paper A: the sum over g of E[f_g(x)]).

    Attributes:
        name: of the table and of its KJT key.
        kind: what a row stands for.
        rows: H. The table has one more, row H, for unknown items: those without a Semantic ID or outside the dense id map.
        target, history: where it is used; a bag stays empty where it is not.
        depth, mapping, codebook_size: of semantic_id alone.
    """

    name: str
    kind: Kind
    rows: int
    target: bool = True
    history: bool = True
    depth: int = 1
    mapping: Mapping = "exact_coarse"
    codebook_size: int = 0

    @property
    def table_rows(self) -> int:
        """H and the unknown row."""
        return self.rows + 1

    @property
    def keys_per_item(self) -> int:
        """G."""
        return self.depth if self.kind == "semantic_id" else 1

    def keys(self, items: ItemColumns) -> NDArray[np.int64]:
        """Table rows of each item: int64 [N, G], in [0, H]."""
        if self.kind == "random_hash":
            return hashed_rows(items.ids, self.rows)[:, None]
        if self.kind == "individual":
            assert items.dense_rows is not None
            return np.where(items.dense_rows < 0, self.rows, items.dense_rows)[:, None]
        assert items.codes is not None
        make = exact_coarse_keys if self.mapping == "exact_coarse" else prefix_ngram_keys
        unknown = items.codes[:, 0] == UNKNOWN_CODE
        if not unknown.any():
            return make(items.codes, depth=self.depth, codebook_size=self.codebook_size, rows=self.rows)
        keys = make(np.where(unknown[:, None], 0, items.codes), depth=self.depth, codebook_size=self.codebook_size, rows=self.rows)
        keys[unknown] = self.rows
        return keys


def hashed_rows(ids: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Random hashing: int64 ids of any shape to rows in [0, rows), the same in every process and version."""
    return (mix64(ids.view(np.uint64)) % np.uint64(rows)).view(np.int64)


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words that spreads every input bit."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
