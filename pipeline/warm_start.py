"""Recurring training: a new run's model takes over yesterday's weights and optimizer state, into tables that may have grown.

A grown table, of individual rows, keeps its items' rows in place; its unknown row, the last, moves to the new end; the rows between, of
new items, stay as they were initialised. Each rank reads what its own shards need, a saved shard at a time.
"""

from collections.abc import Iterator

import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, create_default_local_load_plan
from torch.distributed.checkpoint.metadata import STORAGE_TYPES, ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from features.errors import InputError
from models.sharding import ShardedModel
from pipeline import checkpoint
from pipeline.starting_point import StartingPoint


def warm_start(start: StartingPoint, model: ShardedModel) -> None:
    """Load weights, Adam's moments and the tables' Adagrad moments; a collective call. Metrics and position are the new run's own.

    The checkpoint's index is a pickle, as PyTorch writes it: start only from checkpoints of your own runs.

    Args:
        start: a checkpoint that `starting_point.require_fit` let pass; of any number of ranks and any sharding, but that columns must be
            split alike.
        model: freshly initialised, optimizer state included.

    Raises:
        InputError: if a file is damaged or missing, or a tensor is missing or has another shape, naming it.
    """
    state = model.state_dict()
    checkpoint.read(start.path, state, _GrownTables(start))
    model.load_state_dict(state)


def local_shards(value: torch.Tensor) -> list[tuple[tuple[int, ...], torch.Tensor]]:
    """Where this rank's shards of a tensor begin, and the shards; a tensor that is not sharded is one."""
    if not isinstance(value, ShardedTensor):
        return [((0,) * value.ndim, value)]
    return [(tuple(shard.metadata.shard_offsets), shard.tensor) for shard in value.local_shards() if len(shard.tensor)]


class _GrownTables(DefaultLoadPlanner):
    """Reads tensors of the saved shape as they are, and grown ones in two parts: the items' rows in place, and the unknown row."""

    def __init__(self, start: StartingPoint) -> None:
        super().__init__()
        self._start = start
        self._parts: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}  # name and offsets in the saved tensor, to where they go

    def create_local_plan(self) -> LoadPlan:
        """What this rank reads."""
        assert self.metadata is not None
        same, grown = {}, []
        for name, value in self.state_dict.items():
            saved = self._saved(name, value, self.metadata.state_dict_metadata.get(name))
            if saved.size == value.size():
                same[name] = value
            else:
                grown += create_read_items_for_chunk_list(name, saved, self._chunks(name, value))
        return LoadPlan([*create_default_local_load_plan(same, self.metadata).items, *grown])

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        """Where a part that was read goes."""
        part = self._parts.get((index.fqn, tuple(index.offset or ())))
        return super().lookup_tensor(index) if part is None else part

    def _saved(self, name: str, value: torch.Tensor, saved: STORAGE_TYPES | None) -> TensorStorageMetadata:
        """What was saved, once it is known to fit."""
        where, items = f"train.start_from {self._start.path}", self._start.dense_rows
        if not isinstance(saved, TensorStorageMetadata):
            raise InputError(f"{where}: the checkpoint has no tensor {name}")
        may_grow = items > 0 and saved.size[:1] == (items + 1,) and value.size(0) > items
        if saved.size[may_grow:] != value.size()[may_grow:]:
            raise InputError(f"{where}: {name} has shape {tuple(saved.size)} there but {tuple(value.size())} in this run")
        return saved

    def _chunks(self, name: str, value: torch.Tensor) -> list[ChunkStorageMetadata]:
        parts = dict(_taken_over(value, self._start.dense_rows))
        self._parts |= {(name, offsets): part for offsets, part in parts.items()}
        return [ChunkStorageMetadata(torch.Size(offsets), part.shape) for offsets, part in parts.items()]


def _taken_over(value: torch.Tensor, dense_rows: int) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
    """The parts of this rank's shards of a grown tensor that the saved one fills, with their offsets there."""
    for (first, *columns), shard in local_shards(value):
        kept = min(first + len(shard), dense_rows) - first
        if kept > 0:
            yield (first, *columns), shard[:kept]
        if first + len(shard) == value.size(0):
            yield (dense_rows, *columns), shard[-1:]
