"""Training jobs as forked processes: the libraries are imported once, and every rank is a process of its own that can be killed.

A program that uses this imports them and does nothing else itself, since only a process without threads may fork.
"""

import contextlib
import functools
import os
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from pipeline import recipe as recipes
from pipeline.checkpoint import latest
from pipeline.ranks import start_process_group
from pipeline.trainer import Trainer
from tests.toy_log import toy_recipe

Begun = Callable[[], object]  # called when the work that may be interrupted begins
SETTINGS: dict[str, object] = {
    "train.global_batch": 32,
    "train.checkpoint_every": 6,
    "train.log_every": 7,
    "model.representations": "{semantic_id: {kind: semantic_id, rows: 97}, own: {kind: individual}}",
}


class Job:
    """The ranks of one job, forked from this process.

    Args:
        world: number of ranks.
        work: what each rank does.
    """

    def __init__(self, world: int, work: Callable[[Begun], None]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._ready, ready = os.pipe()
        self.pids = []
        for rank in range(world):
            pid = os.fork()
            if pid == 0:
                _be_rank(rank, world, port, work, ready)
            self.pids.append(pid)
        os.close(ready)

    def wait_until_ready(self) -> None:
        """Until rank 0 has begun the work, or died before that."""
        os.read(self._ready, 1)

    def kill(self, rank: int) -> None:
        """SIGKILL that rank, and then those that it leaves behind."""
        for pid in [self.pids[rank], *self.pids]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self) -> list[int]:
        """Exit codes by rank, negative after a signal."""
        os.close(self._ready)
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]


def _be_rank(rank: int, world: int, port: int, work: Callable[[Begun], None], ready: int) -> None:
    code = 1
    try:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        work(functools.partial(os.write, ready, b"."))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def trainer(workdir: Path, root: Path, **changes: object) -> Trainer:
    """A run in this process's rank."""
    config = recipes.load("simulated", toy_recipe(workdir, **{**SETTINGS, **changes}))
    return Trainer(config, root, start_process_group(), quiet=True)


def run_job(world: int, workdir: Path, root: Path, changes: dict[str, object] | None = None, *, rows: int | None = None) -> None:
    """Take up the run below `root` where it stands, on so many ranks, and train it to the end or to so many rows."""
    codes = Job(world, functools.partial(finish, workdir, root, rows, changes or {})).wait()
    assert codes == [0] * world, codes


def finish(workdir: Path, root: Path, rows: int | None, changes: dict[str, object], begun: Begun) -> None:
    """What each rank of such a job does."""
    run = trainer(workdir, root, **changes)
    run.resume()
    begun()
    run.train(rows or run.rows)
    run.close()


def scores(root: Path) -> np.ndarray:
    """The scores of the one run below `root`, of whole steps."""
    return np.concatenate([np.load(file) for file in sorted(root.glob("*/scores/*.npy"))])


def state(root: Path) -> dict[str, torch.Tensor]:
    """All tensors of its newest checkpoint, put together from the shards; without the metrics, whose sums depend on where a run stopped."""
    (folder,) = root.glob("*/checkpoints")
    path = latest(folder)
    assert path is not None
    whole = root / "whole.pt"
    dcp_to_torch_save(path, whole)
    return {name: tensor for name, tensor in _flat(torch.load(whole, weights_only=False)).items() if not name.startswith("metrics/")}


def differences(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of tensors that only one has, or that are not the same to the bit."""
    return [name for name in one.keys() | other.keys() if name not in one or name not in other or not torch.equal(one[name], other[name])]


def _flat(value: object, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, dict):
        return {name: tensor for key, item in value.items() for name, tensor in _flat(item, f"{prefix}{key}/").items()}
    return {prefix: value} if isinstance(value, torch.Tensor) else {}
