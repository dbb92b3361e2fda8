"""A run killed with SIGKILL and started again gives the uninterrupted run's losses and weights, to the bit, on two ranks."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from pipeline.checkpoint import latest
from tests.distributed.ranks import ROOT, run_ranks
from tests.toy_log import toy_recipe, write_enriched_toy_log

SETTINGS = {
    "train.global_batch": 32,
    "train.checkpoint_every": 10,
    "train.log_every": 7,
    "model.representations": "{semantic_id: {kind: semantic_id, rows: 97}, own: {kind: individual}}",
}
KILL_AFTER = 30  # steps


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_enriched_toy_log(folder, rows=3010)
    return folder


def test_killed_and_resumed_equals_uninterrupted(workdir: Path) -> None:
    whole = train(workdir)
    kill_in_training(workdir)
    interrupted = latest(run_folder(workdir) / "checkpoints")
    assert interrupted is not None
    assert KILL_AFTER <= int(interrupted.name.removeprefix("step-")) < len(whole["scores"]) // 32
    resumed = train(workdir, expect=f"resumed after step {int(interrupted.name.removeprefix('step-'))}")
    assert np.array_equal(whole["scores"], resumed["scores"])
    assert whole["state"].keys() == resumed["state"].keys()
    for name, tensor in whole["state"].items():
        if name.startswith("metrics/"):  # float64 sums, added up in another order after a resume
            assert torch.allclose(tensor, resumed["state"][name], rtol=1e-12), name
        else:
            assert torch.equal(tensor, resumed["state"][name]), name


def test_one_rank_goes_on_where_two_stopped(workdir: Path) -> None:
    """The batches are the same; sums are rounded in another order."""
    table = {"model.representations": "{semantic_id: {kind: semantic_id, rows: 97}}", "sharding.types": "[row_wise]"}
    first = run_ranks(2, "pipeline.train", "simulated", *sets(workdir, **table, **{"train.train_fraction": 0.4}))
    assert first.returncode == 0, first.stderr[-3000:]
    whole = run_ranks(2, "pipeline.train", "simulated", *sets(copied(workdir), **table))
    assert whole.returncode == 0, whole.stderr[-3000:]
    second = run_ranks(1, "pipeline.train", "simulated", *sets(workdir, **table, ranks=1))
    assert second.returncode == 0, second.stderr[-3000:]
    assert "resumed after step 37" in second.stdout
    resumed, uninterrupted = (scores_of(run_folder(folder)) for folder in (workdir, copied(workdir)))
    assert np.array_equal(resumed[: 37 * 32], uninterrupted[: 37 * 32])
    assert np.allclose(resumed, uninterrupted, atol=1e-4)


def copied(workdir: Path) -> Path:
    """A second workdir with the same inputs."""
    copy = workdir.with_name("copied")
    if not copy.exists():
        shutil.copytree(workdir, copy, ignore=shutil.ignore_patterns("train*"))
    return copy


def train(workdir: Path, expect: str = "trained on") -> dict:
    done = run_ranks(2, "pipeline.train", "simulated", *sets(workdir))
    assert done.returncode == 0, done.stderr[-3000:]
    assert expect in done.stdout
    folder = run_folder(workdir)
    checkpoint = latest(folder / "checkpoints")
    assert checkpoint is not None
    dcp_to_torch_save(checkpoint, folder / "whole.pt")
    result = {
        "scores": scores_of(folder),
        "state": flat(torch.load(folder / "whole.pt", weights_only=False)),
    }
    (workdir / "train").rename(workdir / f"train-{time.monotonic_ns()}")
    return result


def scores_of(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(file) for file in sorted((folder / "scores").glob("*.npy"))])


def run_folder(workdir: Path) -> Path:
    (folder,) = (path.parent for path in workdir.glob("train/*/checkpoints"))
    return folder


def kill_in_training(workdir: Path) -> None:
    """SIGKILL every process of the job as soon as the checkpoint of step KILL_AFTER is published."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "pipeline.train", "simulated"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen([*command, *sets(workdir)], cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(workdir.glob(f"train/*/checkpoints/step-{KILL_AFTER:09d}")):
        assert job.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    while ranks := processes_with(f"workdir={workdir}"):  # torchrun starts them in sessions of their own
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)
        time.sleep(0.05)


def processes_with(argument: str) -> list[int]:
    """Living processes that were started with `argument`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if argument.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def sets(workdir: Path, **changes: object) -> list[str]:
    return [part for text in toy_recipe(workdir, **{**SETTINGS, **changes}) for part in ("--set", text)]


def flat(value: object, prefix: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, dict):
        return {name: tensor for key, item in value.items() for name, tensor in flat(item, f"{prefix}{key}/").items()}
    return {prefix: value} if isinstance(value, torch.Tensor) else {}
