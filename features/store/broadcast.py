"""One version of an entity store for all workers of a job: what travels is its path or URI, and each machine maps the files."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pyarrow import fs

from features.errors import InputError
from features.location import Location
from features.store.snapshot import Snapshot
from features.store.snapshot_files import META, read_meta
from features.store.versions import CURRENT, open_snapshot, parse_pointer, read_pointer


@dataclass(frozen=True)
class StoreVersion:
    """A version of the store in `where`, and the sha256 of its meta.json, so that no worker can open another one."""

    where: str
    version: str
    fingerprint: str

    @classmethod
    def current(cls, where: str | Path | Location) -> "StoreVersion":
        """The version that is current now, checked as a whole. Raises InputError naming what is missing or damaged."""
        folder = Location.of(where)
        try:
            pointer = parse_pointer((folder / CURRENT).read().to_pybytes(), folder)
        except FileNotFoundError as error:
            raise InputError(f"{folder}: no entity store here ({CURRENT} is missing)") from error
        chosen = cls(folder.uri, *pointer)
        chosen.open()
        return chosen

    def open(self) -> Snapshot:
        """Map it; once per process. A remote one is copied to this machine first, once per machine, and checked there.

        The copies lie below $SEMID_CACHE, or else in the folder of temporary files, and are found again by later jobs.
        """
        return _open(self)


def open_version(where: Location, version: str | None) -> Snapshot:
    """A version of the store in `where`, the current one by default; a remote store gives no other.

    Raises:
        InputError: naming what is missing or damaged, or the version that a remote store no longer gives.
    """
    if where.local is not None:
        return open_snapshot(where.local, version)
    current = StoreVersion.current(where)
    if version is not None and current.version != version:
        raise InputError(f"{where}: {current.version} is current now, but this run reads {version}")
    return current.open()


def send(path: Path, where: Location) -> None:
    """Put the current version of a local store where other machines find it; its files first, so that CURRENT never names a part of it."""
    version = read_pointer(path).version
    for file in sorted((path / version).iterdir()):
        fs.copy_files(str(file), f"{where.path}/{version}/{file.name}", destination_filesystem=where.filesystem)
    (where / CURRENT).write((path / CURRENT).read_bytes())


@lru_cache(maxsize=4)
def _open(chosen: StoreVersion) -> Snapshot:
    folder = Location.of(chosen.where) / chosen.version
    path = folder.local or _copied(folder, chosen.fingerprint)
    return Snapshot.open(path, meta_sha256=chosen.fingerprint)


def _copied(folder: Location, fingerprint: str) -> Path:
    cache = Path(os.environ.get("SEMID_CACHE") or tempfile.gettempdir()) / f"semid-stores-{os.getuid()}"
    path = cache / fingerprint
    if not path.is_dir():
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        staging = Path(tempfile.mkdtemp(dir=cache, prefix=".fetching-"))
        try:
            _fetch(folder, META, staging)
            for name in read_meta(staging / META, fingerprint)[0]["files"]:
                _fetch(folder, name, staging)
            staging.rename(path)
        except OSError:
            if not path.is_dir():  # else another process of this machine was quicker
                raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return path


def _fetch(folder: Location, name: str, into: Path) -> None:
    where = folder / name
    if where.size() is None:
        raise InputError(f"{where}: no such file")
    fs.copy_files(where.path, str(into / name), source_filesystem=where.filesystem, destination_filesystem=fs.LocalFileSystem())
