"""Worker: pipelines give the same bits, lower precision nearly the same numbers, and what cannot be is refused on every rank."""

import json
import sys

import torch
import torch.distributed as dist

from features.errors import InputError
from models.plan import plan_json
from models.ranker import Ranker
from models.sharding import ShardedModel
from models.train_pipeline import train_pipeline
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from pipeline.ranks import start_process_group
from tests.distributed.sharded_worker import gathered, load_into, sharded, steps

CPU = torch.device("cpu")


def main(near: str, refused: str, *overrides: str) -> None:
    """Check `near` and `refused`.

    Args:
        near: JSON [[overrides, largest deviation of the logits in their own standard deviations]].
        refused: JSON [[overrides, part of the message]].
        overrides: of the recipe.
    """
    start_process_group()
    base = recipes.load("simulated", list(overrides))
    plain, model = trained(base)
    if dist.get_rank() == 0:
        print(json.dumps(plan_json(model.plan)))
    pipelined, other = trained(recipes.with_overrides(base, {"sharding.pipeline": "sparse_dist"}))
    assert torch.equal(plain, pipelined)
    state = gathered(other.state_dict())
    for name, tensor in gathered(model.state_dict()).items():
        assert torch.equal(tensor, state[name]), name
    for changes, tolerance in json.loads(near):
        logits, _ = trained(recipes.with_overrides(base, changes))
        difference = (logits - plain).std().item() / plain.std().item()
        assert 0 < difference < tolerance, (changes, difference)
    for changes, message in json.loads(refused):
        try:
            trained(recipes.with_overrides(base, changes))
        except InputError as error:
            assert message in str(error), (message, str(error))
        else:
            raise AssertionError(f"{changes} was not refused")
    print(f"as expected on rank {dist.get_rank()}", flush=True)
    dist.destroy_process_group()


def trained(config: RunConfig) -> tuple[torch.Tensor, ShardedModel]:
    """Logits of the last steps of the log, each before its batch was trained on, and the model after them."""
    source = BatchSource(config)
    torch.manual_seed(1)
    copy = Ranker(source.builder.schema, config.model)  # the same start for every plan
    model = sharded(config, source)
    load_into(model.module, copy)
    model.module.train()
    pipeline = train_pipeline(config.sharding, model, CPU)
    batches = steps(source, dist.get_world_size(), dist.get_rank())
    remaining = iter(batches)
    return torch.cat([pipeline.progress(remaining).logit_BK for _ in batches]), model


if __name__ == "__main__":
    main(*sys.argv[1:])
