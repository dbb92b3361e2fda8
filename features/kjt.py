"""The only place where a KeyedJaggedTensor is made: rows of Arrow to a batch of tensors, a bag per position.

Legend: B examples per rank and step, T history positions, N items in the batch (targets and real history items), L code levels,
G keys per item, F dense columns, K tasks, V segmentations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batch import Batch, BatchSchema, Features
from features.dense_ids import DenseIdMap
from features.positions import Positions, list_lengths, list_values
from features.representation import ItemColumns, Representation, Where, hashed_rows
from features.schema import CONTEXT, DENSE, LABEL
from features.segments import stream_segments

EVER = np.iinfo(np.int64).max  # after every row


@dataclass(frozen=True)
class BatchBuilder:
    """Turns rows of impressions into a Batch.

    Attributes:
        representations: the item tables.
        columns: names of the impressions' columns.
        history_length: T; longer histories are cut to the T most recent items.
        context_rows: rows of each context column's table.
        dense_ids: needed by an individual representation.
        tasks: K names; task "click" has the label `label_click`.
        sources: source to L, of the Semantic IDs that a representation or the shared depth uses.
        id_dropout: share of individual ids sent to the unknown row while training, so that the row is trained.
        seed: of the dropout.
        shared_source: whose codes the shared depth of target and history item is counted on; None for no such input.
    """

    representations: tuple[Representation, ...]
    columns: tuple[str, ...]
    history_length: int
    context_rows: int
    dense_ids: DenseIdMap | None
    tasks: tuple[str, ...]
    sources: dict[str, int]
    id_dropout: float
    seed: int
    shared_source: str | None = None

    @cached_property
    def dense_columns(self) -> tuple[str, ...]:
        """Names of the F dense columns."""
        return tuple(name for name in self.columns if name.startswith(DENSE))

    @cached_property
    def context_columns(self) -> tuple[str, ...]:
        """Names of the context columns."""
        return tuple(name for name in self.columns if name.startswith(CONTEXT))

    @property
    def schema(self) -> BatchSchema:
        """What a ranker for these batches must know."""
        return BatchSchema(
            {r.name: r.table_rows for r in self.representations},
            tuple(r.name for r in self.representations if r.target),
            tuple(r.name for r in self.representations if r.history),
            {name: self.context_rows for name in self.context_columns},
            self.dense_columns,
            self.history_length,
            self.tasks,
            self.sources[self.shared_source] if self.shared_source else 0,
        )

    def build(self, rows: pa.Table, *, first_row: int, size: int, step_rows: tuple[int, int], training: bool, known_before: int) -> Batch:
        """Make one batch.

        Args:
            rows: n <= size rows of enriched impressions, contiguous in memory.
            first_row: number of the first of them in the data set.
            size: B; n is padded up to it with empty bags and weight 0.
            step_rows: the step's rows over all ranks.
            training: apply id dropout.
            known_before: an item first impressed at this row or later has no trained individual row yet.
        """
        dropout = self.id_dropout if training else 0.0
        return Batch(
            *self.features(rows, size, known_before, first_row=first_row, dropout=dropout),
            label_BK=_padded(np.stack([rows.column(LABEL + task).to_numpy() for task in self.tasks], 1).astype(np.float32), size),
            weight_B=_padded(np.ones(rows.num_rows, np.float32), size),
            segment_BV=_padded(stream_segments(rows), size),
            rows_in_step=torch.tensor(float(step_rows[1] - step_rows[0])),
        )

    def features(self, rows: pa.Table, size: int, known_before: int, *, first_row: int = 0, dropout: float = 0.0) -> Features:
        """What the model reads of rows, labelled or not; the arguments are those of `build`, and `dropout` the share of ids dropped."""
        positions = Positions(rows, self.history_length)
        present = positions.present(size)
        in_history = np.ascontiguousarray(present[:, 1:])
        used = {r.where for r in self.representations}
        items = {where: self._items(positions, where, first_row, dropout, known_before) for where in used}
        return Features(
            items=item_kjt(self.representations, items, present),
            context=self._context_kjt(items, rows, size),
            dense_BF=_padded(self._dense(rows), size),
            history_age_BT=_scattered(positions.history_ages(), in_history),
            history_mask_BT=torch.from_numpy(in_history),
            shared_depth_BT=self._shared_depths(positions, in_history),
        )

    def _items(self, positions: Positions, where: Where, first_row: int, dropout: float, known_before: int) -> ItemColumns:
        """What the representations that are used at these positions need to know of the items there."""
        used = [r for r in self.representations if r.where == where]
        codes = {r.source: positions.codes(where, r.source, self.sources[r.source]) for r in used if r.source}
        dense_rows = own_rows = None
        if any(r.kind == "individual" and r.trained_unknown for r in used):
            assert self.dense_ids is not None
            dense_rows = self.dense_ids.rows(positions.ids(where), known_before)
            if dropout:
                dense_rows[positions.drawn(where, first_row, self.seed, dropout)] = -1
        if any(r.kind == "individual" and not r.trained_unknown for r in used):
            assert self.dense_ids is not None
            own_rows = self.dense_ids.rows(positions.ids(where), EVER)
        ids = positions.ids(where) if any(r.kind == "random_hash" for r in used) else None
        return ItemColumns(ids, codes, dense_rows, own_rows)

    def _context_kjt(self, items: dict[Where, ItemColumns], rows: pa.Table, size: int) -> KeyedJaggedTensor | None:
        real = np.arange(size) < rows.num_rows
        bags = [_bags(r, items[r.where], real) for r in self.representations if not r.history]
        for name in self.context_columns:
            column, counts = rows.column(name), np.zeros(size, np.int32)
            if pa.types.is_list(column.type):
                ids, counts[: rows.num_rows] = list_values(rows, name), list_lengths(rows, name)
            else:
                ids, counts[: rows.num_rows] = column.to_numpy(), 1
            bags.append(Bags(name, hashed_rows(np.ascontiguousarray(ids), self.context_rows), counts))
        return _kjt(bags)

    def _dense(self, rows: pa.Table) -> NDArray[np.float32]:
        dense = np.empty((rows.num_rows, len(self.dense_columns)), np.float32)
        for index, name in enumerate(self.dense_columns):
            dense[:, index] = rows.column(name).to_numpy()
        return np.copysign(np.log1p(np.abs(dense)), dense)

    def _shared_depths(self, positions: Positions, in_history: NDArray[np.bool_]) -> torch.Tensor | None:
        if self.shared_source is None:
            return None
        return _scattered(positions.shared_depths(self.shared_source, self.sources[self.shared_source]), in_history)


def item_kjt(
    representations: Sequence[Representation], items: Mapping[Where, ItemColumns], present: NDArray[np.bool_]
) -> KeyedJaggedTensor | None:
    """`Batch.items`: a key per representation of history items, a bag per position.

    Args:
        representations: the item tables; those of the target alone are no part of it.
        items: by the positions that a representation is used at, the items there, in bag order.
        present: bool [B, 1 + T], which bags have an item.
    """
    in_history = present.copy()
    in_history[:, 0] = False
    return _kjt([_bags(r, items[r.where], (present if r.target else in_history).ravel()) for r in representations if r.history])


class Bags(NamedTuple):
    """One key of a KJT: the values of all bags, and int32 how many each bag has."""

    key: str
    values: NDArray[np.int64]
    lengths: NDArray[np.int32]


def _bags(representation: Representation, items: ItemColumns, used: NDArray[np.bool_]) -> Bags:
    """`used` says which bags have an item, in the items' order."""
    keys = representation.keys(items)
    if not representation.keys_vary:
        return Bags(representation.name, keys.ravel(), np.multiply(used, representation.keys_per_item, dtype=np.int32))
    lengths = np.zeros(len(used), np.int32)
    lengths[used] = np.count_nonzero(keys >= 0, axis=1)
    return Bags(representation.name, keys[keys >= 0], lengths)


def _kjt(bags: list[Bags]) -> KeyedJaggedTensor | None:
    if not bags:
        return None
    values, lengths = ((np.concatenate(parts) if len(bags) > 1 else parts[0]) for parts in zip(*(each[1:] for each in bags), strict=True))
    return KeyedJaggedTensor(
        keys=[each.key for each in bags],
        values=torch.from_numpy(values),
        lengths=torch.from_numpy(lengths),
        stride=len(bags[0].lengths),
        length_per_key=[len(each.values) for each in bags],  # known here; on a GPU the host would have to wait for it
    )


def _padded(values: NDArray[Any], size: int) -> torch.Tensor:
    """Zero rows at the end, up to `size`."""
    if len(values) == size:
        return torch.from_numpy(values)
    padded = np.zeros((size, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return torch.from_numpy(padded)


def _scattered(values: NDArray[Any], mask_BT: NDArray[np.bool_]) -> torch.Tensor:
    """The values where the mask is true, 0 elsewhere."""
    spread = np.zeros(mask_BT.shape, values.dtype)
    spread[mask_BT] = values
    return torch.from_numpy(spread)
