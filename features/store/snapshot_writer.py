"""Builds a snapshot of the entity store in bounded memory: records are spooled to disk by range, then put in order range by range."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.files import sha256_file, write_durably
from features.ids import mix64
from features.semantic_id import CODE_DTYPE, UNKNOWN_CODE, SidContract, checked_codes
from features.store.snapshot_files import DIRECTORY, IDS, META, bucket_of, buckets, codes_file, layout, position_dtype, require_sources
from features.store.snapshot_order import write_by_prefix
from features.store.spool import GrowingArray, Spool, blocks

SPOOL = ".spool"
RANGE_BITS = 12  # ranges of mix64: memory is bounded for up to 4096 times `memory_items` items


class SnapshotWriter:
    """Writes a snapshot into a staging folder, durably; the caller publishes it by a rename.

    Used as a context manager: leaving the block finishes the snapshot; an error on the way removes the folder. Memory grows with
    `memory_items`, never with the number of items; the disk holds every record twice for a while.
    """

    def __init__(self, staging: Path, contracts: Mapping[str, SidContract], *, memory_items: int = 4_000_000) -> None:
        """Say what is to be written.

        Args:
            staging: the folder, made anew in place of what may be there.
            contracts: source to contract.
            memory_items: items worked on at once.

        Raises:
            InputError: for a source whose name cannot be a file's, or is not its contract's.
        """
        require_sources(contracts)
        self.staging, self.contracts, self.memory_items = staging, dict(contracts), memory_items
        self._columns: dict[str, slice] = {}
        width = 0
        for source, contract in contracts.items():
            self._columns[source] = slice(width, width + contract.levels)
            width += contract.levels
        self._record = np.dtype([("id", np.int64), ("codes", CODE_DTYPE, (width,))])
        self._spool: Spool

    def __enter__(self) -> "SnapshotWriter":
        with self._disk_errors():
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staging.mkdir(parents=True)
            self._spool = Spool(self.staging / SPOOL, self._record, 1 << RANGE_BITS, self.memory_items, _hash_range)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        finished = False
        try:
            if kind is None:
                self.finish()
                finished = True
        finally:
            self._spool.close()
            if not finished:
                shutil.rmtree(self.staging, ignore_errors=True)

    def add(self, ids: npt.NDArray[np.int64], codes: Mapping[str, npt.NDArray[Any]]) -> None:
        """Append items in any order; an id may come again, with other sources or with the same codes.

        Args:
            ids: int64 [N].
            codes: source to integer [N, L], each in [0, K), or UNKNOWN_CODE at every level of an item without codes of that source.

        Raises:
            InputError: naming the source and what does not fit its contract, an item without codes of any source, or the folder that
                cannot be written to.
        """
        for source, given in codes.items():
            if source not in self.contracts:
                raise InputError(f"entity store: there is no source '{source}'; it has {', '.join(sorted(self.contracts))}")
            _require_fit(ids, given, self.contracts[source])
        for start in range(0, len(ids), self.memory_items):
            part = slice(start, start + self.memory_items)
            records = np.empty(len(ids[part]), self._record)
            records["id"] = ids[part]
            records["codes"] = UNKNOWN_CODE
            for source, given in codes.items():
                records["codes"][:, self._columns[source]] = given[part]
            bare = np.flatnonzero((records["codes"] == UNKNOWN_CODE).all(axis=1))
            if len(bare):
                raise InputError(f"entity store: item id {ids[part][bare[0]]} has no codes of any source")
            with self._disk_errors():
                self._spool.add(records)

    def finish(self) -> None:
        """Put everything in order and write the files, meta.json last, all of it durable; leaving the block calls it.

        Raises:
            InputError: if there are no items, if an item has two Semantic IDs of one source, or naming the folder that cannot be written
                to, and why.
        """
        with self._disk_errors():
            rows = self._write_items()
            if not rows:
                raise InputError("entity store: there are no items to publish")
            _write_directory(self.staging, rows, self.memory_items)
            for contract in self.contracts.values():
                write_by_prefix(self.staging, contract, rows, self.staging / SPOOL, self.memory_items)
            names = layout(rows, self.contracts)
            files = {name: {"bytes": (self.staging / name).stat().st_size, "sha256": sha256_file(self.staging / name)} for name in names}
            contracts = {source: contract.to_json() for source, contract in self.contracts.items()}
            meta = {"contracts": contracts, "rows": rows, "files": files}
            write_durably(self.staging / META, json.dumps(meta, indent=1, sort_keys=True).encode())

    def _write_items(self) -> int:
        """Write ids and codes in ascending order of mix64(id); returns N."""
        rows = 0
        with ExitStack() as files:
            ids_array = files.enter_context(GrowingArray(self.staging / IDS, np.dtype(np.int64)))
            codes_arrays = {
                source: files.enter_context(GrowingArray(self.staging / codes_file(source), np.dtype(CODE_DTYPE), contract.levels))
                for source, contract in self.contracts.items()
            }
            for records in self._spool.groups():
                ids, codes = self._merged(records)
                ids_array.append(ids)
                for source, columns in self._columns.items():
                    codes_arrays[source].append(codes[:, columns])
                rows += len(ids)
        return rows

    def _merged(self, records: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
        """One line per item, in order: ids int64 [n], codes uint16 [n, sum of L]."""
        order = np.argsort(mix64(records["id"].view(np.uint64)))
        ids, codes = records["id"].take(order), records["codes"].take(order, axis=0)
        first = np.append(True, ids[1:] != ids[:-1])
        if first.all():
            return ids, codes
        item = np.cumsum(first) - 1
        merged = np.full((item[-1] + 1, codes.shape[1]), UNKNOWN_CODE, CODE_DTYPE)
        for source, columns in self._columns.items():
            known = np.flatnonzero(codes[:, columns.start] != UNKNOWN_CODE)
            given = codes[known, columns]
            merged[item[known], columns] = given
            differ = np.flatnonzero((merged[item[known], columns] != given).any(axis=1))
            if len(differ):
                at = known[differ[0]]
                one, other = (tuple(line[columns].tolist()) for line in (codes[at], merged[item[at]]))
                raise InputError(f"entity store: item id {ids[at]} has two Semantic IDs of source '{source}', {one} and {other}")
        return ids[first], merged

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            shutil.rmtree(self.staging, ignore_errors=True)
            raise InputError(f"{self.staging}: cannot be written to ({error.strerror or error})") from error


def _hash_range(records: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    return mix64(records["id"].view(np.uint64)) >> np.uint64(64 - RANGE_BITS)


def _require_fit(ids: npt.NDArray[Any], codes: npt.NDArray[Any], contract: SidContract) -> None:
    known: Any = slice(None)
    if codes.shape == (len(ids), contract.levels) and len(ids) and codes.max() == UNKNOWN_CODE:
        known = (codes != UNKNOWN_CODE).any(axis=1)
    checked_codes(ids[known], codes[known], contract)


def _write_directory(staging: Path, rows: int, block: int) -> None:
    """One pass over the ids in order: a bucket begins where the first id of it or of a later one stands."""
    count = buckets(rows)
    begun = start = 0
    with GrowingArray(staging / DIRECTORY, position_dtype(rows)) as directory:
        for ids in blocks(staging / IDS, block):
            bucket = bucket_of(ids, count)
            directory.append(start + np.searchsorted(bucket, np.arange(begun, bucket[-1] + 1)))
            begun = max(begun, int(bucket[-1]) + 1)
            start += len(ids)
        directory.append(np.full(count + 1 - begun, rows))
