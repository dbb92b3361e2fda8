"""Worker: trains a sharded ranker for a few steps and compares every output and every weight with an unsharded copy in this process.

The copy is the same module on plain nn.EmbeddingBag, on the whole batch, with row-wise Adagrad written out:
m += mean over D of g^2, w -= lr * g / (sqrt(m) + eps), for the rows that a batch touches.
"""

import sys

import torch
import torch.distributed as dist

from features.kjt import Batch
from features.reader import BatchPlan
from models.ranker import Ranker
from models.sharding import initialise_optimizer, shard
from pipeline import recipe as recipes
from pipeline.loader import BatchSource
from pipeline.ranks import start_process_group

STEPS, TABLE_LR, DENSE_LR, EPS = 6, 0.1, 1e-3, 1e-8


def main(sharding: str, *overrides: str) -> None:
    """Exit with an assertion where anything differs by more than 1e-6."""
    device = start_process_group()
    config = recipes.load("simulated", [*overrides, f"sharding.types=[{sharding}]"])
    source = BatchSource(config)
    torch.manual_seed(1)
    copy = Ranker(source.builder.schema, config.model)
    ranker = Ranker(source.builder.schema, config.model, torch.device("meta"))
    model = shard(ranker, config.sharding, table_learning_rate=TABLE_LR, dense_learning_rate=DENSE_LR, batch=64, device=device)
    initialise_optimizer(model)
    placed = {place.sharding_type for parameters in model.plan.plan.values() for place in parameters.values()}
    assert placed == {sharding}, placed
    load_into(model.module, copy)
    moments = {name: torch.zeros(weight.shape[0]) for name, weight in tables(copy).items()}
    adam = torch.optim.Adam([weight for name, weight in copy.named_parameters() if name not in moments], lr=DENSE_LR)
    for batch, whole in zip(steps(source, dist.get_world_size(), dist.get_rank()), steps(source, 1, 0), strict=True):
        loss, output = model.module(batch)
        model.optimizer.zero_grad()
        loss.backward()
        model.optimizer.step()
        size = len(output.logit_BK)
        expected = copy.logits(whole)
        close(output.logit_BK, expected.detach()[dist.get_rank() * size : (dist.get_rank() + 1) * size], "logits")
        train_copy(copy, whole, expected, adam, moments)
    for name, weight in full_state(model.module).items():
        # Adam divides a gradient by its own size: where that is rounding noise (an attention's key bias), so is the step.
        close(weight, copy.state_dict()[name], name, 1e-6 if "embedding_bags" in name else 1e-4)


def steps(source: BatchSource, world: int, rank: int) -> list[Batch]:
    """The last STEPS steps of the log, so that the short batch at its end is among them."""
    plan = BatchPlan(0, source.dataset.rows, 128, world, rank)
    return list(source.batches(plan, plan.steps - STEPS, training=True))


def train_copy(copy: Ranker, whole: Batch, logits: torch.Tensor, adam: torch.optim.Adam, moments: dict[str, torch.Tensor]) -> None:
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, whole.label_BK, reduction="none").sum(1)
    loss = (losses * whole.weight_B).sum() / whole.weight_B.sum()
    copy.zero_grad()
    loss.backward()
    adam.step()
    for name, weight in tables(copy).items():
        assert weight.grad is not None
        moments[name] += weight.grad.pow(2).mean(1)
        touched = weight.grad.abs().sum(1) > 0
        weight.data[touched] -= TABLE_LR * weight.grad[touched] / (moments[name][touched].sqrt() + EPS)[:, None]


def tables(copy: Ranker) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in copy.named_parameters() if "embedding_bags" in name}


def load_into(module: torch.nn.Module, copy: Ranker) -> None:
    """Give the sharded model the copy's weights."""
    whole = copy.state_dict()
    for name, value in module.state_dict().items():
        for shard_, offsets in shards(value):
            rows, columns = offsets
            shard_.copy_(
                whole[name][rows : rows + shard_.shape[0], columns : columns + shard_.shape[1]] if shard_.ndim == 2 else whole[name]
            )


def full_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor whole, on every rank."""
    state = {}
    for name, value in module.state_dict().items():
        pieces: list[list[tuple[torch.Tensor, tuple[int, int]]]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(pieces, [(piece.clone(), offsets) for piece, offsets in shards(value)])
        whole = torch.full(tuple(value.shape), torch.nan)
        for piece, (rows, columns) in (entry for rank in pieces for entry in rank):
            if piece.ndim == 2:
                whole[rows : rows + piece.shape[0], columns : columns + piece.shape[1]] = piece
            else:
                whole.copy_(piece)
        state[name] = whole
    return state


def shards(value: torch.Tensor) -> list[tuple[torch.Tensor, tuple[int, int]]]:
    """This rank's pieces of a possibly sharded tensor, and where they start."""
    if hasattr(value, "local_shards"):
        return [(piece.tensor, tuple(piece.metadata.shard_offsets)) for piece in value.local_shards()]
    return [(value, (0, 0))]


def close(got: torch.Tensor, expected: torch.Tensor, name: str, tolerance: float = 1e-6) -> None:
    assert torch.allclose(got, expected, rtol=tolerance, atol=tolerance), (name, (got - expected).abs().max())


if __name__ == "__main__":
    main(*sys.argv[1:])
    print(f"equal on rank {dist.get_rank()}", flush=True)
    dist.destroy_process_group()
