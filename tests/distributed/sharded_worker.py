"""Worker: trains sharded rankers for a few steps and compares outputs, weights and moments with an unsharded copy in this process.

The copy is the same module on plain nn.EmbeddingBag, on the whole batch, with row-wise Adagrad written out:
m += mean over D of g^2, w -= lr * g / (sqrt(m) + eps), for the rows that a batch touches; where a plan splits a table by columns, each
part has a moment of its own.
"""

import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed._shard.sharded_tensor import ShardedTensor

from features.batch import Batch
from features.reader import BatchPlan
from models.ranker import Ranker
from models.sharding import ShardedModel, initialise_optimizer, shard
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from pipeline.ranks import start_process_group

STEPS, TABLE_LR, DENSE_LR, EPS = 6, 0.1, 1e-3, 1e-8


def main(ranks_per_node: str, cases: str, *overrides: str) -> None:
    """For each case, a JSON object of overrides: exit with an assertion where anything differs by more than 1e-6."""
    os.environ["LOCAL_WORLD_SIZE"] = ranks_per_node  # as if torchrun ran on several nodes
    start_process_group()
    for case in json.loads(cases):
        config = recipes.with_overrides(recipes.load("simulated", list(overrides)), case)
        compare(config)
        print(f"equal on rank {dist.get_rank()}: {sorted(config.sharding.tables.items()) or config.sharding.types}", flush=True)
    dist.destroy_process_group()


def compare(config: RunConfig) -> None:
    source = BatchSource(config)
    torch.manual_seed(1)
    copy = Ranker(source.builder.schema, config.model)
    model = sharded(config, source)
    for name, kind in config.sharding.tables.items():
        assert model.plan.tables[name].type == kind
    if not config.sharding.tables:
        assert {table.type for table in model.plan.tables.values()} == set(config.sharding.types)
    load_into(model.module, copy)
    names = {key: name for name, key in model.tables.items()}
    starts = {key: model.plan.tables[name].column_offsets for key, name in names.items()}
    moments = {key: torch.zeros(len(copy.get_parameter(key)), len(starts[key])) for key in names}
    adam = torch.optim.Adam([weight for name, weight in copy.named_parameters() if name not in names], lr=DENSE_LR)
    for batch, whole in zip(steps(source, dist.get_world_size(), dist.get_rank()), steps(source, 1, 0), strict=True):
        _, logits = train(model, batch)
        size = len(logits)
        expected = copy.logits(whole)
        close(logits, expected.detach()[dist.get_rank() * size : (dist.get_rank() + 1) * size], "logits")
        train_copy(copy, whole, expected, adam, moments, starts)
    state = gathered(model.state_dict())
    for name, weight in copy.state_dict().items():
        if name in names:
            close(state[f"tables.{names[name]}.weight"], weight, name)
            close(state[f"tables.{names[name]}.moment"], moments[name], f"moments of {name}")
        else:  # Adam divides a gradient by its own size: where that is rounding noise (an attention's key bias), so is the step.
            close(state[f"dense.{name}.weight"], weight, name, 1e-4)


def sharded(config: RunConfig, source: BatchSource) -> ShardedModel:
    ranker = Ranker(source.builder.schema, config.model, torch.device("meta"))
    batch, device = config.train.global_batch // dist.get_world_size(), torch.device("cpu")
    model = shard(ranker, config.sharding, table_learning_rate=TABLE_LR, dense_learning_rate=DENSE_LR, batch=batch, device=device)
    initialise_optimizer(model)
    return model


def train(model: ShardedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """One step; its loss and logits."""
    loss, output = model.module(batch)
    model.optimizer.zero_grad()
    loss.backward()
    model.optimizer.step()
    return loss.detach(), output.logit_BK


def steps(source: BatchSource, world: int, rank: int) -> list[Batch]:
    """The last STEPS steps of the log, so that the short batch at its end is among them."""
    plan = BatchPlan(0, source.dataset.rows, source.config.train.global_batch, world, rank)
    return list(source.batches(plan, plan.steps - STEPS, training=True))


def train_copy(
    copy: Ranker,
    whole: Batch,
    logits: torch.Tensor,
    adam: torch.optim.Adam,
    moments: dict[str, torch.Tensor],
    starts: dict[str, list[int]],
) -> None:
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, whole.label_BK, reduction="none").sum(1)
    loss = (losses * whole.weight_B).sum() / whole.weight_B.sum()
    copy.zero_grad()
    loss.backward()
    adam.step()
    for name, moment in moments.items():
        weight = copy.get_parameter(name)
        assert weight.grad is not None
        stops = [*starts[name][1:], weight.shape[1]]
        for number, (start, stop) in enumerate(zip(starts[name], stops, strict=True)):
            gradient = weight.grad[:, start:stop]
            moment[:, number] += gradient.pow(2).mean(1)
            touched = gradient.abs().sum(1) > 0
            weight.data[touched, start:stop] -= TABLE_LR * gradient[touched] / (moment[touched, number].sqrt() + EPS)[:, None]


def load_into(module: torch.nn.Module, copy: Ranker) -> None:
    """Give the sharded model the copy's weights."""
    whole = copy.state_dict()
    for name, value in module.state_dict().items():
        for piece, offsets in pieces(value):
            piece.copy_(whole[name][tuple(slice(start, start + size) for start, size in zip(offsets, piece.shape, strict=True))])


def gathered(state: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor whole, on every rank, under its dotted name."""
    whole: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if isinstance(value, dict):
            whole |= gathered(value, f"{prefix}{key}.")
            continue
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, [(piece.detach().clone(), offsets) for piece, offsets in pieces(value)])
        whole[prefix + key] = torch.full(tuple(value.shape), torch.nan, dtype=value.dtype)
        for piece, offsets in (entry for rank in parts for entry in rank):
            whole[prefix + key][tuple(slice(start, start + size) for start, size in zip(offsets, piece.shape, strict=True))] = piece
    return whole


def pieces(value: torch.Tensor | ShardedTensor) -> list[tuple[torch.Tensor, tuple[int, ...]]]:
    """This rank's pieces of a possibly sharded tensor, and where they start."""
    if isinstance(value, ShardedTensor):
        return [(piece.tensor, tuple(piece.metadata.shard_offsets)) for piece in value.local_shards()]
    return [(value, (0,) * value.ndim)]


def close(got: torch.Tensor, expected: torch.Tensor, name: str, tolerance: float = 1e-6) -> None:
    assert torch.allclose(got, expected, rtol=tolerance, atol=tolerance), (name, (got - expected).abs().max())


if __name__ == "__main__":
    main(*sys.argv[1:])
