"""The delta of an entity store: items appended since the snapshot, in an LMDB environment beside it, durable when a write has ended."""

import errno
import os
import shutil
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb

from features.errors import InputError
from features.files import fsync_path
from features.store.delta_view import DELTA, View

DATA = "data.mdb"
_ROOM = 4  # the map over the limit: an update writes new pages before it frees the old, so removing records from a full delta takes space
_READERS = 1024  # transactions that may read at the same time, over all processes
_LONGEST_WRITE = 1 << 20  # bytes that LMDB writes at once, at most
_OPENED: "weakref.WeakValueDictionary[Path, Delta]" = weakref.WeakValueDictionary()
_OPENING = threading.Lock()


def open_delta(store: Path, limit: int) -> "Delta | None":
    """The delta of the store in folder `store`, None where there is none yet.

    Args:
        store: the store's folder.
        limit: see `Delta`; the first to open it in a process decides for that process.

    Raises:
        InputError: naming the file, if LMDB cannot open it.
    """
    return make_delta(store, limit) if (store / DELTA / DATA).is_file() else None


def make_delta(store: Path, limit: int) -> "Delta":
    """As `open_delta`, but made where it is missing; then the caller holds the publisher's turn."""
    folder = (store / DELTA).resolve()
    with _OPENING:
        delta = _OPENED.get(folder)
        if delta is None:
            delta = _OPENED[folder] = Delta(folder, limit)
    return delta


class Delta:
    """An opened delta; one per folder and process, which LMDB demands, shared by all who open it.

    Attributes:
        path: LMDB's data file.
        limit: bytes of the pages that hold records; an append beyond it is refused. LMDB reserves four times that as addresses, and the
            file, which never shrinks, stays below it.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.path, self.limit = folder / DATA, limit
        self._open()

    def reading(self) -> "Reading":
        """One consistent view, whatever is appended or folded meanwhile; a context manager."""
        return Reading(self, self._environment())

    @contextmanager
    def writing(self) -> Iterator[View]:
        """A view that may change the delta, the only one at a time; durable once the block has ended, undone if it raises.

        Raises:
            InputError: naming the file: no space left on the device, or the limit reached, and then what to do. Nothing is lost by either.
        """
        with self._told(), self._environment().begin(write=True) as transaction:
            view = View(self.path, transaction)
            before = view.items
            yield view
            view.write_meta()
            if view.items > before and view.bytes > self.limit:
                raise self._full()

    def _open(self) -> None:
        with self._told():
            made = not self.path.exists()
            self._lmdb = lmdb.open(str(self.path.parent), map_size=_ROOM * self.limit, max_readers=_READERS)
            self._process = os.getpid()
            # A killed reader's slot would keep LMDB from using freed pages again.
            self._lmdb.reader_check()
        if made:
            fsync_path(self.path.parent)
            fsync_path(self.path.parent.parent)

    def _environment(self) -> Any:
        if self._process != os.getpid():
            # LMDB's handles must not cross a fork: the child's copy is closed, which leaves the parent's alone.
            self._lmdb.close()
            self._open()
        return self._lmdb

    def _full(self) -> InputError:
        return InputError(
            f"{self.path}: the delta is full, its records may take {self.limit:,} bytes; fold it into a snapshot, or open the store with a "
            "larger delta_limit"
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            raise self.told(error) from error

    def told(self, error: lmdb.Error) -> InputError:
        """LMDB's error as one line that says what to do."""
        if isinstance(error, lmdb.MapFullError):
            return self._full()
        if isinstance(error, lmdb.MapResizedError):
            return InputError(
                f"{self.path}: another process lets the delta grow beyond this process's delta_limit of {self.limit:,} bytes; open the "
                "store with the same"
            )
        # LMDB tells a write that was cut short as an input/output error.
        full = shutil.disk_usage(self.path.parent).free < _LONGEST_WRITE
        reason = os.strerror(errno.ENOSPC) if full else str(error)
        return InputError(f"{self.path}: LMDB cannot read or write the delta ({reason})")


class Reading:
    """A transaction that reads. A class, since a generator would cost a point read as much as its work does."""

    __slots__ = ("_delta", "_environment", "_transaction")

    def __init__(self, delta: Delta, environment: Any) -> None:
        self._delta, self._environment = delta, environment

    def __enter__(self) -> View:
        try:
            self._transaction = self._environment.begin()
            return View(self._delta.path, self._transaction)
        except lmdb.Error as error:
            raise self._delta.told(error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._transaction.abort()
        if isinstance(error, lmdb.Error):
            raise self._delta.told(error) from error
