"""Files and folders that are whole or absent, whenever the machine stops."""

import hashlib
import os
import shutil
from pathlib import Path


def publish_folder(staging: Path, path: Path) -> None:
    """Put a finished folder in `path`'s place by renames, then remove what stood there."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        path.rename(old)
    staging.rename(path)
    fsync_path(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is whole or absent: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.rename(path)
    fsync_path(path.parent)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Make a file's bytes durable, or a folder's own entries: what was made, renamed or removed in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
