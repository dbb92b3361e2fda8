"""One immutable version of the entity store: item id to Semantic ID codes of every source, memory-mapped, each byte under a sha256."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.semantic_id import CODE_DTYPE, UNKNOWN_CODE, SidContract
from features.store.search import find, gather
from features.store.snapshot_files import (
    DIRECTORY,
    IDS,
    META,
    bucket_of,
    by_prefix_file,
    codes_file,
    layout,
    map_array,
    read_meta,
    require_sources,
)

BLOCK = 1 << 14  # queries worked on at once: their temporaries stay in the processor's cache
WORD = (1 << 64) - 1


class Lookup(NamedTuple):
    """The answer to one batch of ids.

    Attributes:
        codes: uint16 [N, L], in the order asked; `UNKNOWN_CODE` in every level of an id that the store does not have.
        misses: how many of the N ids the store does not have, repeated ids counted each time.
    """

    codes: npt.NDArray[np.uint16]
    misses: int


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One opened version folder (`snapshot_files` says what is in it); it stays as it is, whatever is published or removed beside it.

    Attributes:
        path: the folder.
        contracts: source to the Semantic ID contract of its codes.
        fingerprint: sha256 of meta.json; equal means equal contents, whatever the version's name.
        ids: int64 [N], ascending by mix64.
        directory: [B + 1], where each bucket of ids begins.
        codes: source to uint16 [N, L].
        by_prefix: source to [N], positions in lexicographic order of the codes.
    """

    path: Path
    contracts: dict[str, SidContract]
    fingerprint: str
    ids: npt.NDArray[np.int64] = field(repr=False)
    directory: npt.NDArray[Any] = field(repr=False)
    codes: dict[str, npt.NDArray[np.uint16]] = field(repr=False)
    by_prefix: dict[str, npt.NDArray[Any]] = field(repr=False)

    @classmethod
    def open(cls, path: Path, *, verify: bool = True, meta_sha256: str | None = None) -> "Snapshot":
        """Map a snapshot's files.

        Args:
            path: the version's folder.
            verify: compare the sha256 of every file with meta.json (reads every byte); else only their sizes, types and shapes.
            meta_sha256: what meta.json itself must hash to, as the pointer to this version has it.

        Raises:
            InputError: naming the file that is missing, damaged or does not fit its contract.
        """
        meta, fingerprint = read_meta(path / META, meta_sha256)
        contracts = {source: SidContract.from_json(value, str(path / META)) for source, value in meta["contracts"].items()}
        require_sources(contracts)
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, (shape, dtype) in layout(meta["rows"], contracts).items():
            if name not in meta["files"]:
                raise InputError(f"{path / META}: damaged (no file '{name}')")
            arrays[name] = array = map_array(path / name, meta["files"][name], verify=verify)
            if array.shape != shape or array.dtype != dtype:
                raise InputError(f"{path / name}: {array.dtype}{array.shape}, but {META} describes {dtype}{shape}")
        codes = {source: arrays[codes_file(source)] for source in contracts}
        by_prefix = {source: arrays[by_prefix_file(source)] for source in contracts}
        return cls(path, contracts, fingerprint, arrays[IDS], arrays[DIRECTORY], codes, by_prefix)

    @property
    def rows(self) -> int:
        """N, items."""
        return len(self.ids)

    def contract(self, source: str | None = None) -> SidContract:
        """The contract of one source, or of the only one. Raises InputError naming the sources where there is no telling which."""
        return self.contracts[self._source(source)]

    def lookup(self, ids: npt.NDArray[np.int64], source: str | None = None) -> Lookup:
        """Codes of a batch of ids.

        Args:
            ids: int64 [N], in any order, with repetitions.
            source: whose codes; not needed where the snapshot has one source.

        Returns:
            Codes and misses; an item that has no codes of this source is a miss too.
        """
        return self.lookups(ids, [source])[0]

    def lookups(self, ids: npt.NDArray[np.int64], sources: Sequence[str | None]) -> list[Lookup]:
        """`lookup` for several sources, by one search."""
        stored = [self.codes[self._source(source)] for source in sources]
        ids = np.ascontiguousarray(ids, np.int64)
        codes = [np.empty((len(ids), each.shape[1]), CODE_DTYPE) for each in stored]
        misses = [0] * len(stored)
        for start in range(0, len(ids), BLOCK):
            asked = ids[start : start + BLOCK]
            position = find(self.ids, self.directory, asked, bucket_of(asked, len(self.directory) - 1))
            for index, (of_source, answer) in enumerate(zip(stored, codes, strict=True)):
                misses[index] += gather(of_source, position, answer[start : start + BLOCK])
        return [Lookup(*each) for each in zip(codes, misses, strict=True)]

    def get(self, item_id: int, source: str | None = None) -> tuple[int, ...] | None:
        """Codes of one item, or None for a miss: a point read on plain integers, where NumPy's calls would cost more than the work."""
        ids, directory, codes = self._memory
        source = self._source(source)
        bucket = (_mix64(item_id) >> 32) * (len(directory) - 1) >> 32
        for position in range(directory[bucket], directory[bucket + 1]):
            if ids[position] == item_id:
                found = _row(codes[source], position, self.contracts[source].levels)
                return None if found[0] == UNKNOWN_CODE else found
        return None

    def items_with_prefix(self, prefix: Sequence[int], source: str | None = None) -> npt.NDArray[np.int64]:
        """Reverse look-up: ids of all items whose codes begin with `prefix`, int64, ascending.

        Raises:
            InputError: unless the prefix has 1 to L codes, each in [0, K).
        """
        source = self._source(source)
        contract, wanted = self.contracts[source], tuple(int(code) for code in prefix)
        if not 1 <= len(wanted) <= contract.levels or not all(0 <= code < contract.codebook_size for code in wanted):
            raise InputError(f"{self.path}: prefix {wanted} is not 1 to {contract.levels} codes below {contract.codebook_size}")
        stored, order = self._memory[2][source], self.by_prefix[source]

        def leading(position: int) -> tuple[int, ...]:
            return _row(stored, position, contract.levels)[: len(wanted)]

        first = bisect_left(order.data, wanted, key=leading)
        end = bisect_right(order.data, wanted, lo=first, key=leading)
        return np.sort(self.ids[order[first:end]])

    def batches(self, size: int) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.uint16]]]]:
        """Everything in stored order, `size` items at a time: ids and, by source, codes (UNKNOWN_CODE where an item has none)."""
        for start in range(0, self.rows, size):
            yield self.ids[start : start + size], {source: codes[start : start + size] for source, codes in self.codes.items()}

    def _source(self, source: str | None) -> str:
        if source is None and len(self.contracts) == 1:
            return next(iter(self.contracts))
        if source is None or source not in self.contracts:
            asked = "say which source is meant" if source is None else f"there is no source '{source}'"
            raise InputError(f"{self.path}: {asked}; it has {', '.join(sorted(self.contracts))}")
        return source

    @cached_property
    def _memory(self) -> tuple[memoryview, memoryview, dict[str, memoryview]]:
        """The mapped ids, directory and flat codes as buffers that hand out Python integers."""
        return self.ids.data, self.directory.data, {source: codes.reshape(-1).data for source, codes in self.codes.items()}


def _row(codes: memoryview, position: int, levels: int) -> tuple[int, ...]:
    return tuple(codes[position * levels : (position + 1) * levels])


def _mix64(value: int) -> int:
    """`ids.mix64` on one Python integer."""
    mixed = (value + 0x9E3779B97F4A7C15) & WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & WORD
    return mixed ^ (mixed >> 31)
