"""A contestant of the enrich benchmark in a process of its own, on cores of its own, that does what it is asked to."""

import importlib
import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class Worker:
    """Makes `MODULE.NAME(*arguments)` in a new process, and calls its methods there."""

    def __init__(self, module: str, name: str, arguments: Sequence[Any], cores: Sequence[int]) -> None:
        """Start; the process gets ready while others start."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, module, name, arguments, cores))
        self._process.start()
        theirs.close()
        self._pending = 1  # its word that it is ready

    def start(self, method: str, *arguments: Any) -> None:
        """Ask for a call; `result` waits for it."""
        while self._pending:
            self.result()
        self._pipe.send((method, arguments))
        self._pending += 1

    def result(self) -> tuple[Any, float]:
        """What the call returned, and its processor seconds, those of the processes that it started and ended among them."""
        answer: tuple[Any, float] = self._pipe.recv()  # EOFError where the process has died; it has told why
        self._pending -= 1
        return answer

    def ask(self, method: str, *arguments: Any) -> tuple[Any, float]:
        """Ask and wait."""
        self.start(method, *arguments)
        return self.result()

    def peak_mib(self) -> float:
        """Peak resident memory of the process so far."""
        # Not getrusage's figure, which has the parent's in it.
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, module: str, name: str, arguments: Sequence[Any], cores: Sequence[int]) -> None:
    os.sched_setaffinity(0, cores)
    os.environ["POLARS_MAX_THREADS"] = str(len(cores))  # read when Polars is imported
    contestant = getattr(importlib.import_module(module), name)(*arguments)
    pipe.send((None, 0.0))
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:
            return
        started = _processor_seconds()
        answer = getattr(contestant, method)(*given)
        pipe.send((answer, _processor_seconds() - started))


def _processor_seconds() -> float:
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system
