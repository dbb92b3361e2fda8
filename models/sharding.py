"""Sharding: TorchRec's planner, DistributedModelParallel, and the fused and dense optimizers."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import ShardingEnv, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from models.config import ShardingConfig


class FusedEbcSharder(EmbeddingBagCollectionSharder):
    """Offers row-wise plans on the CPU too: TorchRec runs them there but its planner does not list them."""

    def __init__(self, types: tuple[str, ...], learning_rate: float) -> None:
        """Args: sharding types to offer; step size of the row-wise Adagrad that is fused into the backward pass."""
        from fbgemm_gpu.split_embedding_configs import EmbOptimType

        super().__init__(fused_params={"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": learning_rate, "eps": 1e-8})
        self._types = list(types)

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """The offered types, whatever the device."""
        return self._types


@dataclass
class ShardedModel:
    """A model spread over the ranks, its optimizer (fused for tables, Adam for the rest) and the plan."""

    module: DistributedModelParallel
    optimizer: CombinedOptimizer
    plan: ShardingPlan

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer state, each tensor sharded as the plan has it; what `load_state_dict` takes back."""
        return {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, after a checkpoint was read into it."""
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def shard(
    model: nn.Module, config: ShardingConfig, *, table_learning_rate: float, dense_learning_rate: float, batch: int, device: torch.device
) -> ShardedModel:
    """Plan and shard a model's tables; everything else is data-parallel.

    Args:
        model: its EmbeddingBagCollections on the meta device or on `device`; every rank must build it from the same seed.
        config: what the planner may choose from.
        table_learning_rate: step size of the tables' fused row-wise Adagrad.
        dense_learning_rate: step size of Adam for everything else.
        batch: B, examples per rank, for the planner's cost model.
        device: of this rank.

    The process group must be initialised; it needs a short timeout, because other ranks hang when the planner fails on rank 0.
    """
    group = dist.group.WORLD
    assert group is not None
    sharder = FusedEbcSharder(config.types, table_learning_rate)
    topology = Topology(world_size=dist.get_world_size(), local_world_size=dist.get_world_size(), compute_device=device.type)
    planner = EmbeddingShardingPlanner(topology=topology, batch_size=batch, constraints=_constraints(model, config))
    plan = planner.collective_plan(model, [sharder], group)
    module = DistributedModelParallel(module=model, env=ShardingEnv.from_process_group(group), device=device, plan=plan, sharders=[sharder])
    dense = dict(in_backward_optimizer_filter(module.named_parameters()))
    adam = KeyedOptimizerWrapper(dense, lambda parameters: torch.optim.Adam(parameters, lr=dense_learning_rate))
    return ShardedModel(module, CombinedOptimizer([("tables", module.fused_optimizer), ("dense", adam)]), plan)


def initialise_optimizer(model: ShardedModel) -> None:
    """Create Adam's lazy moments, all zero, without moving a weight: a checkpoint template made before the first step would lack them."""
    (adam,) = (optimizer for name, optimizer in model.optimizer.optimizers if name == "dense")
    adam.init_state()
    for state in adam.state.values():
        state["step"].zero_()  # that dummy step counted as one
    adam.zero_grad()


def describe(plan: ShardingPlan) -> list[str]:
    """One line per table: sharding type, kernel and ranks."""
    lines = []
    for module, parameters in plan.plan.items():
        for table, place in parameters.items():
            lines.append(f"{module}.{table}: {place.sharding_type}, {place.compute_kernel}, ranks {place.ranks}")
    return lines


def _constraints(model: nn.Module, config: ShardingConfig) -> dict[str, ParameterConstraints]:
    kernels = [EmbeddingComputeKernel.FUSED.value]
    return {
        table.name: ParameterConstraints(sharding_types=list(config.types), compute_kernels=kernels)
        for module in model.modules()
        if isinstance(module, EmbeddingBagCollection)
        for table in module.embedding_bag_configs()
    }
