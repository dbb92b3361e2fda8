"""Clocks of the training step's benchmark: loops in turns on all ranks, the time that an action takes, and how fast memory is copied."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist

COPIED = 1 << 28  # bytes, larger than caches


class Turn(NamedTuple):
    """One loop's turn: seconds until the last rank was done, and processor seconds of all ranks together."""

    wall: float
    processor: float


def turns(loops: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, list[Turn]]:
    """Let the loops take turns, each round in the reverse order of the one before, after a round that does not count; collective."""
    names, taken = list(loops), {name: list[Turn]() for name in loops}
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            dist.barrier()
            wall, processor = time.perf_counter(), time.process_time()
            loops[name]()
            finish(device)
            spent = torch.tensor(time.process_time() - processor, dtype=torch.float64, device=device)
            dist.all_reduce(spent)
            if number:
                taken[name].append(Turn(time.perf_counter() - wall, spent.item()))
    return taken


def paired(ours: list[Turn], theirs: list[Turn]) -> tuple[float, float]:
    """Median over the rounds of their time over ours, by the clock and by processor time: 1 is as fast, less is slower."""
    by_clock = statistics.median(b.wall / a.wall for a, b in zip(ours, theirs, strict=True))
    return by_clock, statistics.median(b.processor / a.processor for a, b in zip(ours, theirs, strict=True))


def seconds(action: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Median time of an action, by the clock `now`."""
    taken = []
    for _ in range(rounds):
        started = now(device)
        action()
        taken.append(now(device) - started)
    return statistics.median(taken)


def now(device: torch.device) -> float:
    """Seconds: on a GPU when it has done all it was given; on a CPU of processor time, which neither waiting nor others take up."""
    finish(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of a copy within the device's memory."""
    source = torch.ones(COPIED // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * COPIED / seconds(lambda: target.copy_(source), device, 9)
