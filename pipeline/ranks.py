"""The ranks of a distributed stage: joining them, and the few things that they must do or know together."""

import datetime
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
TIMEOUT = datetime.timedelta(minutes=10)  # a rank that waits longer than this has lost the others


def start_process_group() -> torch.device:
    """Join the ranks that torchrun started, or form a group of one; returns this rank's device."""
    quiet_libraries()
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if "RANK" not in os.environ:
        os.environ.update(alone)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return device


def on_rank_zero(action: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """Run on rank 0 while the others wait; its result is returned, or its error raised, on every rank, so that none hangs.

    Args:
        action: what only one may do.
        group: of all ranks; another than the default one for use beside the steps, in another thread.
    """
    outcome: list[Any] = [_attempt(action) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(outcome, group=group)
    (error, result) = outcome[0]
    if error is not None:
        raise error
    taken: T = result
    return taken


def on_every_rank(action: Callable[[], T], group: dist.ProcessGroup | None = None) -> list[T]:
    """Run on every rank; the results in the order of the ranks are returned, or the first error raised, on every rank."""
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, _attempt(action), group)
    for error, _ in outcomes:
        if error is not None:
            raise error
    return [result for _, result in outcomes]


class AnyRank:
    """Tells all ranks, at the same step, what is so on any one of them.

    The answer to what is asked at one step is read at the next: the exchange, of a few bytes between the hosts, runs beside the step,
    and no rank waits for it longer than for the step itself.
    """

    def __init__(self, questions: int) -> None:
        """Args: how many things are asked at each step. A collective call."""
        self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self._answer = torch.zeros(questions, dtype=torch.int32)
        self._work: dist.Work | None = None

    def ask(self, *mine: bool) -> tuple[bool, ...]:
        """Say what is so on this rank, and hear what was so on any at the call before this one, first of all nothing; a collective call."""
        if self._work is not None:
            self._work.wait()
        answer = tuple(map(bool, self._answer.tolist()))
        self._answer = torch.tensor(mine, dtype=torch.int32)
        self._work = dist.all_reduce(self._answer, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return answer

    def close(self) -> None:
        """Leave the group; the other ranks must do so too."""
        if self._work is not None:
            self._work.wait()
        dist.destroy_process_group(self._group)


def _attempt(action: Callable[[], T]) -> tuple[Exception | None, T | None]:
    try:
        return None, action()
    except Exception as error:  # whatever it is, it is raised again, on every rank
        return error, None


def quiet_libraries() -> None:
    """Drop notices of torch and torchrec about each other's internals, which no user of ours can act on."""
    for module in (r"torch\.", r"torchrec\.", r"models\.", r"pipeline\.(checkpoint|saver|warm_start)"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    for name in ("torchrec.distributed.planner", "torchrec.distributed.comm", "torchrec.distributed.utils", "torch.fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Of data-parallel tables, which have no sharding spec; tests/distributed/test_sharded.py shows that their gradients are right.
    logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("Sharding spec not found for "))
    warnings.filterwarnings("ignore", "fbgemm::dense_embedding_codegen_lookup_function: an autograd kernel was not registered")
