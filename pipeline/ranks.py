"""The ranks of a distributed stage: joining them, and doing on rank 0 what only one may do."""

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
    _quiet_libraries()
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    if "RANK" not in os.environ:
        os.environ.update(alone)
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return device


def on_rank_zero(action: Callable[[], T]) -> T:
    """Run on rank 0 while the others wait; its result is returned, or its error raised, on every rank, so that none hangs."""
    outcome: list[Any] = [None, None]  # the error, the result
    if dist.get_rank() == 0:
        try:
            outcome[1] = action()
        except Exception as error:  # whatever it is, it is raised again below, on every rank
            outcome[0] = error
    dist.broadcast_object_list(outcome)
    if outcome[0] is not None:
        raise outcome[0]
    result: T = outcome[1]
    return result


def _quiet_libraries() -> None:
    """Drop notices of torch and torchrec about each other's internals, which no user of ours can act on."""
    for module in (r"torch\.", r"torchrec\.", r"pipeline\.checkpoint"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    for name in ("torchrec.distributed.planner", "torch.fx"):
        logging.getLogger(name).setLevel(logging.ERROR)
