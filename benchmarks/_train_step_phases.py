"""Where the time of a training step goes: each phase by itself on the run's own data, and the embedding against its memory traffic.

Legend: N keys of a batch, B*(1+T) bags, D embedding width, U distinct rows that a batch touches.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from _train_step_clock import copy_bandwidth, now, seconds
from _train_step_loops import spread_batches

from features.batch import Batch
from features.reader import BatchPlan
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from pipeline.ranks import AnyRank
from pipeline.recipe import with_overrides
from pipeline.trainer import ASKED_EVERY, Trainer
from pipeline.training_log import TrainingLog

BLOCK = 48  # steps timed together: they take as many row groups each time


def phases(config: RunConfig, root: Path, device: torch.device) -> dict[str, float]:
    """Seconds per step of each phase, of this rank; a collective call.

    On a CPU it is processor time of this process with all its threads, on a GPU the time until the device is done.
    """
    blocking = with_overrides(config, {"train.async_checkpoint": False})
    trainer = Trainer(blocking, root, device, quiet=True)
    plan = BatchPlan(0, trainer.rows, config.train.global_batch, dist.get_world_size(), dist.get_rank())
    batches = [batch.to(device) for batch in spread_batches(config, trainer.source, BLOCK)]
    found = _feeding(trainer.source, plan, device)
    found["look-up, where train.input is impressions"] = _look_up(config, plan, device)
    step = _step(trainer, batches, device)
    found |= step
    log = TrainingLog(root / "log", config.train.global_batch, quiet=True)
    line = seconds(lambda: log.write(1, 1, *trainer.metrics.report()), device)
    # Alone in its turn, a step has a log line and a checkpoint.
    turn = seconds(lambda: trainer.train((trainer.step + 1) * config.train.global_batch), device, 5)
    found["log lines"] = line / config.train.log_every
    found["checkpoints and scores"] = max(turn - line - sum(step.values()), 0) / config.train.checkpoint_every
    log.close()
    trainer.close()
    return found


def embedding(config: RunConfig, root: Path, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """Seconds per step of the item tables' forward, backward and update, and of what memory traffic they need at least; collective.

    The floor, in bytes: N rows read, the bags' sums written and their gradients read, U rows and moments read and written. The rank's
    share of the tables serves the batches of all ranks, which are as large as its own.
    """
    trainer = Trainer(config, root, device, quiet=True)
    (tables,) = (module for name, module in trainer.model.module.named_modules() if name.endswith("item_embeddings"))
    batches = [batch.to(device) for batch in batches]
    bandwidth = copy_bandwidth(device)
    floor = sum(_traffic(batch, config.model.embedding_dim) for batch in batches) / len(batches) / bandwidth

    def run() -> None:
        for batch in batches:
            pooled = tables(batch.items).values()
            pooled.backward(torch.ones_like(pooled))

    found = {"embedding": seconds(run, device) / len(batches), "floor": floor, "bandwidth": bandwidth}
    trainer.close()
    return found


def _feeding(source: BatchSource, plan: BatchPlan, device: torch.device) -> dict[str, float]:
    """Reading alone; then reading and making batches, of which the reading is taken off."""
    first = _block_starts(plan)
    reading = _reading(source.reader.read, plan, device)
    loading = seconds(lambda: list(itertools.islice(source.batches(plan, next(first), training=True), BLOCK)), device, 5) / BLOCK
    return {"read Parquet": reading, "keys and KeyedJaggedTensor": loading - reading}


def _look_up(config: RunConfig, plan: BatchPlan, device: torch.device) -> float:
    """What reading takes more where codes are looked up meanwhile; the columns of codes are not read then."""
    source = BatchSource(with_overrides(config, {"train.input": "impressions"}))
    return _reading(source.rows, plan, device) - _reading(source.reader.read, plan, device)


def _reading(read: Callable[[int, int], object], plan: BatchPlan, device: torch.device) -> float:
    first = _block_starts(plan)

    def block() -> None:
        start = next(first)
        for step in range(start, start + BLOCK):
            read(*plan.rank_rows(step))

    return seconds(block, device, 5) / BLOCK


def _block_starts(plan: BatchPlan) -> Iterator[int]:
    return itertools.cycle(range(0, plan.steps - BLOCK + 1, BLOCK))


def _step(trainer: Trainer, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """The step's own phases, on batches that are on the device."""
    module, optimizer = trainer.model.module, trainer.model.optimizer
    module.train()
    found: dict[str, list[float]] = {}
    told = AnyRank(questions=2)
    for number, batch in enumerate(batches):
        with _timed(found, "forward", device):
            loss, output = module(batch)
        with _timed(found, "backward, with the tables' update", device):
            loss.backward()
        with _timed(found, "update of the dense weights", device):
            optimizer.step()
            optimizer.zero_grad()
        with _timed(found, "metrics", device):
            trainer.metrics.update(*output)
        if number % ASKED_EVERY == 0:
            with _timed(found, "stop flag", device):
                told.ask(False, False)
    trainer.metrics.report()  # sums up the last batches
    told.close()
    warm = {name: values[len(values) // 6 :] for name, values in found.items()}  # the first ones are slow
    per_step = {name: sum(values) / len(values) for name, values in warm.items()}
    return {**per_step, "stop flag": per_step["stop flag"] / ASKED_EVERY}


@contextmanager
def _timed(found: dict[str, list[float]], name: str, device: torch.device) -> Iterator[None]:
    started = now(device)
    yield
    found.setdefault(name, []).append(now(device) - started)


def _traffic(batch: Batch, width: int) -> int:
    """Bytes of one batch, float32 and 8 bytes per key."""
    assert batch.items is not None
    keys, bags, row = batch.items.values(), batch.items.lengths().numel(), 4 * width
    distinct = sum(values.unique().numel() for values in keys.split(batch.items.length_per_key()))
    return keys.numel() * (8 + row) + 2 * bags * row + 2 * distinct * (row + 4)
