"""Which sharding types each table may have on the ranks at hand, and TorchRec's planner, which chooses among them."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.comm import get_local_size
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.constants import MIN_CW_DIM
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError, ShardingOption
from torchrec.distributed.types import CacheParams, ModuleSharder
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from features.errors import InputError
from models.plan import Plan, planned_table
from models.sharding_config import SPLITS_COLUMNS, ShardingConfig

GIB = 1 << 30


class Lookups(NamedTuple):
    """What an example looks up in a table: G keys in each of so many bags, for the planner's cost model."""

    keys_per_bag: float = 1.0
    bags: float = 1.0


@dataclass(frozen=True)
class Ranks:
    """The processes that share the tables.

    Attributes:
        world: all of them.
        per_node: those of one node, from LOCAL_WORLD_SIZE, which torchrun sets; TorchRec's two-level sharding types go by it too.
        device: of this rank.
        memory: bytes per rank that the planner may fill: of the GPU, or without one of the node's main memory divided by its ranks.
    """

    world: int
    per_node: int
    device: torch.device
    memory: int

    @classmethod
    def here(cls, config: ShardingConfig, device: torch.device) -> "Ranks":
        """The ranks of the default process group."""
        per_node = get_local_size()
        memory = _main_memory() // per_node
        if device.type == "cuda":
            memory = torch.cuda.get_device_properties(device).total_memory
        if config.device_memory_gb is not None:
            memory = int(config.device_memory_gb * GIB)
        return cls(dist.get_world_size(), per_node, device, memory)

    @property
    def topology(self) -> Topology:
        """As the planner wants it."""
        gpu = self.device.type == "cuda"
        main = _main_memory() // self.per_node if gpu else self.memory
        return Topology(
            world_size=self.world,
            local_world_size=self.per_node,
            compute_device=self.device.type,
            hbm_cap=self.memory if gpu else None,
            ddr_cap=main,
        )


def make_plan(
    model: nn.Module, config: ShardingConfig, sharder: ModuleSharder[Any], ranks: Ranks, batch: int, lookups: Mapping[str, Lookups]
) -> Plan:
    """TorchRec's plan for all tables of `model`; a collective call.

    Args:
        model: with its EmbeddingBagCollections, each table's name distinct.
        config: what is chosen already, and what the planner may choose from.
        sharder: of the EmbeddingBagCollections.
        ranks: that share the tables.
        batch: B, examples per rank.
        lookups: table name to what an example looks up there; one key where it is not named.

    Raises:
        InputError: on every rank, naming the table and the reason, where a choice cannot be followed; or where no plan fits the memory.
    """
    constraints = _constraints(list(_tables(model)), config, ranks.device, lookups)
    outcome: list[Any] = [None]  # the plan, or the error that is to be raised on every rank, so that none waits for a plan
    if dist.get_rank() == 0:
        try:
            outcome[0] = _plan(model, sharder, ranks, batch, constraints)
        except Exception as error:
            outcome[0] = error
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    plan: Plan = outcome[0]
    return plan


def _plan(model: nn.Module, sharder: ModuleSharder[Any], ranks: Ranks, batch: int, constraints: dict[str, ParameterConstraints]) -> Plan:
    chosen: list[ShardingOption] = []

    def keep(options: list[ShardingOption]) -> list[ShardingOption]:
        chosen.extend(options)
        return options

    planner = EmbeddingShardingPlanner(topology=ranks.topology, batch_size=batch, constraints=constraints, stats=[], callbacks=[keep])
    try:
        plan = planner.plan(model, [sharder])
    except PlannerError as error:
        memory, said = f"{ranks.memory / GIB:.3g} GiB each (sharding.device_memory_gb)", str(error).strip().splitlines()
        raise InputError(f"sharding: no plan found on {ranks.world} ranks of {memory}: {said[0].strip()}") from error
    options = {option.name: option for option in chosen}
    tables = {name: planned_table(options[name], constraint) for name, constraint in constraints.items()}
    return Plan(plan, tables, ranks.world, ranks.per_node, ranks.device.type, batch)


def _constraints(
    tables: list[EmbeddingBagConfig], config: ShardingConfig, device: torch.device, lookups: Mapping[str, Lookups]
) -> dict[str, ParameterConstraints]:
    names = [table.name for table in tables]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"model.representations: '{name}' is also the name of another table")
    for key, chosen in (("tables", config.tables), ("cached", config.cached)):
        for name in chosen:
            if name not in names:
                raise InputError(f"sharding.{key}: there is no table '{name}'; the model's are {', '.join(names)}")
    if config.cached and device.type != "cuda":
        raise InputError(f"sharding.cached: '{next(iter(config.cached))}' can be cached on a GPU, and this rank runs on the CPU")
    return {table.name: _constraint(table, config, lookups.get(table.name, Lookups())) for table in tables}


def _constraint(table: EmbeddingBagConfig, config: ShardingConfig, lookups: Lookups) -> ParameterConstraints:
    named = config.tables.get(table.name)
    types = config.types if named is None else (named,)
    refusals = {kind: _refusal(kind, table.embedding_dim, config.column_width or MIN_CW_DIM) for kind in types}
    allowed = [kind for kind, reason in refusals.items() if reason is None]
    if not allowed:
        where = f"sharding.{'types' if named is None else 'tables'}"
        raise InputError(f"{where}: table '{table.name}' cannot be " + "; nor ".join(f"{kind}: {why}" for kind, why in refusals.items()))
    load_factor = config.cached.get(table.name)
    kernels = ["fused", "dense"] if load_factor is None else ["fused_uvm_caching"]  # dense: of data-parallel tables alone
    return ParameterConstraints(
        sharding_types=allowed,
        compute_kernels=kernels,
        min_partition=config.column_width,
        pooling_factors=[lookups.keys_per_bag],
        num_poolings=[lookups.bags],
        cache_params=None if load_factor is None else CacheParams(load_factor=load_factor, prefetch_pipeline=True),
    )


def _refusal(kind: str, width: int, narrowest: int) -> str | None:
    """Why a table of this width cannot be sharded so; None where it can."""
    if kind != "data_parallel" and width % 4:
        return f"its width {width} is not a multiple of 4"
    if kind in SPLITS_COLUMNS and not any(width % columns == 0 for columns in range(-(-narrowest // 4) * 4, width, 4)):
        return f"its width {width} has no divisor below it that is a multiple of 4 and at least {narrowest} (sharding.column_width)"
    return None


def _tables(model: nn.Module) -> Iterator[EmbeddingBagConfig]:
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            yield from module.embedding_bag_configs()


def _main_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
