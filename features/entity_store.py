"""The entity store: item id to Semantic ID codes, as immutable versioned snapshots that are memory-mapped.

The files of a store:
    store/CURRENT           the name of the version that readers open, replaced by one atomic rename
    store/v000001/ids.npy   int64 [N], ascending, distinct
    store/v000001/codes.npy uint16 [N, L]
    store/v000001/meta.json contract, rows, and bytes and sha256 of both arrays
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.files import sha256_file, write_durably
from features.semantic_id import CODE_DTYPE, UNKNOWN_CODE, SidContract

CURRENT = "CURRENT"
META = "meta.json"
ARRAYS = ("ids.npy", "codes.npy")


class Lookup(NamedTuple):
    """The answer to one batch of ids.

    Attributes:
        codes: uint16 [N, L], in the order asked; `UNKNOWN_CODE` in every level of an id that the store does not have.
        misses: how many of the N ids the store does not have, repeated ids counted each time.
    """

    codes: npt.NDArray[np.uint16]
    misses: int


@dataclass(frozen=True)
class EntityStore:
    """One opened version; it stays as it is while newer versions are published.

    Attributes:
        path: folder of the version.
        contract: the Semantic ID contract of the codes.
        ids: int64 [N], ascending, memory-mapped.
        codes: uint16 [N, L], memory-mapped.
    """

    path: Path
    contract: SidContract
    ids: npt.NDArray[np.int64]
    codes: npt.NDArray[np.uint16]

    @property
    def version(self) -> str:
        """The version's name, e.g. "v000001"."""
        return self.path.name

    @property
    def fingerprint(self) -> str:
        """Identifies the contents: equal fingerprints mean equal ids, codes and contract, whatever the version's name."""
        return sha256_file(self.path / META)

    @classmethod
    def open(cls, path: Path, version: str | None = None, *, verify: bool = False) -> "EntityStore":
        """Open a version, the current one by default.

        Args:
            path: the store's folder.
            version: e.g. "v000001".
            verify: also compare the sha256 of both arrays (reads every byte).

        Raises:
            InputError: naming the file that is missing, damaged, or does not fit the contract.
        """
        folder = path / (version or _current(path))
        meta = _read_meta(folder / META)
        contract = SidContract.from_json(meta["contract"], str(folder / META))
        ids, codes = (_map_array(folder / name, meta["files"][name], verify=verify) for name in ARRAYS)
        expected = ((meta["rows"],), np.dtype(np.int64), (meta["rows"], contract.levels), np.dtype(CODE_DTYPE))
        if (ids.shape, ids.dtype, codes.shape, codes.dtype) != expected:
            raise InputError(f"{folder}: arrays are {ids.dtype}{ids.shape} and {codes.dtype}{codes.shape}, which {META} does not describe")
        return cls(folder, contract, ids, codes)

    @staticmethod
    def publish(path: Path, ids: npt.NDArray[np.int64], codes: npt.NDArray[np.uint16], contract: SidContract) -> str:
        """Write a new version and make it current, at once and durably; older versions stay.

        Args:
            path: the store's folder, made if need be.
            ids: int64 [N], distinct, in any order.
            codes: integer [N, L], each in [0, K).
            contract: what the codes mean.

        Returns:
            The version's name.

        Raises:
            InputError: if an id repeats, there are no items, or the codes do not fit the contract.
        """
        ids, codes = _checked(ids, codes, contract)
        path.mkdir(parents=True, exist_ok=True)
        with _one_publisher(path):
            last = max((int(folder.name[1:]) for folder in path.glob("v??????")), default=0)
            version = f"v{last + 1:06d}"
            staging = path / f".{version}.tmp"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            _save_array(staging / ARRAYS[0], ids)
            _save_array(staging / ARRAYS[1], codes)
            files = {name: {"bytes": (staging / name).stat().st_size, "sha256": sha256_file(staging / name)} for name in ARRAYS}
            meta = {"contract": contract.to_json(), "rows": len(ids), "files": files}
            write_durably(staging / META, json.dumps(meta, indent=1).encode())
            staging.rename(path / version)
            # Its own fsync of the folder makes the version's rename durable too.
            write_durably(path / CURRENT, version.encode())
        return version

    def lookup(self, ids: npt.NDArray[np.int64]) -> Lookup:
        """Codes of a batch of ids.

        Args:
            ids: int64 [N], in any order, with repetitions.
        """
        # Sorted queries walk through the mapped ids in one direction: a quarter of the time of unsorted ones at 5M ids.
        distinct, positions = np.unique(ids, return_inverse=True)
        found_at = np.searchsorted(self.ids, distinct)
        np.minimum(found_at, len(self.ids) - 1, out=found_at)
        missing = self.ids[found_at] != distinct
        codes = self.codes[found_at]
        codes[missing] = UNKNOWN_CODE
        return Lookup(np.take(codes, positions, axis=0), int(np.count_nonzero(missing[positions])))


def _current(path: Path) -> str:
    pointer = path / CURRENT
    if not pointer.is_file():
        raise InputError(f"{path}: no entity store here ({CURRENT} is missing)")
    return pointer.read_text().strip()


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        meta: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(meta["rows"], int) or not isinstance(meta["contract"], dict):
            raise KeyError("rows or contract")
        for name in ARRAYS:
            int(meta["files"][name]["bytes"]), str(meta["files"][name]["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error})") from error
    return meta


def _map_array(path: Path, expected: dict[str, Any], *, verify: bool) -> npt.NDArray[Any]:
    if not path.is_file() or path.stat().st_size != expected["bytes"]:
        raise InputError(f"{path}: missing or not the {expected['bytes']} bytes that {META} has")
    if verify and sha256_file(path) != expected["sha256"]:
        raise InputError(f"{path}: sha256 differs from {META}")
    try:
        mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path}: not a readable array ({' '.join(str(error).split())})") from error
    return mapped


def _checked(ids: npt.NDArray[Any], codes: npt.NDArray[Any], contract: SidContract) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
    if ids.ndim != 1 or ids.dtype != np.int64 or codes.dtype.kind not in "iu" or codes.shape != (len(ids), contract.levels):
        raise InputError(
            f"entity store: ids {ids.dtype}{ids.shape} and codes {codes.dtype}{codes.shape} do not fit levels {contract.levels}"
        )
    if not len(ids):
        raise InputError("entity store: there are no items to publish")
    if codes.min() < 0 or codes.max() >= contract.codebook_size:
        raise InputError(f"entity store: codes {codes.min()}..{codes.max()} do not fit codebook_size {contract.codebook_size}")
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    repeated = np.flatnonzero(ids[1:] == ids[:-1])
    if len(repeated):
        raise InputError(f"entity store: item id {ids[repeated[0]]} occurs more than once ({len(repeated)} repetitions in all)")
    return ids, codes[order].astype(CODE_DTYPE)


def _save_array(path: Path, array: npt.NDArray[Any]) -> None:
    with path.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)
        handle.flush()
        os.fsync(handle.fileno())


@contextmanager
def _one_publisher(path: Path) -> Iterator[None]:
    """Publishers take turns, across processes; the lock goes with the process that holds it."""
    with (path / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
