"""Processes that do tasks, as many at a time as there are cores; none outlives the command, however that ends."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from features.errors import InputError
from launch.components import PROCESS_ENV
from pipeline.preemption import Preempted
from pipeline.reproduce.tasks import Task


class TaskFailed(Exception):
    """A task has failed, for no fault that the user can mend; the message is one line and says where more is written."""


class Workers:
    """The processes, each on one thread: that gets more done than ranks that wait for each other.

    A context manager. They hold the reading end of a pipe that only this process can write to, and end when it is closed: as soon as the
    block ends with an error, and at the latest when this process ends, be it killed.
    """

    def __init__(self, processes: int, logs: Path) -> None:
        """Args: how many tasks are done at a time; folder of what the processes print."""
        self.processes, self.logs = processes, logs

    def __enter__(self) -> "Workers":
        self.logs.mkdir(parents=True, exist_ok=True)
        self._environment = dict(os.environ)
        os.environ |= {**PROCESS_ENV, "OMP_NUM_THREADS": "1"}  # read when the processes start
        context = multiprocessing.get_context("spawn")
        lifeline, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(self.processes, context, _begin, (self.logs, lifeline))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._pool.shutdown()
        self._lifeline.close()
        self._pool.shutdown(cancel_futures=True)
        os.environ.clear()
        os.environ |= self._environment

    def perform(self, title: str, tasks: Sequence[Task]) -> None:
        """Do what is not done yet, the costliest first.

        Args:
            title: of all of them, for the progress.
            tasks: independent of each other.

        Raises:
            InputError: for what the user can mend, naming the first task that failed.
            TaskFailed: for what the user cannot.
        """
        left = sorted((task for task in tasks if not task.is_done()), key=lambda task: -task.cost)
        if not left:
            if tasks:
                print(f"{title}: up to date", flush=True)
            return
        with progress(title, len(left), sum(task.cost for task in left)) as advance:
            waiting: dict[Future[None], Task] = {self._pool.submit(_perform, task, self.logs): task for task in left}
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    task = waiting.pop(future)
                    try:
                        future.result()
                    except BrokenProcessPool as error:
                        raise TaskFailed(
                            f"{title}: a process was killed, most likely for want of memory: try fewer at a time with --processes; what is "
                            f"finished is kept (logs in {self.logs})"
                        ) from error
                    advance(task.cost)


def _begin(logs: Path, lifeline: Connection) -> None:
    """Called first in each process: its output would break up the progress, and it is not to outlive the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C comes to all processes, and is for the first to heed
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    log = os.open(_log(logs), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())


def _end_with(lifeline: Connection) -> None:
    lifeline.poll(None)  # nothing is ever written: this is the end of the file
    os._exit(1)


def _perform(task: Task, logs: Path) -> None:
    print(f"--- {task.title}", flush=True)
    try:
        task.perform()
    except InputError as error:
        raise InputError(f"{task.title}: {error}") from error
    except Exception as error:  # whatever it is, and whether it can be sent to another process or not
        traceback.print_exc()
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise TaskFailed(f"{task.title}: {told} (more in {_log(logs)})") from None


def _log(logs: Path) -> Path:
    return logs / f"{os.getpid()}.log"


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM is in this block what Ctrl-C is; raises Preempted after either. Workers end, and what they finished is kept."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise Preempted("stopped; the same command goes on from here") from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress(title: str, count: int, cost: float) -> Iterator[Callable[[float], None]]:
    """Yields the function that counts a finished task: a bar on a terminal, else a line for every tenth part, both with the time left.

    Args:
        title: of all tasks.
        count: of tasks.
        cost: of all of them; the function is given that of one.
    """
    started, done, finished, told, on_terminal = time.monotonic(), 0, 0.0, 0, sys.stdout.isatty()
    if not on_terminal:
        print(f"{title}: {count} to do", flush=True)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), disable=not on_terminal) as bar:
        shown = bar.add_task(f"{title}: 0 of {count}", total=cost)

        def advance(of_one: float) -> None:
            nonlocal done, finished, told
            done, finished = done + 1, finished + of_one
            gone = time.monotonic() - started
            left = f", about {duration(gone * (cost - finished) / finished)} left" if done < count else ""
            bar.update(shown, advance=of_one, description=f"{title}: {done} of {count}{left}")
            if not on_terminal and 10 * done // count > told:
                told = 10 * done // count
                print(f"{title}: {done} of {count} after {duration(gone)}{left}", flush=True)

        yield advance


def duration(seconds: float) -> str:
    """A time in words: 40 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
