"""SIGKILL at random points: every run, however often it was killed, ends with the uninterrupted run's scores and weights, to the bit.

`python -m tests.soak.kills WORKDIR RANKS KILLS INSIDE`, where WORKDIR has a toy log. INSIDE of the KILLS, at least, strike while a
checkpoint is being written.
"""

import contextlib
import functools
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.soak.jobs import Begun, Job, differences, finish, run_job, scores, state

KILLS_PER_RUN = 5
SYNC_SECONDS = 0.003


def main(workdir: Path, world: int, kills: int, inside: int) -> None:
    """Exit with an assertion where anything differs."""
    chance, whole, begun = random.Random(world), workdir / f"whole-{world}", time.monotonic()
    run_job(world, workdir, whole)
    seconds = time.monotonic() - begun
    expected_scores, expected_state = scores(whole), state(whole)
    struck, in_save, runs = 0, 0, 0
    while struck < kills or in_save < inside:
        root, runs = workdir / f"killed-{world}-{runs}", runs + 1
        for _ in range(KILLS_PER_RUN):
            if struck >= kills and in_save >= inside:
                break
            aim, left = in_save * kills < inside * (struck + 1), saves_begun(root)
            if killed_once(world, workdir, root, chance, seconds, aim_at_save=aim):
                struck += 1
                in_save += bool(saves_begun(root) - left)
        run_job(world, workdir, root)
        assert np.array_equal(scores(root), expected_scores), f"scores differ, see {root}"
        assert not differences(state(root), expected_state), differences(state(root), expected_state)
    print(f"{world} ranks: {struck} kills, {in_save} of them inside a save, in {runs} runs; all bit-identical")


def killed_once(world: int, workdir: Path, root: Path, chance: random.Random, seconds: float, *, aim_at_save: bool) -> bool:
    """Start the run and kill one rank and then the others, once the training has begun; False if it ended before that."""
    left = saves_begun(root)
    job = Job(world, functools.partial(finish_on_a_slow_disk, workdir, root))
    job.wait_until_ready()
    if aim_at_save:
        wait_for_saves(root, left, chance.randint(1, 3))
        time.sleep(chance.uniform(0, 0.03))
    else:
        time.sleep(chance.uniform(0, seconds))
    job.kill(chance.randrange(world))
    codes = set(job.wait())
    assert codes <= {0, -signal.SIGKILL}, codes
    return codes != {0}


def finish_on_a_slow_disk(workdir: Path, root: Path, begun: Begun) -> None:
    """What each rank does: a save takes long enough to be hit, wherever it is written."""
    sync = os.fsync

    def slow(descriptor: Any) -> None:
        time.sleep(SYNC_SECONDS)
        sync(descriptor)

    with mock.patch.object(os, "fsync", slow):
        finish(workdir, root, None, {}, begun)


def saves_begun(root: Path) -> set[tuple[Path, int]]:
    """Unfinished checkpoints, of a save that runs or that a kill cut off, and when each last changed."""
    found = set()
    for path in root.glob("*/checkpoints/.step-*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path, path.stat().st_ctime_ns))
    return found


def wait_for_saves(root: Path, left: set[tuple[Path, int]], count: int) -> None:
    """Until a save has begun or gone on so many times."""
    seen, deadline = left | set(), time.monotonic() + 5
    while len(seen) < len(left) + count and time.monotonic() < deadline:
        seen |= saves_begun(root)
        time.sleep(0.0005)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:]))
