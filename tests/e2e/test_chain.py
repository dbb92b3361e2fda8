"""The chain on real TorchX and torchrun processes: output, exit codes, last words, and that nothing outlives a cancelled stage."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torchx import specs

from launch.chain import ROOT, Chain, StageFailed

TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
TORCHRUN += ["--local-addr=localhost", "--tee=3", "--local-ranks-filter=0"]

FAIL_AS_STAGE = """
import sys
from pipeline import cli, recipe
from features.errors import InputError

def load(*arguments):
    raise InputError("items.parquet: column 'item_id' is missing")

recipe.load = load
sys.exit(cli.main(["recipe"], stage="train"))
"""


def one_process(code: str, *arguments: str) -> specs.AppDef:
    role = specs.Role(name="embed", image="", entrypoint=sys.executable, args=["-c", code, *arguments])
    return specs.AppDef(name="embed", roles=[role])


def two_ranks(script: Path) -> specs.AppDef:
    arguments = [*TORCHRUN, "--role=train", str(script)]
    role = specs.Role(
        name="train", image="", entrypoint=sys.executable, args=arguments, port_map={"c10d": 29500}, env={"OMP_NUM_THREADS": "1"}
    )
    return specs.AppDef(name="train", roles=[role])


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_stages_run_in_turn_and_their_lines_carry_the_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Chain(tmp_path / "logs") as chain:
        first = chain.run(
            one_process("import sys, time; print('one'); time.sleep(0.3); print('two'); print('last', end='', file=sys.stderr)")
        )
        second = chain.run(one_process("print('three')"))
    out, err = capfd.readouterr()
    assert out == "   embed | one\n   embed | two\n   embed | three\n"
    assert err == "   embed | last\n"
    assert first > 0.3
    assert second > 0


def test_output_is_shown_while_the_stage_runs(tmp_path: Path) -> None:
    driver = (
        "import sys; from pathlib import Path; from torchx import specs; from launch.chain import Chain\n"
        "code = 'import time; print(1); time.sleep(60)'\n"
        "role = specs.Role(name='embed', image='', entrypoint=sys.executable, args=['-c', code])\n"
        "with Chain(Path(sys.argv[1])) as chain: chain.run(specs.AppDef(name='embed', roles=[role]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", driver, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "   embed | 1\n"
    process.send_signal(signal.SIGINT)
    process.wait(timeout=20)
    process.stdout.close()


def test_packages_come_from_this_repository_whatever_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with Chain(Path("logs")) as chain:
        chain.run(one_process("import os, features; print(features.__file__); print(os.getcwd())"))
    assert capfd.readouterr().out == f"   embed | {ROOT / 'features' / '__init__.py'}\n   embed | {tmp_path}\n"


def test_a_crash_gives_the_exit_code_the_last_words_and_the_log(tmp_path: Path) -> None:
    with Chain(tmp_path) as chain, pytest.raises(StageFailed) as failure:
        chain.run(one_process("raise KeyError('lost')"))
    assert (failure.value.stage, failure.value.exit_code, failure.value.message) == ("embed", 1, "KeyError: 'lost'")
    assert "Traceback" in (failure.value.logs / "embed" / "0" / "stderr.log").read_text()


def test_death_by_a_signal_is_told_as_a_shell_tells_it(tmp_path: Path) -> None:
    with Chain(tmp_path) as chain, pytest.raises(StageFailed) as failure:
        chain.run(one_process("import os; os.kill(os.getpid(), 9)"))
    assert failure.value.exit_code == 128 + 9
    assert failure.value.message == "failed without a word"


def test_user_error_of_one_process_keeps_exit_code_2_and_its_line(tmp_path: Path) -> None:
    with Chain(tmp_path) as chain, pytest.raises(StageFailed) as failure:
        chain.run(one_process(FAIL_AS_STAGE))
    assert failure.value.exit_code == 2
    assert failure.value.message == "semid train: items.parquet: column 'item_id' is missing"


def test_user_error_under_torchrun_keeps_exit_code_2_and_its_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "stage.py"
    script.write_text(f"import os\nif os.environ['RANK'] == '0': print('hello')\n{FAIL_AS_STAGE}")
    with Chain(tmp_path / "logs") as chain, pytest.raises(StageFailed) as failure:
        chain.run(two_ranks(script))
    assert failure.value.exit_code == 2
    assert failure.value.message == "semid train: items.parquet: column 'item_id' is missing"
    out, err = capfd.readouterr()
    assert out in ("   train | hello\n", "")  # torchrun may end before it has copied the last line
    assert "ChildFailedError" not in err


IGNORES_SIGTERM = """
import os, signal, subprocess, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
rank = os.environ.get("RANK", "0")
Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["PIDS"], rank).write_text(f"{os.getpid()} {child.pid}")
time.sleep(300)
"""
CANCELLED = """
import sys
from pathlib import Path
from tests.e2e import test_chain
from launch.chain import Chain, StageFailed
try:
    with Chain(Path(sys.argv[1])) as chain:
        chain.run(test_chain.two_ranks(Path(sys.argv[2])))
except StageFailed as failure:
    print(failure.message, flush=True)
    sys.exit(failure.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_stage_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    script, pids = tmp_path / "rank.py", tmp_path / "pids"
    script.write_text(IGNORES_SIGTERM)
    pids.mkdir()
    environment = os.environ | {"PIDS": str(pids), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "1"}
    driver = subprocess.Popen(
        [sys.executable, "-c", CANCELLED, str(tmp_path / "logs"), str(script)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.2)
    processes = [int(pid) for file in pids.iterdir() for pid in file.read_text().split()]
    assert len(processes) == 4
    assert all(map(alive, processes))
    driver.send_signal(number)
    out, _ = driver.communicate(timeout=40)
    assert driver.returncode == 128 + number
    assert out.splitlines()[-1] == f"stopped by {number.name}"
    assert not any(map(alive, processes))


def test_the_callers_signal_handlers_come_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Chain(tmp_path) as chain:
        chain.run(one_process("pass"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
