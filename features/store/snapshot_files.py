"""The files of an entity store's snapshot: their names, types and shapes, the order of the items in them, and their checks on opening.

Items stand in ascending order of h = mix64(id), so that any ids at all are spread evenly:
    ids.npy                int64 [N]
    codes-SOURCE.npy       uint16 [N, L], UNKNOWN_CODE in each level of an item without codes of that source
    directory.npy          [B + 1]: the items of bucket b, those with floor(h B / 2^64) = b, stand from directory[b] to directory[b + 1]
    by_prefix-SOURCE.npy   [N], the items' positions in lexicographic order of their codes; only reverse look-up reads it
    meta.json              contracts, rows, and bytes and sha256 of each file
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.files import sha256_file
from features.ids import mix64
from features.semantic_id import CODE_DTYPE, SidContract

META = "meta.json"
IDS = "ids.npy"
DIRECTORY = "directory.npy"
ITEMS_PER_BUCKET = 2  # so the directory takes 2 bytes an item
UINT32_END = 1 << 32
SOURCE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def codes_file(source: str) -> str:
    """Name of a source's codes."""
    return f"codes-{source}.npy"


def by_prefix_file(source: str) -> str:
    """Name of a source's reverse look-up."""
    return f"by_prefix-{source}.npy"


def position_dtype(rows: int) -> np.dtype[Any]:
    """Type of positions from 0 to `rows`, both included."""
    return np.dtype(np.uint32 if rows < UINT32_END else np.int64)


def buckets(rows: int) -> int:
    """B for a snapshot of `rows` items; at most 2^32, beyond which `bucket_of` would overflow."""
    return min(-(-rows // ITEMS_PER_BUCKET), UINT32_END)


def bucket_of(ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Bucket of each id, in [0, count): the upper 32 bits of mix64(id), scaled. It never falls where mix64(id) ascends."""
    mixed = mix64(ids.view(np.uint64))
    mixed >>= np.uint64(32)
    mixed *= np.uint64(count)
    mixed >>= np.uint64(32)
    return mixed.view(np.int64)


def layout(rows: int, contracts: Mapping[str, SidContract]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array of a snapshot, by file name."""
    position = position_dtype(rows)
    files: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        IDS: ((rows,), np.dtype(np.int64)),
        DIRECTORY: ((buckets(rows) + 1,), position),
    }
    for source, contract in contracts.items():
        files[codes_file(source)] = ((rows, contract.levels), np.dtype(CODE_DTYPE))
        files[by_prefix_file(source)] = ((rows,), position)
    return files


def require_sources(contracts: Mapping[str, SidContract]) -> None:
    """Check the sources that a snapshot is to have.

    Raises:
        InputError: naming the source whose name cannot be part of a file's name or is not its contract's; or if there are none.
    """
    if not contracts:
        raise InputError("entity store: there are no sources")
    for source, contract in contracts.items():
        if not SOURCE_NAME.fullmatch(source):
            raise InputError(f"entity store: source {source!r} is not a name of letters, digits, '_', '.' and '-' that a file may carry")
        if contract.source != source:
            raise InputError(f"entity store: the contract of source '{source}' is for '{contract.source}'")


def read_meta(path: Path, sha256: str | None) -> tuple[dict[str, Any], str]:
    """The checked contents of meta.json and their sha256. Raises InputError where they are damaged or hash to something else."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    data = path.read_bytes()
    actual = hashlib.sha256(data).hexdigest()
    if sha256 is not None and actual != sha256:
        raise InputError(f"{path}: its sha256 is {actual}, not the expected {sha256}")
    try:
        meta: dict[str, Any] = json.loads(data)
        if not isinstance(meta["rows"], int) or not all(isinstance(contract, dict) for contract in meta["contracts"].values()):
            raise KeyError("rows or contracts")
        for file in meta["files"].values():
            int(file["bytes"]), str(file["sha256"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({error})") from error
    return meta, actual


def map_array(path: Path, expected: dict[str, Any], *, verify: bool) -> npt.NDArray[Any]:
    """Memory-map one array. Raises InputError where the file's size, or with `verify` its sha256, is not the expected one."""
    if not path.is_file() or path.stat().st_size != expected["bytes"]:
        raise InputError(f"{path}: missing or not the {expected['bytes']} bytes that {META} has")
    if verify and sha256_file(path) != expected["sha256"]:
        raise InputError(f"{path}: sha256 differs from {META}")
    try:
        # A plain array of the mapped bytes: each slice of a memmap would pay for its subclass.
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, EOFError, SyntaxError) as error:
        raise InputError(f"{path}: not a readable array ({' '.join(str(error).split())})") from error
