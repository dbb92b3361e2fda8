"""SIGTERM as a wish to stop: remembered when it comes, heeded by the trainer between two steps, told to the launcher as exit code 75."""

import signal
import threading
from types import FrameType

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong; the same command, run again, goes on

_told = threading.Event()


class Preempted(Exception):
    """A run was told to stop; it has saved where it stands, and goes on from there when it is started again."""


def hold_back_sigterm() -> None:
    """From now on SIGTERM ends nothing by itself: who called this asks `told_to_stop` every now and then."""
    _told.clear()
    signal.signal(signal.SIGTERM, _remember)


def told_to_stop() -> bool:
    """Whether SIGTERM has come to this process."""
    return _told.is_set()


def _remember(number: int, frame: FrameType | None) -> None:
    _told.set()
