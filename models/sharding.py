"""Sharding: TorchRec's plan, DistributedModelParallel, the tables' and the dense optimizer, and state under names no plan changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import QuantizedCommCodecs, ShardingEnv
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from models.moments import copy_shards, moment_of
from models.placement import Lookups, Ranks, make_plan
from models.plan import Plan
from models.precision import check_codecs_fit, communication_codecs, with_dense_precision, with_table_precision
from models.row_wise_adagrad import EPS, RowWiseAdagrad
from models.sharding_config import ShardingConfig


class FusedEbcSharder(EmbeddingBagCollectionSharder):
    """Offers every sharding type on the CPU too: TorchRec runs those that split rows there, but its planner does not list them."""

    def __init__(self, learning_rate: float, codecs: dict[str, QuantizedCommCodecs] | None) -> None:
        """Args: step size of the row-wise Adagrad that is fused into the backward pass; codecs of what ranks exchange."""
        fused = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": learning_rate, "eps": EPS}
        super().__init__(fused_params=fused, qcomm_codecs_registry=codecs)

    def sharding_types(self, compute_device_type: str) -> list[str]:
        """All of a GPU's, whatever the device; `models.placement` narrows them for each table."""
        return super().sharding_types("cuda")


@dataclass
class ShardedModel:
    """A model spread over the ranks.

    Attributes:
        module: the model.
        optimizer: all three: row-wise Adagrad, fused for the tables that are split or placed and by itself for the data-parallel ones,
            and Adam for the rest.
        plan: where each table is.
        tables: table name to its weight's name in `module.state_dict()`.
    """

    module: DistributedModelParallel
    optimizer: CombinedOptimizer
    plan: Plan
    tables: dict[str, str]

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer state, each tensor sharded as the plan has it, under names that no plan and no number of ranks changes.

        Returns:
            "tables": table name to "weight" [H, D] and "moment" float32 [H, C], row-wise Adagrad's m: a column for each of the table's C
            column shards, so one where rows are whole (see `layout`). "dense": parameter name to "weight" and Adam's "exp_avg",
            "exp_avg_sq", "step"; a buffer has "weight" alone. Tensors are the model's own, not copies.
        """
        weights = self.module.state_dict()
        adam = self.optimizer_of("dense")
        names = {key: name for name, key in self.tables.items()}
        dense = {key: {"weight": weight} for key, weight in weights.items() if key not in names}
        for key, parameter in adam.params.items():
            dense[key] |= adam.state[parameter]
        return {
            "tables": {name: {"weight": weights[key], "moment": self._moment(name, weights[key])} for name, key in self.tables.items()},
            "dense": dense,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, after a checkpoint was read into it."""
        weights = {key: state["tables"][name]["weight"] for name, key in self.tables.items()}
        weights |= {key: values["weight"] for key, values in state["dense"].items()}
        self.module.load_state_dict(weights)
        own = self.state_dict()
        for name in self.tables:
            copy_shards(state["tables"][name]["moment"], own["tables"][name]["moment"])
        for key, values in own["dense"].items():
            for part in values.keys() - {"weight"}:
                copy_shards(state["dense"][key][part], values[part])

    def layout(self) -> dict[str, str]:
        """Table name to what its moments belong to: "rows", or "columns:0,16", the first columns of its shards.

        A state loads under any plan that has the same layout. Rows split by columns have a moment per shard, which others cannot have.
        """
        offsets = {name: table.column_offsets for name, table in self.plan.tables.items()}
        return {name: "rows" if starts == [0] else f"columns:{','.join(map(str, starts))}" for name, starts in offsets.items()}

    def _moment(self, name: str, weight: torch.Tensor | ShardedTensor) -> torch.Tensor | ShardedTensor:
        if isinstance(weight, ShardedTensor):
            return moment_of(name, weight, self.module.fused_optimizer.state)
        whole = self.optimizer_of("replicated")
        return whole.state[whole.params[self.tables[name]]]["moment"]

    def optimizer_of(self, name: str) -> KeyedOptimizerWrapper:
        """Of "dense" weights, or of "replicated" tables, where there are any."""
        return next(optimizer for key, optimizer in self.optimizer.optimizers if key == name)


def shard(
    model: nn.Module,
    config: ShardingConfig,
    *,
    table_learning_rate: float,
    dense_learning_rate: float,
    batch: int,
    device: torch.device,
    lookups: Mapping[str, Lookups] | None = None,
) -> ShardedModel:
    """Plan and shard a model's tables; everything else is data-parallel. A collective call.

    Args:
        model: its EmbeddingBagCollections on the meta device; every rank must build it from the same seed. It is changed in place.
        config: sharding types, precision and communication.
        table_learning_rate: step size of the tables' row-wise Adagrad.
        dense_learning_rate: step size of Adam for everything else.
        batch: B, examples per rank, for the planner's cost model.
        device: of this rank.
        lookups: table name to what an example looks up there, for the planner's cost model; one key where it is not named.

    Raises:
        InputError: on every rank, where a table cannot be sharded as configured, or the device cannot do what is configured.
    """
    group = dist.group.WORLD
    assert group is not None
    sharder = FusedEbcSharder(table_learning_rate, communication_codecs(config))
    with_table_precision(model, config)
    plan = make_plan(model, config, sharder, Ranks.here(config, device), batch, lookups or {})
    check_codecs_fit(config, plan)
    with_dense_precision(model, config, device)
    environment = ShardingEnv.from_process_group(group)
    module = DistributedModelParallel(module=model, env=environment, device=device, plan=plan.sharding, sharders=[sharder])
    tables = {name: f"{path}.embedding_bags.{name}.weight" for path, placed in plan.sharding.plan.items() for name in placed}
    replicated = {tables[name] for name, table in plan.tables.items() if table.type == "data_parallel"}
    parameters = {name: value for name, value in module.named_parameters() if name in replicated or name not in tables.values()}
    optimizers = [("tables", module.fused_optimizer)]
    for key, names, make in (
        ("replicated", replicated, lambda values: RowWiseAdagrad(values, lr=table_learning_rate)),
        ("dense", parameters.keys() - replicated, lambda values: torch.optim.Adam(values, lr=dense_learning_rate)),
    ):
        if names:
            optimizers.append((key, KeyedOptimizerWrapper({name: parameters[name] for name in parameters if name in names}, make)))
    return ShardedModel(module, CombinedOptimizer(optimizers), plan, tables)


def initialise_optimizer(model: ShardedModel) -> None:
    """Create Adam's lazy moments, all zero, without moving a weight: a checkpoint template made before the first step would lack them."""
    adam = model.optimizer_of("dense")
    adam.init_state()
    for state in adam.state.values():
        state["step"].zero_()  # that dummy step counted as one
    adam.zero_grad()
