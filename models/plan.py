"""What a sharding plan says: each table's shards, the planner's estimates, as lines for people and as JSON for the run's folder."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torchrec.distributed.planner.types import ParameterConstraints, ShardingOption
from torchrec.distributed.types import ShardingPlan

UNITS = {
    "bytes": "weights and Adagrad moments",
    "estimated_ms": "milliseconds a step for lookup, update and exchange of embeddings, as TorchRec's planner estimates them on its own "
    "default bandwidths: a figure to compare plans by, not a forecast",
    "estimated_bytes": "weights, optimizer, inputs and outputs, as the planner estimates them",
}


@dataclass(frozen=True)
class Shard:
    """A rectangle of a table on one rank.

    Attributes:
        rank: where it is.
        row, column: where it starts in the table.
        rows, columns: its size.
        bytes: its weights and moments.
        estimated_ms: the planner's estimate per step.
        estimated_bytes: the planner's estimate of all that it takes, on the GPU or in main memory.
    """

    rank: int
    row: int
    column: int
    rows: int
    columns: int
    bytes: int
    estimated_ms: float
    estimated_bytes: int


@dataclass(frozen=True)
class TablePlan:
    """How one table is spread.

    Attributes:
        type: TorchRec's sharding type.
        kernel: "fused" or "fused_uvm_caching", or "dense" where the table is data-parallel.
        rows, width: H and D.
        keys_per_bag, bags: what an example is taken to look up.
        shards: of all ranks; a data-parallel table is whole on each.
    """

    type: str
    kernel: str
    rows: int
    width: int
    keys_per_bag: float
    bags: float
    shards: tuple[Shard, ...]

    @property
    def column_offsets(self) -> list[int]:
        """Where its column shards start; [0] where rows are whole."""
        return sorted({shard.column for shard in self.shards})


@dataclass(frozen=True)
class Plan:
    """The plan of all tables.

    Attributes:
        sharding: as TorchRec's modules take it.
        tables: by name.
        world, per_node: ranks, and ranks of one node.
        device: "cuda" or "cpu".
        batch: B, examples per rank, that the estimates are for.
    """

    sharding: ShardingPlan
    tables: dict[str, TablePlan]
    world: int
    per_node: int
    device: str
    batch: int

    def per_rank(self, figure: str) -> list[float]:
        """The sum over its shards of one of their figures, for each rank."""
        sums = [0.0] * self.world
        for table in self.tables.values():
            for shard in table.shards:
                sums[shard.rank] += getattr(shard, figure)
        return sums


def planned_table(option: ShardingOption, constraint: ParameterConstraints) -> TablePlan:
    """What the planner chose for a table."""
    rows, width = option.tensor.shape
    (keys,), (bags,) = constraint.pooling_factors, constraint.num_poolings or [1.0]
    shards = []
    for shard in option.shards:
        (row, column), (high, wide) = shard.offset, shard.size
        size = high * wide * option.tensor.element_size() + high * 4
        memory = shard.storage.hbm + shard.storage.ddr
        shards.append(Shard(shard.rank, row, column, high, wide, size, shard.perf.total, memory))
    return TablePlan(option.sharding_type, option.compute_kernel, rows, width, keys, bags, tuple(shards))


def describe(plan: Plan) -> list[str]:
    """The plan: one line per table, and one with the sums of the planner's estimates per rank."""
    lines = []
    for name, table in plan.tables.items():
        ranks = sorted({shard.rank for shard in table.shards})
        size = max(sum(shard.bytes for shard in table.shards if shard.rank == rank) for rank in ranks)
        split = f", columns from {', '.join(map(str, table.column_offsets))}" if len(table.column_offsets) > 1 else ""
        lines.append(
            f"{name}: {table.type}, {table.kernel}, {table.rows:,} rows x {table.width} on {_ranks(ranks)}{split}; "
            f"{_size(size)} per rank, estimated {max(shard.estimated_ms for shard in table.shards):.3g} ms a step"
        )
    times, sizes = plan.per_rank("estimated_ms"), plan.per_rank("estimated_bytes")
    lines.append(
        f"planner's estimate: {max(times):.3g} ms a step on the busiest rank, {times.index(max(times))}, and {min(times):.3g} on the least "
        f"busy; {_size(max(sizes))} on the fullest rank, {sizes.index(max(sizes))}, and {_size(min(sizes))} on the emptiest"
    )
    return lines


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan for the run's folder: tables with all their shards, sums per rank, and the units."""
    figures = ("bytes", "estimated_ms", "estimated_bytes")
    return {
        "units": UNITS,
        "ranks": plan.world,
        "ranks_per_node": plan.per_node,
        "device": plan.device,
        "batch_per_rank": plan.batch,
        "tables": {name: asdict(table) for name, table in plan.tables.items()},
        "per_rank": {figure: plan.per_rank(figure) for figure in figures},
    }


def _ranks(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    together = list(range(ranks[0], ranks[-1] + 1)) == list(ranks)
    return f"ranks {ranks[0]} to {ranks[-1]}" if together else f"ranks {', '.join(map(str, ranks))}"


def _size(count: float) -> str:
    power = min(int(math.log2(max(count, 1))) // 10, 3)
    return f"{count / 1024**power:.4g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
