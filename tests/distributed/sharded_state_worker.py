"""Worker: saves the state of a ranker under some plans and loads it under others, on this or another number of ranks.

Beside each checkpoint lies what it must give back: every tensor whole, and every table whole after one more step on the same batch.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException, FileSystemReader, FileSystemWriter

from features.batch import Batch
from models.sharding import ShardedModel
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from pipeline.ranks import start_process_group
from tests.distributed.sharded_worker import close, gathered, sharded, steps, train


def main(folder: str, ranks_per_node: str, plans: str, loads: str, *overrides: str) -> None:
    """Save under each of the `plans` {name: overrides}, then load each of the `loads` [[saved name, overrides]]."""
    os.environ["LOCAL_WORLD_SIZE"] = ranks_per_node
    start_process_group()
    base = recipes.load("simulated", list(overrides))
    for name, changes in json.loads(plans).items():
        save(Path(folder) / name, recipes.with_overrides(base, changes))
    for name, changes in json.loads(loads):
        check(Path(folder) / name, recipes.with_overrides(base, changes))
        print(f"loaded on rank {dist.get_rank()}: {name} as {changes}", flush=True)
    dist.destroy_process_group()


def save(path: Path, config: RunConfig) -> None:
    model, last = trained(config, seed=1, until=-1)
    before = gathered(model.state_dict())
    dcp.save(model.state_dict(), storage_writer=FileSystemWriter(path))
    train(model, last)
    after = gathered(model.state_dict())
    if dist.get_rank() == 0:
        torch.save({"before": before, "after": after, "layout": model.layout()}, path / "expected.pt")
    dist.barrier()


def check(path: Path, config: RunConfig) -> None:
    expected = torch.load(path / "expected.pt")
    model, last = trained(config, seed=2, until=1)
    state = model.state_dict()
    if model.layout() != expected["layout"]:
        try:
            dcp.load(state, storage_reader=FileSystemReader(path))
        except CheckpointException as error:
            assert "Size mismatch" in str(error)
            return
        raise AssertionError(f"{model.layout()} read moments of {expected['layout']}")
    dcp.load(state, storage_reader=FileSystemReader(path))
    model.load_state_dict(state)
    got = gathered(model.state_dict())
    assert got.keys() == expected["before"].keys()
    for name, tensor in expected["before"].items():
        assert torch.equal(got[name], tensor), name
    train(model, last)
    for name, tensor in gathered(model.state_dict()).items():
        close(tensor, expected["after"][name], name, 1e-6 if name.startswith("tables.") else 1e-4)


def trained(config: RunConfig, seed: int, until: int) -> tuple[ShardedModel, Batch]:
    """A model after the first steps, and the last step's batch, which it has not seen."""
    source = BatchSource(config)
    torch.manual_seed(seed)
    model = sharded(config, source)
    *first, last = steps(source, dist.get_world_size(), dist.get_rank())
    for batch in first[:until]:
        train(model, batch)
    return model, last


if __name__ == "__main__":
    main(*sys.argv[1:])
