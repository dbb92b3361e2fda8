"""How items become rows of an embedding table: random hash, individual rows, Semantic ID prefixes."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.ids import mix64
from features.parameterization import Parameterization
from features.semantic_id import UNKNOWN_CODE

Kind = Literal["individual", "random_hash", "semantic_id"]
Where = Literal["target", "history", "both"]


@dataclass(frozen=True)
class ItemColumns:
    """Items of a batch as the loader knows them; N counts targets, history items or both. What no representation needs is left out.

    Attributes:
        ids: int64 [N], of random_hash.
        codes: source to uint16 [N, L]; every level is UNKNOWN_CODE for an item without a Semantic ID of this source.
        dense_rows: int64 [N], the row of the dense id map, -1 where the item is unknown so far or dropped out.
        own_rows: int64 [N], the same from the item's first impression on, -1 only outside the map.
    """

    ids: NDArray[np.int64] | None = None
    codes: dict[str, NDArray[np.uint16]] = field(default_factory=dict)
    dense_rows: NDArray[np.int64] | None = None
    own_rows: NDArray[np.int64] | None = None

    def part(self, items: slice) -> "ItemColumns":
        """Some of the items."""
        ids, dense_rows, own_rows = (None if each is None else each[items] for each in (self.ids, self.dense_rows, self.own_rows))
        return ItemColumns(ids, {source: codes[items] for source, codes in self.codes.items()}, dense_rows, own_rows)


@dataclass(frozen=True)
class Representation:
    """One table and the rule that maps an item to G of its rows, which are sum-pooled (paper A: the sum over g of E[f_g(x)]).

    Attributes:
        name: of the table and of its KJT key.
        kind: what a row stands for.
        rows: H. The table has one more, row H, for unknown items: those without a Semantic ID or outside the dense id map.
        target, history: where it is used; a bag stays empty where it is not.
        source, parameterization: of semantic_id alone: whose codes, and what they become; H is what its `table_rows` gave.
        hashes: of random_hash alone: rows per item, each by a hash of its own.
        trained_unknown: of individual alone: an item goes to row H until a batch with it has been trained on, and by id dropout. Otherwise
            it has its own row from the start, which nothing has trained when its first impression is scored: paper A's untrained row.
    """

    name: str
    kind: Kind
    rows: int
    target: bool = True
    history: bool = True
    source: str | None = None
    parameterization: Parameterization | None = None
    hashes: int = 1
    trained_unknown: bool = True

    @property
    def where(self) -> Where:
        """The positions that it is used at."""
        if self.target and self.history:
            return "both"
        return "target" if self.target else "history"

    @property
    def table_rows(self) -> int:
        """H and the unknown row."""
        return self.rows + 1

    @property
    def keys_per_item(self) -> int:
        """G; the largest number where it varies."""
        return self.hashes if self.parameterization is None else self.parameterization.keys_per_item

    @property
    def keys_vary(self) -> bool:
        """Whether an item may have fewer than G keys."""
        return self.parameterization is not None and self.parameterization.keys_vary

    def keys(self, items: ItemColumns) -> NDArray[np.int64]:
        """Table rows of each item: int64 [N, G], in [0, H]; where keys vary, -1 on the right of an item's last one."""
        if self.kind == "random_hash":
            assert items.ids is not None
            keys, words = np.empty((len(items.ids), self.hashes), np.int64), items.ids.view(np.uint64)
            for column in range(self.hashes):  # each hash is the last one, mixed again
                words = mix64(words)
                keys[:, column] = _remainder(words, self.rows)
            return keys
        if self.kind == "individual":
            rows = items.dense_rows if self.trained_unknown else items.own_rows
            assert rows is not None
            return np.where(rows < 0, self.rows, rows)[:, None]
        assert self.source is not None
        assert self.parameterization is not None
        codes = items.codes[self.source]
        keys = self.parameterization.keys(codes, self.rows)
        unknown = np.flatnonzero(codes[:, 0] == UNKNOWN_CODE)
        keys[unknown] = [self.rows, *[-1 if self.keys_vary else self.rows] * (self.keys_per_item - 1)]
        return keys


def hashed_rows(ids: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Random hashing: int64 ids of any shape to rows in [0, rows), the same in every process and version."""
    return _remainder(mix64(ids.view(np.uint64)), rows)


def _remainder(words: NDArray[np.uint64], rows: int) -> NDArray[np.int64]:
    quotient = words // np.uint64(rows)  # NumPy vectorises a division by one number, but not the remainder
    quotient *= np.uint64(rows)
    return (words - quotient).view(np.int64)
