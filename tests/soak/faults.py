"""A fault at each write, fsync, rename, mkdir and unlink of a publish: the newest checkpoint is then the old or the new one, and whole.

`python -m tests.soak.faults WORKDIR STRIDE`, where WORKDIR has a toy log: at every STRIDE-th such call a process dies, or the call fails
on one of two ranks, until a publish goes through.
"""

import errno
import functools
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch.distributed as dist

from features.errors import InputError
from pipeline.checkpoint import latest
from tests.soak.jobs import Begun, Job, differences, run_job, scores, state, trainer

BATCH, OLD, NEW = 32, 6, 9  # steps of the two checkpoints
DIED, FAILED = 9, 8  # exit codes
CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")
MKDIR = os.mkdir  # of a folder that is there already, it fails anyway
KEEP_ONE: dict[str, object] = {"train.keep_checkpoints": 1}


class Fault:
    """Strikes at the n-th change of files below `folder`: ends this process, half of a write being done, or makes the call fail."""

    def __init__(self, folder: Path, number: int, *, deadly: bool) -> None:
        self._folder, self._left, self._deadly = str(folder), number, deadly

    def arm(self) -> None:
        """From now on."""
        for name in CALLS:
            setattr(os, name, functools.partial(self._call, getattr(os, name)))
        io.open = functools.partial(self._open, io.open)

    def comes(self, target: Any) -> bool:
        """Count a change, of a path or a file descriptor."""
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        self._left -= path.startswith(self._folder)
        return self._left == 0 and path.startswith(self._folder)

    def strike(self) -> NoReturn:
        """Die, or raise what a full or broken disk raises."""
        if self._deadly:
            os._exit(DIED)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _call(self, real: Callable[..., Any], target: Any, *arguments: Any, **options: Any) -> Any:
        folder = options.get("dir_fd")  # names are then within it
        if not (real is MKDIR and os.path.isdir(target)) and self.comes(target if folder is None else folder):
            self.strike()
        return real(target, *arguments, **options)

    def _open(self, real: Callable[..., Any], path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "wb" and str(path).startswith(self._folder):
            return io.BufferedWriter(_FaultyFile(self, path))
        return real(path, mode, *arguments, **options)


class _FaultyFile(io.FileIO):
    def __init__(self, fault: Fault, path: Any) -> None:
        super().__init__(path, "wb")
        self._fault, self._path = fault, path

    def write(self, data: Any) -> int:
        if self._fault.comes(self._path):
            super().write(memoryview(data).cast("B")[: len(data) // 2])
            self._fault.strike()
        return super().write(data)


def main(workdir: Path, stride: int) -> None:
    """Exit with an assertion where a checkpoint is lost, half there, or goes on otherwise."""
    failed = workdir / "failed"
    assert Job(2, functools.partial(fail_on_all_ranks, workdir, failed)).wait() == [0, 0]
    steps = {int((failed / rank).read_text()) for rank in "01"}
    assert len(steps) == 1, steps
    assert 20 < min(steps) < 39, "it was the next save, or the end, that told of it"
    at_each_call(workdir, stride, [DIED])
    at_each_call(workdir, stride, [FAILED])
    at_each_call(workdir, stride, [FAILED, FAILED])


def at_each_call(workdir: Path, stride: int, codes: list[int]) -> None:
    """Let a fault strike at every `stride`-th call of the last of so many ranks, which all end with those codes."""
    world, kind = len(codes), "deaths" if DIED in codes else f"failures-on-rank-{len(codes) - 1}"
    base, whole = (workdir / f"{kind}-{name}" for name in ("before", "after"))
    run_job(world, workdir, base, KEEP_ONE, rows=OLD * BATCH)
    shutil.copytree(base, whole)
    run_job(world, workdir, whole, KEEP_ONE, rows=NEW * BATCH)
    newest, number, struck = [], 1, True
    while struck:
        root = workdir / f"{kind}-{number}"
        shutil.copytree(base, root)
        ended = Job(world, functools.partial(save_with_a_fault, workdir, root, number, deadly=DIED in codes)).wait()
        assert ended in (codes, [0] * world), ended
        struck = ended == codes
        (checkpoints,) = root.glob("*/checkpoints")
        found = latest(checkpoints)
        assert found is not None
        newest.append(int(found.name.removeprefix("step-")))
        run_job(world, workdir, root, KEEP_ONE, rows=NEW * BATCH)
        assert np.array_equal(scores(root), scores(whole))
        assert not differences(state(root), state(whole))
        assert not list(checkpoints.glob(".*")) or newest[-1] == NEW  # the next save clears what a fault has left
        number += stride
    assert sorted(newest) == newest, newest
    assert set(newest) == {OLD, NEW}, newest
    left = newest[:-1].count(OLD)
    print(f"{len(newest) - 1} {kind}, the last in call {number - 2 * stride}: {left} left the old checkpoint, the others the new one")


def fail_on_all_ranks(workdir: Path, root: Path, begun: Begun) -> None:
    """Rank 0 cannot make its folder: every rank hears of it, at the same step, and not only at the next save."""
    run = trainer(workdir, root, **{"train.checkpoint_every": 20})
    run.train(10 * BATCH)
    if os.environ["RANK"] == "0":
        shutil.rmtree(run.checkpoints)
        run.checkpoints.write_text("no folder")
    try:
        run.train(39 * BATCH)
    except InputError as error:
        assert "checkpoints" in str(error), error
        (root / os.environ["RANK"]).write_text(str(run.step))
        return
    raise AssertionError("nothing was raised")


def save_with_a_fault(workdir: Path, root: Path, number: int, begun: Begun, *, deadly: bool) -> None:
    """Go on from the old checkpoint; the fault comes at the n-th change of the files of the new one, on the last rank."""
    run = trainer(workdir, root, **KEEP_ONE)
    assert run.resume()
    assert run.step == OLD
    if dist.get_rank() == dist.get_world_size() - 1:
        Fault(run.folder, number, deadly=deadly).arm()
    try:
        run.train(NEW * BATCH)
    except InputError as error:
        assert any(words in str(error) for words in ("Input/output error", "the disk is full or fails")), error
        os._exit(FAILED)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
