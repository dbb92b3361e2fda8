"""Progress on rank 0: a bar on a terminal, plain lines otherwise."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def say(line: str) -> None:
    """Print one line, on rank 0 alone."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


@contextmanager
def progress_bar(title: str, total: int, done: int = 0) -> Iterator[Callable[[], None]]:
    """Show `done` of `total` and the time left; yields the function that counts one more. Silent unless on rank 0's terminal."""
    if os.environ.get("RANK", "0") != "0" or not sys.stdout.isatty():
        yield lambda: None
        return
    with Progress(TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(title, total=total, completed=done)
        yield lambda: bar.advance(task)
