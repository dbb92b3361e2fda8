"""The versions in an entity store's folder: which one is current, whose turn it is to publish, and which old ones may go.

store/CURRENT        "v000002 " and the sha256 of that version's meta.json; replaced by one atomic rename
store/v000002/       a snapshot, immutable
store/.lock          held by the one that publishes; the kernel drops it with the process
"""

import fcntl
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from features.errors import InputError
from features.files import write_durably
from features.store.snapshot import Snapshot

CURRENT = "CURRENT"
LOCK = ".lock"
_POINTER = re.compile(rb"(v[0-9]{6}) ([0-9a-f]{64})")
_LEFT_BEHIND = (".v*.tmp", ".v*.old", f".{CURRENT}.*.tmp")


class Pointer(NamedTuple):
    """What CURRENT says: a version's name, and the sha256 of its meta.json."""

    version: str
    fingerprint: str


def has_store(path: Path) -> bool:
    """Whether something was published in `path`."""
    return (path / CURRENT).is_file()


def read_pointer(path: Path) -> Pointer:
    """The current version of the store in `path`. Raises InputError where there is no store, or CURRENT is damaged."""
    try:
        return parse_pointer((path / CURRENT).read_bytes(), path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no entity store here ({CURRENT} is missing)") from error


def parse_pointer(current: bytes, store: object) -> Pointer:
    """What the bytes of CURRENT say. Raises InputError naming `store` where they are damaged."""
    fields = _POINTER.fullmatch(current)
    if fields is None:
        raise InputError(f"{store}/{CURRENT}: damaged, it does not hold a version and the sha256 of its meta.json")
    return Pointer(fields[1].decode(), fields[2].decode())


def open_snapshot(path: Path, version: str | None = None, *, verify: bool = True) -> Snapshot:
    """Open one version of a store, the current one by default; it stays as it is while others are published.

    Args:
        path: the store's folder.
        version: e.g. "v000001".
        verify: compare the sha256 of every file (reads every byte).

    Raises:
        InputError: naming the file that is missing or damaged.
    """
    if version is not None:
        return Snapshot.open(path / version, verify=verify)
    while True:
        pointer = read_pointer(path)
        try:
            return Snapshot.open(path / pointer.version, verify=verify, meta_sha256=pointer.fingerprint)
        except (InputError, FileNotFoundError):
            # Versions that followed quickly may have removed this one under us; CURRENT then names another.
            if read_pointer(path) == pointer:
                raise


class Follower:
    """A reader that opens each new version as it becomes current; threads may share it.

    Raises:
        InputError: on opening a version, naming the file that is missing or damaged.
    """

    def __init__(self, path: Path, *, verify: bool) -> None:
        self._pointer, self._path, self._verify = str(path / CURRENT), path, verify
        self._turn = threading.Lock()
        self._open()

    def snapshot(self) -> Snapshot:
        """The current version: one `stat` where it is still the one that was opened."""
        if os.stat(self._pointer).st_ino != self._inode:
            with self._turn:
                if os.stat(self._pointer).st_ino != self._inode:
                    self._open()
        return self._snapshot

    def _open(self) -> None:
        read_pointer(self._path)
        # The file that named the version is held open, so that no later one can get its inode number.
        held = (self._path / CURRENT).open("rb")
        snapshot = open_snapshot(self._path, verify=self._verify)
        self._snapshot, self._inode, self._held = snapshot, os.fstat(held.fileno()).st_ino, held


def number_of(version: str) -> int:
    """2 for "v000002"."""
    return int(version[1:])


def next_version(path: Path) -> str:
    """The name after the newest, whether that was ever current or not."""
    return f"v{max(map(number_of, _versions(path)), default=0) + 1:06d}"


def make_current(path: Path, staging: Path, version: str, fingerprint: str) -> None:
    """Give a finished snapshot its name and point CURRENT at it, durably; the caller holds the publisher's turn."""
    staging.rename(path / version)
    # The fsync of the folder in there makes the version's own rename durable too.
    write_durably(path / CURRENT, f"{version} {fingerprint}".encode())


def prune(path: Path, keep: int) -> None:
    """Remove all versions but the newest `keep`; whoever has an older one mapped reads on. The caller holds the publisher's turn."""
    for version in _versions(path)[:-keep]:
        # Gone by name at once, so that nobody opens half of it.
        old = (path / version).rename(path / f".{version}.old")
        shutil.rmtree(old)


@contextmanager
def one_publisher(path: Path) -> Iterator[None]:
    """Publishers take turns, across processes and threads; what a killed one left behind is removed first."""
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for pattern in _LEFT_BEHIND:
            for left in path.glob(pattern):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield


def _versions(path: Path) -> list[str]:
    return sorted(folder.name for folder in path.glob("v??????"))
