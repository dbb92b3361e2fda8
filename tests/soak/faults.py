"""A fault at each write, fsync, rename, mkdir and unlink of a publish: the newest checkpoint is then the old or the new one, and whole.

`python -m tests.soak.faults WORKDIR STRIDE`, where WORKDIR has a toy log; at every STRIDE-th such call a process dies, until one lives.
"""

import functools
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import InputError
from pipeline.checkpoint import latest
from tests.soak.jobs import Begun, Job, differences, run_job, scores, state, trainer

BATCH, OLD, NEW = 32, 6, 9  # steps of the two checkpoints
DIED = 9
CALLS = ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")
KEEP_ONE: dict[str, object] = {"train.keep_checkpoints": 1}


class Death:
    """Ends this process at the n-th change of files below `folder`, half of a write being done."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder, self._left = str(folder), number

    def arm(self) -> None:
        """From now on."""
        for name in CALLS:
            setattr(os, name, functools.partial(self._call, getattr(os, name)))
        io.open = functools.partial(self._open, io.open)

    def strikes(self, target: Any) -> bool:
        """Count a change, of a path or a file descriptor."""
        path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        self._left -= path.startswith(self._folder)
        return self._left == 0

    def _call(self, real: Callable[..., Any], target: Any, *arguments: Any, **options: Any) -> Any:
        folder = options.get("dir_fd")  # names are then within it
        if self.strikes(target if folder is None else folder):
            os._exit(DIED)
        return real(target, *arguments, **options)

    def _open(self, real: Callable[..., Any], path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "wb" and str(path).startswith(self._folder):
            return io.BufferedWriter(_DyingFile(self, path))
        return real(path, mode, *arguments, **options)


class _DyingFile(io.FileIO):
    def __init__(self, death: Death, path: Any) -> None:
        super().__init__(path, "wb")
        self._death, self._path = death, path

    def write(self, data: Any) -> int:
        if self._death.strikes(self._path):
            super().write(memoryview(data).cast("B")[: len(data) // 2])
            os._exit(DIED)
        return super().write(data)


def main(workdir: Path, stride: int) -> None:
    """Exit with an assertion where a checkpoint is lost, half there, or goes on otherwise."""
    failed = workdir / "failed"
    assert Job(2, functools.partial(fail_on_all_ranks, workdir, failed)).wait() == [0, 0]
    steps = {int((failed / rank).read_text()) for rank in "01"}
    assert len(steps) == 1, steps
    assert 20 < min(steps) < 39, "it was the next save, or the end, that told of it"
    base, whole = workdir / "before", workdir / "after"
    run_job(1, workdir, base, KEEP_ONE, rows=OLD * BATCH)
    shutil.copytree(base, whole)
    run_job(1, workdir, whole, KEEP_ONE, rows=NEW * BATCH)
    newest, number, died = [], 1, True
    while died:
        root = workdir / f"fault-{number}"
        shutil.copytree(base, root)
        (code,) = Job(1, functools.partial(die_in_save, workdir, root, number)).wait()
        assert code in (0, DIED), code
        died = code == DIED
        (checkpoints,) = root.glob("*/checkpoints")
        found = latest(checkpoints)
        assert found is not None
        newest.append(int(found.name.removeprefix("step-")))
        run_job(1, workdir, root, KEEP_ONE, rows=NEW * BATCH)
        assert np.array_equal(scores(root), scores(whole))
        assert not differences(state(root), state(whole))
        assert not list(checkpoints.glob(".*")) or newest[-1] == NEW  # the next save clears what a fault has left
        number += stride
    assert sorted(newest) == newest, newest
    assert set(newest) == {OLD, NEW}, newest
    left = newest[:-1].count(OLD)
    print(f"{len(newest) - 1} faults, the last in call {number - 2 * stride}: {left} left the old checkpoint, the others the new one")


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


def die_in_save(workdir: Path, root: Path, number: int, begun: Begun) -> None:
    """Go on from the old checkpoint and die at the n-th change of the files of the new one."""
    run = trainer(workdir, root, **KEEP_ONE)
    assert run.resume()
    assert run.step == OLD
    Death(run.folder, number).arm()
    run.train(NEW * BATCH)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
