"""How items become rows of an embedding table: random hash, individual rows, Semantic ID prefixes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from features.ids import mix64
from features.parameterization import Parameterization
from features.semantic_id import UNKNOWN_CODE

Kind = Literal["individual", "random_hash", "semantic_id"]


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
        parameterization: of semantic_id alone; H is what its `table_rows` gave.
    """

    name: str
    kind: Kind
    rows: int
    target: bool = True
    history: bool = True
    parameterization: Parameterization | None = None

    @property
    def table_rows(self) -> int:
        """H and the unknown row."""
        return self.rows + 1

    @property
    def keys_per_item(self) -> int:
        """G; the largest number where it varies."""
        return 1 if self.parameterization is None else self.parameterization.keys_per_item

    @property
    def keys_vary(self) -> bool:
        """Whether an item may have fewer than G keys."""
        return self.parameterization is not None and self.parameterization.keys_vary

    def keys(self, items: ItemColumns) -> NDArray[np.int64]:
        """Table rows of each item: int64 [N, G], in [0, H]; where keys vary, -1 on the right of an item's last one."""
        if self.kind == "random_hash":
            return hashed_rows(items.ids, self.rows)[:, None]
        if self.kind == "individual":
            assert items.dense_rows is not None
            return np.where(items.dense_rows < 0, self.rows, items.dense_rows)[:, None]
        assert items.codes is not None
        assert self.parameterization is not None
        unknown = items.codes[:, 0] == UNKNOWN_CODE
        if not unknown.any():
            return self.parameterization.keys(items.codes, self.rows)
        keys = self.parameterization.keys(np.where(unknown[:, None], np.uint16(0), items.codes), self.rows)
        keys[unknown] = [self.rows, *[-1 if self.keys_vary else self.rows] * (self.keys_per_item - 1)]
        return keys


def hashed_rows(ids: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Random hashing: int64 ids of any shape to rows in [0, rows), the same in every process and version."""
    return (mix64(ids.view(np.uint64)) % np.uint64(rows)).view(np.int64)
