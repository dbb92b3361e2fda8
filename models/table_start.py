"""The weights that tables start with: a function of seed, table, row and column, which no plan and no number of ranks changes.

Left to itself, TorchRec draws each shard from its rank's generator. All ranks have the same seed, so that the first rows of all shards
of a table would start alike, or with a split by columns the columns; and a run on other ranks would be another run.
"""

import hashlib

import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from models.sharding import ShardedModel

CHUNK = 1 << 16  # weights drawn at a time: what they are made from stays in a processor's cache


@torch.no_grad()
def start_tables(model: ShardedModel, seed: int) -> None:
    """Fill this rank's shards of all tables [H, D] with uniform weights in ±1/sqrt(D), the range that `models.ranker` names.

    Args:
        model: sharded, not trained yet.
        seed: of the run.
    """
    for name, values in model.state_dict()["tables"].items():
        weight = values["weight"]
        key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "little", signed=True)
        if isinstance(weight, ShardedTensor):
            for shard in weight.local_shards():
                row, column = shard.metadata.shard_offsets
                _fill(shard.tensor, key, weight.size(1), row, column)
        else:
            _fill(weight, key, weight.size(1), 0, 0)


def _fill(shard: torch.Tensor, key: int, width: int, row: int, column: int) -> None:
    """Weights of a rectangle that starts at (row, column) of a table of that width."""
    columns = torch.arange(column, column + shard.shape[1], device=shard.device)
    for first in range(0, len(shard), CHUNK // width):
        part = shard[first : first + CHUNK // width]
        rows = torch.arange(row + first, row + first + len(part), device=shard.device)
        place = rows.unsqueeze(1) * width + columns
        part.copy_((_uniform(key, place) * 2 - 1) * width**-0.5)


def _uniform(key: int, place: torch.Tensor) -> torch.Tensor:
    """float32 in (0, 1) for each place: splitmix64's output at the counter key + place, whose upper 23 bits are taken."""
    bits = key + (place + 1) * _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shifted(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shifted(bits, 27)) * _signed(0x94D049BB133111EB)
    return (_shifted(bits ^ _shifted(bits, 31), 41).float() + 0.5) / (1 << 23)


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, zeros coming in: torch has signed integers alone."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >> 63 else constant
