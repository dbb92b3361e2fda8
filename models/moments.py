"""Row-wise Adagrad's moments of sharded tables, as one tensor per table whose name and shape no plan changes but a split by columns."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor, ShardedTensorMetadata
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties


def moment_of(table: str, weight: ShardedTensor, fused: Mapping[Any, Mapping[str, Any]]) -> ShardedTensor:
    """The moments of a table, float32 [H, C], on the ranks that have its weights.

    TorchRec keeps a moment for each row of each shard. It names them on the ranks alone that hold some, and strings column shards
    together into one long vector, in an order of its own. Here column c of the result is column shard c's::

        weight [H, D]   shard rows 0..h-1, columns D/2..D-1  on rank 3
        moment [H, 2]   shard rows 0..h-1, column 1          on rank 3

    Args:
        table: its name.
        weight: [H, D], with metadata of all shards and this rank's tensors.
        fused: the fused optimizers' state: each weight to its states by name.

    Returns:
        A view of the fused optimizers' own memory, so that a checkpoint is read into them.
    """
    metadata = weight.metadata()
    starts = sorted({shard.shard_offsets[1] for shard in metadata.shards_metadata})
    shards = [
        ShardMetadata([shard.shard_offsets[0], starts.index(shard.shard_offsets[1])], [shard.shard_sizes[0], 1], shard.placement)
        for shard in metadata.shards_metadata
    ]
    found, rank = _local_moments(table, fused), dist.get_rank()
    local = [
        Shard(found[tuple(of.shard_offsets)].unsqueeze(1), moment)
        for of, moment in zip(metadata.shards_metadata, shards, strict=True)
        if of.placement is not None and of.placement.rank() == rank
    ]
    size = torch.Size([metadata.size[0], len(starts)])
    properties = TensorProperties(dtype=torch.float32)
    return ShardedTensor._init_from_local_shards_and_global_metadata(local, ShardedTensorMetadata(shards, size, properties))


def copy_shards(source: torch.Tensor | ShardedTensor, target: torch.Tensor | ShardedTensor) -> None:
    """Copy a tensor into another that is sharded likewise."""
    if isinstance(source, ShardedTensor) and isinstance(target, ShardedTensor):
        for given, own in zip(source.local_shards(), target.local_shards(), strict=True):
            own.tensor.copy_(given.tensor)
    else:
        target.copy_(source)


def _local_moments(table: str, fused: Mapping[Any, Mapping[str, Any]]) -> dict[tuple[int, ...], torch.Tensor]:
    """Row and column where a shard on this rank starts, to its moments [h]."""
    moments = {}
    for weight, states in fused.items():
        state = states.get(f"{table}.momentum1")
        if state is not None:
            for of, moment in zip(weight.local_shards(), state.local_shards(), strict=True):
                moments[tuple(of.metadata.shard_offsets)] = moment.tensor
    return moments
