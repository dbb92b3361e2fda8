"""Publishing: a new version of an entity store from given items, or from the last version and the delta (`fold`); whole or not at all."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store.delta_view import DELTA, DELTA_LIMIT
from features.store.snapshot import Snapshot
from features.store.snapshot_writer import SnapshotWriter
from features.store.versions import has_store, make_current, next_version, number_of, one_publisher, open_snapshot, prune

KEEP = 2  # versions left in the folder, where the caller does not say
BATCH = 1 << 18  # items copied at once

Items = tuple[npt.NDArray[np.int64], Mapping[str, npt.NDArray[Any]]]


def publish(path: Path, batches: Iterable[Items], contracts: Sequence[SidContract], *, keep: int = KEEP) -> str:
    """Write a new version and make it current, at once and durably; the same contents again are no new version.

    The given sources are replaced: an item of theirs that is not given leaves the store, unless it is in the delta, where it stays. Other
    sources keep all their items. Memory does not grow with the number of items.

    Args:
        path: the store's folder, made if need be.
        batches: ids int64 [N] and, by source, codes integer [N, L] in [0, K); in any order, sources together or apart.
        contracts: of the given sources.
        keep: versions to leave, the new one included; older ones are removed, but stay readable for those who have them open.

    Returns:
        The version's name, e.g. "v000002".

    Raises:
        InputError: if an id has two Semantic IDs of one source, there are no items, or codes do not fit their contract; if the delta has
            another Semantic ID of an item, or under a new contract one of an item that is not given; or the folder cannot be written to.
    """
    new = {contract.source: contract for contract in contracts}
    with _told(path), one_publisher(path):
        old = open_snapshot(path) if has_store(path) else None
        kept = [source for source in old.contracts if source not in new] if old is not None else []
        copied = items_of(old, kept) if old is not None and kept else ()
        all_contracts = {**(old.contracts if old is not None else {}), **new}
        return _publish(path, chain(batches, copied), all_contracts, old, keep)


def fold(path: Path, *, keep: int = KEEP, delta_limit: int = DELTA_LIMIT) -> str:
    """Publish the current version united with the delta, and empty the delta of what the new version has.

    Appending goes on meanwhile; what comes too late stays in the delta. A crash at any moment loses nothing and needs no repair: until the
    delta is emptied, it and the new version say the same.

    Args:
        path: the store's folder.
        keep: versions to leave, the new one included.
        delta_limit: as of the store that appends.

    Returns:
        The version's name; that of the current one if the delta is empty.

    Raises:
        InputError: naming what is missing, damaged, or cannot be written to.
    """
    from features.store.delta import open_delta

    with _told(path), one_publisher(path):
        old = open_snapshot(path)
        delta = open_delta(path, delta_limit)
        if delta is None:
            return old.path.name
        with delta.writing() as view:
            view.settle(old, number_of(old.path.name))  # where the last publisher was killed before it could
            appended = view.all_records()
        parts = [(ids, {source: codes}) for source, (ids, codes) in appended.items() if len(ids)]
        if not parts:
            return old.path.name
        return _publish(path, chain(items_of(old, list(old.contracts)), parts), old.contracts, old, keep)


def _publish(path: Path, parts: Iterable[Items], contracts: Mapping[str, SidContract], old: Snapshot | None, keep: int) -> str:
    version = next_version(path)
    staging = path / f".{version}.tmp"
    with SnapshotWriter(staging, contracts) as writer:
        for ids, codes in parts:
            writer.add(ids, codes)
    new = Snapshot.open(staging, verify=False)
    if old is not None and new.fingerprint == old.fingerprint:
        shutil.rmtree(staging)
        return old.path.name
    with _settled_delta(path, new, version):
        make_current(path, staging, version, new.fingerprint)
    prune(path, keep)
    return version


@contextmanager
def _settled_delta(path: Path, new: Snapshot, version: str) -> Iterator[None]:
    """CURRENT moves inside a write to the delta, so that nothing is appended between the check of what is there and the move."""
    if not (path / DELTA).exists():
        yield
        return
    from features.store.delta import make_delta

    with make_delta(path, DELTA_LIMIT).writing() as view:
        view.settle(new, number_of(version))
        yield


def items_of(snapshot: Snapshot, sources: Sequence[str]) -> Iterator[Items]:
    """The items of a snapshot that have codes of any of these sources, some at a time, in its order."""
    for ids, codes in snapshot.batches(BATCH):
        has = np.any([codes[source][:, 0] != UNKNOWN_CODE for source in sources], axis=0)
        yield ids[has], {source: codes[source][has] for source in sources}


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: the entity store cannot be written to ({error.strerror}: {error.filename or path})") from error
