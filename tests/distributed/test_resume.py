"""Jobs under torchrun on two ranks: a killed rank, a killed job and SIGTERM all end with the uninterrupted run's scores and weights."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from launch.components import TORCHRUN_ENV
from pipeline.checkpoint import latest
from pipeline.preemption import RESUME_ME
from tests.distributed.ranks import ROOT, run_ranks
from tests.soak.jobs import SETTINGS, differences, scores, state
from tests.toy_log import toy_recipe, write_enriched_toy_log

STEPS = 188


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_enriched_toy_log(folder, rows=STEPS * 32 + 10)
    return folder


@pytest.fixture(scope="module")
def whole(log: Path) -> Path:
    """The folder of the uninterrupted run."""
    done = run_ranks(2, "pipeline.train", "simulated", *sets(log))
    assert done.returncode == 0, done.stderr[-3000:]
    return (log / "train").rename(log / "whole")


@pytest.fixture
def workdir(log: Path, tmp_path: Path) -> Path:
    """The log once more, without a run."""
    return shutil.copytree(log, tmp_path / "log", ignore=shutil.ignore_patterns("train", "whole"))


def test_a_job_whose_rank_and_then_the_rest_is_killed_goes_on_unaided(workdir: Path, whole: Path) -> None:
    with Submitted(workdir, restarts=1) as job:
        job.wait_for_step(30)
        job.kill_rank(1)
        job.wait_for_step(70)
        job.kill_all()
        restarted = job.output()
    assert "resumed after step" in restarted, "torchrun's restart has begun anew"
    with Submitted(workdir) as job:
        assert job.process.wait() == 0
        assert "resumed after step" in job.output()
    assert_same(workdir, whole)


def test_sigterm_saves_and_says_resume_me(workdir: Path, whole: Path) -> None:
    with Submitted(workdir) as job:  # one rank is told
        job.wait_for_step(30)
        os.kill(job.rank(1), signal.SIGTERM)
        assert job.process.wait() == 1, "torchrun's own, whatever a rank's"
        error = json.loads(job.error_file.read_text())["message"]
        stopped = newest_step(workdir)
        assert error["errorCode"] == RESUME_ME == 75
        assert error["message"] == f"semid train: stopped by SIGTERM after step {stopped}; run it again to go on from there"
    with Submitted(workdir, workers=1) as job:  # torchrun is told, as schedulers do, and tells all processes of each rank
        job.wait_for_loader()
        job.process.terminate()
        job.process.wait()
        assert f"resumed after step {stopped}" in job.output()
        stopped = newest_step(workdir)
        assert f"stopped by SIGTERM after step {stopped}" in job.output()
        assert stopped < STEPS
    with Submitted(workdir) as job:
        assert job.process.wait() == 0
        assert f"resumed after step {stopped}" in job.output()
    assert_same(workdir, whole)


def test_a_rank_by_itself_exits_with_75(workdir: Path) -> None:
    command = [sys.executable, "-m", "pipeline.train", "simulated", *sets(workdir), "--set", "ranks=1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while newest_step(workdir) < 10:
            assert process.poll() is None
            time.sleep(0.005)
        process.terminate()
        _, error = process.communicate()
    assert process.returncode == RESUME_ME
    assert error.splitlines()[-1].startswith("semid train: stopped by SIGTERM after step ")


def assert_same(workdir: Path, whole: Path) -> None:
    run = workdir / "train"
    assert len(scores(run)) == STEPS * 32
    assert np.array_equal(scores(run), scores(whole))
    assert not differences(state(run), state(whole))


class Submitted:
    """A job under torchrun; nothing of it is left at the end."""

    def __init__(self, workdir: Path, *, restarts: int = 0, workers: int = 0) -> None:
        self._workdir, self._out = workdir, workdir / f"job-{time.monotonic_ns()}.txt"
        self.error_file = self._out.with_suffix(".json")
        torchrun = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", f"--max-restarts={restarts}"]
        places = {**TORCHRUN_ENV, "PYTHONPATH": str(ROOT), "TORCHELASTIC_ERROR_FILE": str(self.error_file)}
        with self._out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *torchrun, "-m", "pipeline.train", "simulated", *sets(workdir), "--set", f"train.workers={workers}"],
                cwd=ROOT,
                env={**os.environ, **places},
                start_new_session=True,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> "Submitted":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill_all()

    def output(self) -> str:
        """What all ranks and torchrun have printed."""
        return self._out.read_text()

    def wait_for_step(self, step: int) -> None:
        """Until the checkpoint of that step or a later one is published."""
        while newest_step(self._workdir) < step:
            assert self.process.poll() is None, f"the job ended before it could be killed: {self.output()[-3000:]}"
            time.sleep(0.005)

    def wait_for_loader(self) -> None:
        """Until a rank has started a loader process, which has then not yet begun."""
        while not any(_children(pid) for pid, _ in self._processes()):
            assert self.process.poll() is None, f"the job ended before it could be told to: {self.output()[-3000:]}"
            time.sleep(0.001)

    def rank(self, number: int) -> int:
        """Its process id."""
        (pid,) = (pid for pid, environment in self._processes() if f"RANK={number}".encode() in environment)
        return pid

    def kill_rank(self, number: int) -> None:
        """SIGKILL."""
        os.kill(self.rank(number), signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL torchrun and then the ranks, which it has started in sessions of their own."""
        self.process.kill()
        self.process.wait()
        while left := self._processes():
            for pid, _ in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def _processes(self) -> list[tuple[int, list[bytes]]]:
        """Process id and environment of the ranks."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"workdir={self._workdir}".encode() in (process / "cmdline").read_bytes().split(b"\0"):
                    environment = (process / "environ").read_bytes().split(b"\0")
                    if any(variable.startswith(b"LOCAL_RANK=") for variable in environment):
                        found.append((int(process.name), environment))
        return found


def _children(pid: int) -> list[str]:
    """Spawned by a rank, multiprocessing's tracker apart."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [child for child in task.read_text().split() if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return found


def newest_step(workdir: Path) -> int:
    """The newest published checkpoint's; 0 without one."""
    paths = [latest(folder) for folder in workdir.glob("train/*/checkpoints")]
    return max((int(path.name.removeprefix("step-")) for path in paths if path), default=0)


def sets(workdir: Path) -> list[str]:
    settings = {**SETTINGS, "train.checkpoint_every": 10, "train.train_fraction": 1.0}
    return [part for text in toy_recipe(workdir, **settings) for part in ("--set", text)]
