"""A batch of tensors as the model takes it, and what a model must know of its batches.

Legend: B examples per rank and step, T history positions, G keys per item, L code levels, F dense columns, K tasks, V segmentations.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclass(frozen=True)
class BatchSchema:
    """What a ranker must know of its batches: the tables and the widths.

    Attributes:
        item_tables: name to rows, one per representation.
        target_tables: those of them that hold the target item.
        history_tables: those of them that hold the history items; they are the keys of `Batch.items`, the others of `Batch.context`.
        context_tables: context column to rows; they come last in `Batch.context`.
        dense_columns: F names.
        history_length: T.
        tasks: K names, of labels.
        shared_levels: L of `Batch.shared_depth_BT`; 0 where batches have none.
    """

    item_tables: dict[str, int]
    target_tables: tuple[str, ...]
    history_tables: tuple[str, ...]
    context_tables: dict[str, int]
    dense_columns: tuple[str, ...]
    history_length: int
    tasks: tuple[str, ...] = ("click",)
    shared_levels: int = 0

    @property
    def target_only_tables(self) -> tuple[str, ...]:
        """The representations of the target alone, in the order of their keys."""
        return tuple(name for name in self.item_tables if name not in self.history_tables)


class Features(NamedTuple):
    """What a score depends on: the first attributes of a `Batch`, of rows whose labels are not known."""

    items: KeyedJaggedTensor | None
    context: KeyedJaggedTensor | None
    dense_BF: torch.Tensor
    history_age_BT: torch.Tensor
    history_mask_BT: torch.Tensor
    shared_depth_BT: torch.Tensor | None


@dataclass
class Batch(Pipelineable):
    """One rank's examples of one step.

    Attributes:
        items: KJT of stride B*(1+T), a key per representation of history items; None without such. Bag b*(1+T) is example b's target,
            the next T bags its history, most recent first; padding is an empty bag. With T=2, G=2, and example 0 having one history
            item::

                bag         0        1        2      3 ...
                position    target   hist 1   hist 2 (next example's target)
                values      k0 k1    k0 k1    -      k0 k1
        context: KJT of stride B: a key per representation of the target alone, then one per context column; None without any.
        dense_BF: float32, signed log1p of the dense columns.
        history_age_BT: float32 hours between history event and impression; 0 where padded.
        history_mask_BT: bool, True where there is a history item.
        shared_depth_BT: int64, how many leading codes a history item shares with the target, 0..L, 0 where padded or unknown; None where
            the model does not ask for it.
        label_BK: float32, 0 or 1.
        weight_B: float32, 1, or 0 for the padding of a short last batch.
        segment_BV: int64, the segments that a row's metrics count for, numbers into `features.segments.NAMES`.
        rows_in_step: float32 scalar, real examples of the step over all ranks.
    """

    items: KeyedJaggedTensor | None
    context: KeyedJaggedTensor | None
    dense_BF: torch.Tensor
    history_age_BT: torch.Tensor
    history_mask_BT: torch.Tensor
    shared_depth_BT: torch.Tensor | None
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

    def _map(self, move: Callable[[Any], Any]) -> "Batch":
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = None if value is None else move(value)
        return Batch(**moved)
