"""Runs stages one after the other through TorchX on this machine: submit, show the first rank's output, wait, report a failure."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO, TextIO

from torchx.runner import Runner, get_runner
from torchx.specs import AppDef, AppState, parse_app_handle

SCHEDULER = "local_cwd"
ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.1


class StageFailed(Exception):
    """A stage did not succeed.

    Attributes:
        stage: its name.
        exit_code: that of the rank that failed first; 2 means that the user can mend it; 128 + n after signal n.
        message: one line, the stage's own where it left one.
        logs: folder of the logs of all ranks.
    """

    def __init__(self, stage: str, exit_code: int, message: str, logs: Path) -> None:
        super().__init__(f"{stage}: {message} (exit code {exit_code}; logs in {logs})")
        self.stage, self.exit_code, self.message, self.logs = stage, exit_code, message, logs


class Chain:
    """Runs AppDefs in turn; used as a context manager, which holds back SIGINT and SIGTERM until the running stage is cancelled.

    The stages run in this process's working directory and import the packages from where this one lies, whatever lies in that directory.
    """

    def __init__(self, log_dir: Path) -> None:
        """Logs go to `log_dir`, one folder per stage run."""
        self._log_dir = log_dir
        self._runner: Runner = get_runner()
        self._received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Chain":
        main = threading.current_thread() is threading.main_thread()
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
        # Asking for its options creates the scheduler, whose own handlers raise in the midst of anything: ours replace them.
        self._runner.scheduler_run_opts(SCHEDULER)
        for number in self._handlers:
            signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._runner.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def run(self, app: AppDef) -> float:
        """Run one stage to its end.

        Args:
            app: an AppDef of one role named as the stage; its replica 0's output is shown line by line after the stage's name.

        Returns:
            Seconds from submission to the end.

        Raises:
            StageFailed: if it fails, or if SIGINT or SIGTERM arrives; none of its processes is left then.
        """
        stage = app.roles[0].name
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        app.roles[0].env |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
        started = time.perf_counter()
        handle = self._runner.run(app, SCHEDULER, {"log_dir": str(self._log_dir)})
        _, session, app_id = parse_app_handle(handle)
        logs = self._log_dir / session / app_id
        try:
            state = self._follow(handle, [_Stream(logs / stage / "0" / f"{name}.log", name, app) for name in ("stdout", "stderr")])
        finally:
            self._runner.cancel(handle)
            _kill_all(handle)
        seconds = time.perf_counter() - started
        if self._received is not None:
            raise StageFailed(stage, 128 + self._received, f"stopped by {self._received.name}", logs)
        if state is not AppState.SUCCEEDED:
            raise _failure(stage, logs)
        return seconds

    def _follow(self, handle: str, streams: "list[_Stream]") -> AppState:
        """Show the stage's output until it ends or a signal arrives."""
        state = AppState.RUNNING
        while state is AppState.RUNNING and self._received is None:
            state = self._state(handle)
            for stream in streams:
                stream.show()
            time.sleep(POLL_SECONDS)
        for stream in streams:
            stream.close()
        return state

    def _state(self, handle: str) -> AppState:
        try:
            status = self._runner.status(handle)
        except json.JSONDecodeError:  # TorchX has met an error file that the stage is just writing
            return AppState.RUNNING
        if status is None:
            raise RuntimeError(f"TorchX does not know {handle}, which it has just started")
        return status.state

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number)


class _Stream:
    """One log file as it grows, shown line by line after the stage's name.

    Of a stage under torchrun the first rank's lines are shown, which torchrun marks; its own, 40 lines about any failure, stay in the log.
    """

    def __init__(self, path: Path, name: str, app: AppDef) -> None:
        self._file: BinaryIO = path.open("rb")
        self._name, self._stage = name, app.roles[0].name
        self._mark = f"[{self._stage}0]:" if "c10d" in app.roles[0].port_map else ""
        self._rest = b""

    def show(self) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        out: TextIO = getattr(sys, self._name)
        for line in lines:
            text = line.decode(errors="replace")
            if text.startswith(self._mark):
                print(f"{self._stage:>8} | {text.removeprefix(self._mark)}", file=out)
        out.flush()

    def close(self) -> None:
        self.show()
        if self._rest:
            self._rest += b"\n"
            self.show()
        self._file.close()


def _failure(stage: str, logs: Path) -> StageFailed:
    """What a stage that has ended left behind: the error file after torchelastic's form, or else its last words."""
    replicas = json.loads((logs / "SUCCESS").read_text())["roles"][stage]  # TorchX writes this file of that name at any end
    replica = next(replica for replica in replicas if replica["exitcode"] != 0)
    exit_code = replica["exitcode"] if replica["exitcode"] > 0 else 128 - replica["exitcode"]
    error_file = Path(replica["error_file"])
    if error_file.is_file():
        error = json.loads(error_file.read_text())["message"]
        return StageFailed(stage, error.get("errorCode", exit_code), " ".join(error["message"].split()), logs)
    words = [line.strip() for line in Path(replica["stderr"]).read_text(errors="replace").splitlines() if any(map(str.isalnum, line))]
    return StageFailed(stage, exit_code, words[-1] if words else "failed without a word", logs)


def _kill_all(handle: str) -> None:
    """Kill what a job has left: ranks have sessions of their own, so an agent that is killed does not take them along.

    Every process of the job has its handle in the environment. Where there is no /proc, TorchX's own clean-up must do.
    """
    mark = f"TORCHX_JOB_ID={handle}".encode()
    deadline = time.monotonic() + POLL_SECONDS * 50
    found = True
    while found and time.monotonic() < deadline:
        found = False
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
                    found = True
            except OSError:  # gone meanwhile, or another user's
                continue
