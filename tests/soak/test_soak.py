"""Kills, faults, changes of ranks and plans: few of each in CI, all of them with `make soak`, which sets SOAK=all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.ranks import ROOT
from tests.toy_log import write_enriched_toy_log

ALL = os.environ.get("SOAK") == "all"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak")
    write_enriched_toy_log(folder, rows=1009)
    return folder


def soak(log: Path, program: str, *arguments: str) -> str:
    """Run a program of this folder on its own copy of the log; what it printed last."""
    workdir = log.with_name(f"{program}-{'-'.join(arguments)}")
    shutil.copytree(log, workdir)
    command = [sys.executable, "-W", "ignore", "-m", f"tests.soak.{program}", str(workdir), *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
    shutil.rmtree(workdir)
    print(done.stdout)
    return done.stdout


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_killed_runs_end_as_if_nothing_had_happened(log: Path, ranks: str) -> None:
    assert "all bit-identical" in soak(log, "kills", ranks, *(("50", "20") if ALL else ("3", "2")))


def test_a_fault_at_any_call_of_a_publish_leaves_the_old_or_the_new_checkpoint(log: Path) -> None:
    assert soak(log, "faults", "1" if ALL else "17").count("left the old checkpoint") == 3


def test_ranks_and_plan_may_change_on_the_way(log: Path) -> None:
    assert "all bit-equal" in soak(log, "plans", "all" if ALL else "some")


def test_every_row_once_whatever_the_ranks_and_workers(log: Path) -> None:
    assert "once each" in soak(log, "exactly_once", *(("2x0", "4x0", "1x2", "2x2", "4x2") if ALL else ("4x0", "2x2")))
