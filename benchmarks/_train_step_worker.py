"""One rank of the training step's benchmark, started by torchrun: measures what its job says, and rank 0 writes the figures down."""

import functools
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _train_step_clock import Turn, paired, turns
from _train_step_data import configuration
from _train_step_loops import bare_loop, first_batches, random_batches, torchrec_dlrm
from _train_step_phases import embedding, phases

from pipeline.loader import BatchSource
from pipeline.progress import say
from pipeline.ranks import on_rank_zero, start_process_group
from pipeline.trainer import Trainer

IN_MEMORY = 50  # batches of the loops without a reader


def race(job: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """`semid train` and the loops on memory in turns: each turn of `semid train` has a checkpoint at its end and its usual log lines."""
    config = configuration(Path(job["workdir"]), train__checkpoint_every=job["steps"], **job["changes"])
    trainer = Trainer(config, Path(job["runs"]) / "race", device, quiet=True)
    batches, steps = random_batches(config, trainer.source, IN_MEMORY), job["steps"]
    bare = bare_loop(config, trainer.source, batches, device)
    assert bare.model.plan.sharding.plan == trainer.model.plan.sharding.plan
    loops = {
        "train": lambda: trainer.train((trainer.step + steps) * config.train.global_batch),
        "bare": lambda: bare.run(steps),
    }
    taken = turns(loops, job["rounds"], device)
    trainer.close()
    by_clock, by_processor = paired(taken["train"], taken["bare"])
    examples = steps * config.train.global_batch
    return {
        "rates": {name: _examples_per_second(each, examples) for name, each in taken.items()},
        "processor": {name: statistics.median(turn.processor for turn in each) / examples for name, each in taken.items()},
        "by_clock": by_clock,
        "by_processor": by_processor,
    }


def against_dlrm(job: dict[str, Any], device: torch.device) -> dict[str, float]:
    """Examples per second of our ranker and of TorchRec's DLRM, all on memory."""
    config = configuration(Path(job["workdir"]), **job["changes"])
    source = BatchSource(config)
    batches = random_batches(config, source, IN_MEMORY)
    made = {
        "ours": bare_loop(config, source, batches, device),
        "dlrm": torchrec_dlrm(config, source, batches, device, per_position=True),
        "dlrm, history in one bag": torchrec_dlrm(config, source, batches, device, per_position=False),
    }
    steps = job["few_steps"]
    taken = turns({name: functools.partial(loop.run, steps) for name, loop in made.items()}, job["rounds"], device)
    return {name: _examples_per_second(each, steps * config.train.global_batch) for name, each in taken.items()}


def growth(job: dict[str, Any], device: torch.device) -> dict[str, dict[str, float]]:
    """Examples per second of the step on memory and of the feeding alone, by change of shape."""
    found = {}
    for name, point in job["growth"].items():
        config = configuration(Path(point["workdir"]), **point["changes"])
        source, batch = BatchSource(config), config.train.global_batch
        batches = random_batches(config, source, IN_MEMORY)
        steps = min(job["few_steps"], source.dataset.rows // batch)
        loops: dict[str, Callable[[], object]] = {
            "step": functools.partial(bare_loop(config, source, batches, device).run, steps),
            "feeding": functools.partial(first_batches, config, source, steps),
        }
        found[name] = {kind: _examples_per_second(each, steps * batch) for kind, each in turns(loops, 3, device).items()}
    return found


def _examples_per_second(taken: list[Turn], examples: int) -> float:
    return examples / statistics.median(turn.wall for turn in taken)


def main(path: Path) -> None:
    """Do the parts that the job names."""
    job = json.loads(path.read_text())
    torch.set_num_threads(1)
    device = start_process_group()
    figures: dict[str, Any] = {}
    for part, measure in {"race": race, "dlrm": against_dlrm, "growth": growth}.items():
        if part in job["parts"]:
            say(f"{part}, {dist.get_world_size()} ranks")
            figures[part] = measure(job, device)
    if "phases" in job["parts"]:
        config = configuration(Path(job["workdir"]), **job["changes"])
        figures["phases"] = phases(config, Path(job["runs"]) / "phases", device)
        batches = random_batches(config, BatchSource(config), IN_MEMORY)
        figures["embedding"] = embedding(config, Path(job["runs"]) / "embedding", batches, device)
    on_rank_zero(lambda: path.with_suffix(".figures").write_text(json.dumps(figures)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
