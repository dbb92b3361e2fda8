"""The only place where a KeyedJaggedTensor is made: rows of Arrow to a batch of tensors, a bag per position.

Legend: B examples per rank and step, T history positions, N items in the batch (targets and real history items), L code levels,
G keys per item, F dense columns, K tasks, V segmentations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from features.dense_ids import DenseIdMap
from features.errors import InputError
from features.ids import mix64
from features.representation import ItemColumns, Representation, hashed_rows
from features.schema import CONTEXT, DENSE, LABEL, columns_with_prefix
from features.segments import STREAM, stream_segments


@dataclass(frozen=True)
class BatchSchema:
    """What a ranker must know of its batches: the tables and the widths.

    Attributes:
        item_tables: name to rows, one per representation, in KJT key order.
        target_tables: those of them that hold the target item; the others serve the history alone.
        context_tables: context column to rows.
        dense_columns: F names.
        history_length: T.
        tasks: K names, of labels.
    """

    item_tables: dict[str, int]
    target_tables: tuple[str, ...]
    context_tables: dict[str, int]
    dense_columns: tuple[str, ...]
    history_length: int
    tasks: tuple[str, ...] = ("click",)


@dataclass
class Batch(Pipelineable):
    """One rank's examples of one step.

    Attributes:
        items: KJT of stride B*(1+T), a key per representation. Bag b*(1+T) is example b's target, the next T bags its history, most
            recent first; padding is an empty bag. With T=2, G=2, and example 0 having one history item::

                bag         0        1        2      3 ...
                position    target   hist 1   hist 2 (next example's target)
                values      k0 k1    k0 k1    -      k0 k1
        context: KJT of stride B, a key per context column; None without such columns.
        dense_BF: float32, signed log1p of the dense columns.
        history_age_BT: float32 hours between history event and impression; 0 where padded.
        history_mask_BT: bool, True where there is a history item.
        label_BK: float32, 0 or 1.
        weight_B: float32, 1, or 0 for the padding of a short last batch.
        segment_BV: int64, the segments that a row's metrics count for, numbers into `features.segments.NAMES`.
        rows_in_step: float32 scalar, real examples of the step over all ranks.
    """

    items: KeyedJaggedTensor
    context: KeyedJaggedTensor | None
    dense_BF: torch.Tensor
    history_age_BT: torch.Tensor
    history_mask_BT: torch.Tensor
    label_BK: torch.Tensor
    weight_B: torch.Tensor
    segment_BV: torch.Tensor
    rows_in_step: torch.Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        """The batch on `device`."""
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, for non-blocking copies to a GPU."""
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that `stream` uses this batch."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value.record_stream(stream)

    def _map(self, move: Any) -> "Batch":
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = None if value is None else move(value)
        return Batch(**moved)


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
        levels: L of `target_codes`, needed by a semantic_id representation.
        id_dropout: share of individual ids sent to the unknown row while training, so that the row is trained.
        seed: of the dropout.
    """

    representations: tuple[Representation, ...]
    columns: tuple[str, ...]
    history_length: int
    context_rows: int
    dense_ids: DenseIdMap | None
    tasks: tuple[str, ...]
    levels: int
    id_dropout: float
    seed: int

    @property
    def dense_columns(self) -> tuple[str, ...]:
        """Names of the F dense columns."""
        return tuple(name for name in self.columns if name.startswith(DENSE))

    @property
    def context_columns(self) -> tuple[str, ...]:
        """Names of the context columns."""
        return tuple(name for name in self.columns if name.startswith(CONTEXT))

    @property
    def schema(self) -> BatchSchema:
        """What a ranker for these batches must know."""
        return BatchSchema(
            {r.name: r.table_rows for r in self.representations},
            tuple(r.name for r in self.representations if r.target),
            {name: self.context_rows for name in self.context_columns},
            self.dense_columns,
            self.history_length,
            self.tasks,
        )

    def build(self, rows: pa.Table, *, first_row: int, size: int, step_rows: tuple[int, int], training: bool, known_before: int) -> Batch:
        """Make one batch.

        Args:
            rows: n <= size rows of enriched impressions, contiguous in memory.
            first_row: number of the first of them in the data set.
            size: B; n is padded up to it with empty bags and weight 0.
            step_rows: the step's rows over all ranks.
            training: apply id dropout.
            known_before: items first impressed at this row or later are unknown to an individual representation.
        """
        n, length = rows.num_rows, self.history_length
        lengths = np.minimum(_list_lengths(rows, "history_item_ids"), length)
        present = np.zeros((size, 1 + length), bool)  # [B, 1+T]
        present[:n, 0] = True
        present[:n, 1:] = np.arange(length) < lengths[:, None]
        positions = np.flatnonzero(present)  # [N], bag numbers
        items = self._items(rows, lengths, positions, first_row, training, known_before)
        age = np.zeros((size, length), np.float32)
        age[present[:, 1:]] = self._history_ages(rows, lengths)
        weight = np.zeros(size, np.float32)
        weight[:n] = 1.0
        segments = np.zeros((size, len(STREAM)), np.int64)
        segments[:n] = stream_segments(rows)
        return Batch(
            items=self._item_kjt(items, present, positions),
            context=self._context_kjt(rows, size),
            dense_BF=torch.from_numpy(self._dense(rows, size)),
            history_age_BT=torch.from_numpy(age),
            history_mask_BT=torch.from_numpy(present[:, 1:].copy()),
            label_BK=torch.from_numpy(np.stack([_padded(rows.column(LABEL + task), size) for task in self.tasks], 1)),
            weight_B=torch.from_numpy(weight),
            segment_BV=torch.from_numpy(segments),
            rows_in_step=torch.tensor(float(step_rows[1] - step_rows[0])),
        )

    def _items(
        self, rows: pa.Table, lengths: NDArray[np.int64], positions: NDArray[np.int64], first_row: int, training: bool, known_before: int
    ) -> ItemColumns:
        stride = 1 + self.history_length
        is_target = positions % stride == 0
        ids = np.empty(len(positions), np.int64)
        ids[is_target] = rows.column("item_id").to_numpy()
        ids[~is_target] = _first_values(rows, "history_item_ids", lengths, 1)
        codes = None
        if any(r.kind == "semantic_id" for r in self.representations):
            codes = np.empty((len(positions), self.levels), np.uint16)
            codes[is_target] = _array(rows, "target_codes").flatten().to_numpy().reshape(-1, self.levels)
            codes[~is_target] = _first_values(rows, "history_codes", lengths, self.levels).reshape(-1, self.levels)
        dense_rows = None
        if self.dense_ids is not None:
            dense_rows = self.dense_ids.rows(ids, known_before)
            if training and self.id_dropout > 0:
                place = (np.int64(first_row * stride) + positions).view(np.uint64) + (np.uint64(self.seed) << np.uint64(40))
                dense_rows[mix64(place) < np.uint64(min(int(self.id_dropout * 2**64), 2**64 - 1))] = -1
        return ItemColumns(ids, codes, dense_rows)

    def _item_kjt(self, items: ItemColumns, present: NDArray[np.bool_], positions: NDArray[np.int64]) -> KeyedJaggedTensor:
        is_target = positions % present.shape[1] == 0
        values, lengths = [], []
        for representation in self.representations:
            keys = representation.keys(items)
            used = positions
            if not representation.target:
                keys, used = keys[~is_target], positions[~is_target]
            elif not representation.history:
                keys, used = keys[is_target], positions[is_target]
            counts = np.zeros(present.size, np.int32)
            counts[used] = np.count_nonzero(keys >= 0, axis=1) if representation.keys_vary else representation.keys_per_item
            values.append(keys[keys >= 0] if representation.keys_vary else keys.ravel())
            lengths.append(counts)
        return _kjt([r.name for r in self.representations], values, lengths)

    def _context_kjt(self, rows: pa.Table, size: int) -> KeyedJaggedTensor | None:
        names = self.context_columns
        if not names:
            return None
        values, lengths = [], []
        for name in names:
            column = rows.column(name)
            is_list = pa.types.is_list(column.type)
            ids = _array(rows, name).flatten().to_numpy() if is_list else column.to_numpy()
            counts = np.zeros(size, np.int32)
            counts[: rows.num_rows] = _list_lengths(rows, name) if is_list else 1
            values.append(hashed_rows(np.ascontiguousarray(ids), self.context_rows))
            lengths.append(counts)
        return _kjt(list(names), values, lengths)

    def _dense(self, rows: pa.Table, size: int) -> NDArray[np.float32]:
        dense = np.zeros((size, len(self.dense_columns)), np.float32)
        for index, name in enumerate(self.dense_columns):
            values = rows.column(name).to_numpy()
            dense[: rows.num_rows, index] = np.copysign(np.log1p(np.abs(values)), values)
        return dense

    def _history_ages(self, rows: pa.Table, lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        now = np.repeat(rows.column("timestamp").to_numpy().view(np.int64), lengths)
        then = _first_values(rows, "history_timestamps", lengths, 1).view(np.int64)
        return ((now - then) / 3.6e9).astype(np.float32)


def input_columns(schema: pa.Schema, tasks: Sequence[str], *, codes: bool) -> list[str]:
    """The columns of `schema` that `build` reads, in its order; codes, where there are any, only if a representation uses them.

    Raises:
        InputError: naming a task whose label is not in `schema`.
    """
    for task in tasks:
        if LABEL + task not in schema.names:
            labels = ", ".join(name.removeprefix(LABEL) for name in columns_with_prefix(schema, LABEL))
            raise InputError(f"model.tasks: there is no column '{LABEL}{task}' for task '{task}'; the data set's tasks are {labels}")
    wanted = {"timestamp", "item_id", "history_item_ids", "history_timestamps"}
    wanted |= {LABEL + task for task in tasks} | {segmentation.column for segmentation in STREAM}
    wanted |= {*columns_with_prefix(schema, DENSE), *columns_with_prefix(schema, CONTEXT)}
    if codes:
        wanted |= {"target_codes", "history_codes"}
    return [name for name in schema.names if name in wanted]


def _kjt(keys: list[str], values: list[NDArray[np.int64]], lengths: list[NDArray[np.int32]]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=keys, values=torch.from_numpy(np.concatenate(values)), lengths=torch.from_numpy(np.concatenate(lengths).astype(np.int32))
    )


def _array(rows: pa.Table, name: str) -> pa.Array:
    return rows.column(name).combine_chunks()


def _list_lengths(rows: pa.Table, name: str) -> NDArray[np.int64]:
    return pc.list_value_length(rows.column(name)).to_numpy().astype(np.int64)


def _first_values(rows: pa.Table, name: str, lengths: NDArray[np.int64], width: int) -> NDArray[Any]:
    """The first lengths[i]*width values of each list, flat; without a copy where nothing is cut off."""
    column = _array(rows, name)
    values = column.flatten().to_numpy(zero_copy_only=False)
    full = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    if full.sum() == lengths.sum() * width:
        return values
    rank_in_list = np.arange(len(values)) - np.repeat(np.cumsum(full) - full, full)
    return values[rank_in_list < np.repeat(lengths * width, full)]


def _padded(column: pa.ChunkedArray, size: int) -> NDArray[np.float32]:
    padded = np.zeros(size, np.float32)
    padded[: len(column)] = column.to_numpy()
    return padded
