"""Tasks on processes: order, errors in one line, nothing left behind however it ends, and a killed reproduction goes on to the bit."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from features.errors import InputError
from launch.chain import ROOT
from pipeline.reproduce import runs
from pipeline.reproduce.core import represented
from pipeline.reproduce.runs import TaskFailed, Workers, duration, progress
from pipeline.reproduce.study import Study
from pipeline.reproduce.tasks import alone
from pipeline.reproduce.world import Variant
from tests.unit.toy_study import ROWS, toy_world
from tests.unit.toy_tasks import Toy

SETTINGS = {"train.global_batch": 512, "train.checkpoint_every": 3, "train.log_every": 100}


def test_what_is_not_done_is_done_once_costliest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [Toy("small", tmp_path), Toy("large", tmp_path, cost=3.0), Toy("middle", tmp_path, cost=2.0), Toy("there", tmp_path)]
    (tmp_path / "there").touch()
    with Workers(1, tmp_path / "logs") as workers:
        workers.perform("toys", tasks)
        assert capsys.readouterr().out.splitlines()[0] == "toys: 3 to do"
        workers.perform("toys", tasks)
        assert capsys.readouterr().out == "toys: up to date\n"
        workers.perform("none", [])
        assert capsys.readouterr().out == ""
    assert (tmp_path / ".order").read_text().split() == ["large", "middle", "small"]
    (log,) = (tmp_path / "logs").iterdir()
    assert log.read_text().splitlines() == ["--- large", "--- middle", "--- small"]
    assert gone(tmp_path / "small")


@pytest.mark.parametrize(
    ("does", "error", "told"),
    [
        ("fail", InputError, r"bad: file\.csv: row 3 has no date"),
        ("break", TaskFailed, r"bad: Awkward: 1 and 2 \(more in .*/\d+\.log\)"),
        ("die", TaskFailed, r"toys: a process was killed, most likely for want of memory: .* --processes; .* \(logs in .*/logs\)"),
    ],
)
def test_a_failing_task_ends_the_others_and_is_told_in_one_line(tmp_path: Path, does: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=f"^{told}$"), Workers(2, tmp_path / "logs") as workers:
        workers.perform("toys", [Toy("waiting", tmp_path, "wait"), Toy("bad", tmp_path, does), Toy("never", tmp_path, "wait")])
    assert gone(tmp_path / "bad")
    assert not (tmp_path / "waiting").exists() or gone(tmp_path / "waiting")
    if does == "break":
        assert any("Traceback" in log.read_text() for log in (tmp_path / "logs").iterdir())


DRIVER = """
import sys
from pathlib import Path
from pipeline.reproduce.runs import Workers, stoppable
from tests.unit.toy_tasks import Toy
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with stoppable(), Workers(2, folder / "logs") as workers:
        workers.perform("toys", [Toy(name, folder, "wait") for name in ("one", "two")])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_command(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until(lambda: all((tmp_path / name).exists() for name in ("one", "two")))
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert all(gone(tmp_path / name) for name in ("one", "two"))
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert errors.splitlines()[-1] == "pipeline.preemption.Preempted: stopped; the same command goes on from here"


def study_of(root: Path) -> Study:
    """Two variants and two seeds, one variant with a probe that can be held."""
    tables = {"semantic_id": {"semantic_id": {"kind": "semantic_id"}}, "random_hash": {"random_hash": {"kind": "random_hash"}}}
    held = Variant("semantic_id", represented("", tables["semantic_id"]).settings, probes=("tests.unit.toy_tasks:probe_held",))
    return Study(toy_world(root, SETTINGS), [held, represented("random_hash", tables["random_hash"])], (0, 1))


TRAIN = """
import sys
from pathlib import Path
from pipeline.reproduce.runs import Workers
from tests.unit.test_reproduce_runs import SETTINGS, study_of
if __name__ == "__main__":
    processes, *roots = sys.argv[1:]
    with Workers(int(processes), Path(roots[0]) / "logs") as workers:
        workers.perform("rankers", [task for root in roots for task in study_of(Path(root)).tasks()])
"""


@pytest.mark.slow
def test_a_killed_reproduction_goes_on_and_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Killed for sure while one training has trained and not yet scored; wherever the other is then."""
    whole, killed = study_of(tmp_path / "whole"), study_of(tmp_path / "killed")
    hold = killed.world.folder / "own" / "hold"
    hold.touch()
    process = subprocess.Popen([sys.executable, "-c", TRAIN, "2", str(tmp_path / "killed")], cwd=ROOT)
    until(lambda: any(hold.parent.glob("held-*")))
    process.kill()
    process.wait()
    until(lambda: not any(running(log.stem) for log in (tmp_path / "killed" / "logs").iterdir()))
    unfinished = [task for task in killed.tasks() if not task.is_done()]
    assert unfinished
    assert any(list(task.results.parent.glob(f".{task.results.name}.tmp/trainer/*/checkpoints/*")) for task in unfinished)
    hold.unlink()
    both = [sys.executable, "-c", TRAIN, "1", str(tmp_path / "whole"), str(tmp_path / "killed")]
    subprocess.run(both, cwd=ROOT, check=True, capture_output=True)
    for mine, theirs in zip(killed.tasks(), whole.tasks(), strict=True):
        assert mine.results.name == theirs.results.name
        names = sorted(path.name for path in theirs.results.iterdir())
        assert names == sorted(path.name for path in mine.results.iterdir())
        assert names == ["about.json", "frozen.npy", *(["probe_held.npz"] if theirs.variant == "semantic_id" else []), "stream.npy"]
        for name in names[1:]:
            assert (mine.results / name).read_bytes() == (theirs.results / name).read_bytes(), name
    assert not list(killed.world.folder.glob("runs/.*.tmp"))
    assert killed.scores("semantic_id", "stream").shape == (2, ROWS - ROWS // 2)
    assert [int(found["step"][0]) for found in killed.probed("semantic_id", "probe_held")] == [killed.train_rows // 512] * 2
    assert np.ptp(killed.scores("semantic_id", "frozen"), axis=0).max() > 0  # two seeds are two models


def test_one_reproduction_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "folder" / ".lock"
    with alone(lock, wait=False) as first, alone(lock, wait=False) as second:
        assert (first, second) == (True, False)
    with alone(lock, wait=True) as third:
        assert third


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (90061, "25 h 01 min"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_time_left_is_that_of_the_work_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [100.0]
    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])
    with progress("rankers", 4, 10.0) as advance:
        for cost, gone in ((4.0, 60), (3.0, 60), (2.0, 20), (1.0, 20)):
            clock[0] += gone
            advance(cost)
    assert capsys.readouterr().out.splitlines() == [
        "rankers: 4 to do",
        "rankers: 1 of 4 after 1 min 00 s, about 1 min 30 s left",
        "rankers: 2 of 4 after 2 min 00 s, about 51 s left",
        "rankers: 3 of 4 after 2 min 20 s, about 16 s left",
        "rankers: 4 of 4 after 2 min 40 s",
    ]


def test_many_tasks_are_told_of_in_tenths(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("rankers", 200, 200.0) as advance:
        for _ in range(200):
            advance(1.0)
    assert len(capsys.readouterr().out.splitlines()) == 11


def until(holds: Callable[[], bool]) -> None:
    """Wait; pytest's own limit ends what never comes."""
    while not holds():
        time.sleep(0.01)


def gone(file: Path) -> bool:
    """Whether the process whose number is in the file has ended; a moment is allowed, since the kernel clears up after the last of it."""
    number = file.read_text()
    for _ in range(3000):
        if not running(number):
            return True
        time.sleep(0.01)
    return False


def running(number: str) -> bool:
    """Whether there is such a process, other than one that has ended and was not asked for yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
