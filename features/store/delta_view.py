"""What one transaction on the delta of an entity store sees: appended items, relative to one version of the store.

One record per item and source (records.py), and one that describes them: the version (`base`), the contracts of the sources, and
how many records there are. Every transaction sees and leaves all of them in agreement.
"""

import json
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.semantic_id import CODE_DTYPE, UNKNOWN_CODE, SidContract, require_same_codes
from features.store import records
from features.store.snapshot import Snapshot

DELTA = "delta"  # the folder
DELTA_LIMIT = 4 << 30  # bytes of the pages that hold a delta's records, where the caller does not say
_META = b"\xffmeta"  # sorts after all records

Records = dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]]


class View:
    """What one LMDB transaction sees.

    Attributes:
        path: LMDB's data file.
        base: number of the version that the delta is relative to; 0 before the first append.
        contracts: source to its contract.
        items: records, over all sources.
        described: the record that says so, as it was read; None before the first append.
    """

    def __init__(self, path: Path, transaction: Any) -> None:
        self.path, self._where, self._transaction = path, str(path), transaction
        self.base, self.items = 0, 0
        self.contracts: dict[str, SidContract] = {}
        self.described: bytes | None = transaction.get(_META)
        if self.described is not None:
            self.base, self.items, contracts = _read_meta(self.described, self._where)
            self.contracts = {contract.source: contract for contract in contracts}
        elif transaction.stat()["entries"]:
            raise InputError(f"{path}: damaged, it has records but not the one that describes them")

    def require_base(self, number: int) -> None:
        """Refuse a version older than the one that the delta is relative to: items folded since would be missing. Raises InputError."""
        if self.base > number:
            raise InputError(f"{self._where}: belongs to version {self.base} of the store, but the current one is {number}")

    @property
    def bytes(self) -> int:
        """Size of the pages that hold records."""
        stat = self._transaction.stat()
        return int(stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]))

    def lookup(self, ids: npt.NDArray[np.int64], source: str) -> npt.NDArray[np.uint16]:
        """Codes uint16 [N, L] of ids int64 [N]; UNKNOWN_CODE where there is no record. Raises InputError naming a damaged record's item."""
        levels = self.contracts[source].levels
        distinct, positions = np.unique(ids, return_inverse=True)
        wanted = records.as_bytes(records.key_rows(self._number(source), distinct))
        keys, values = _columns(self._transaction.cursor().getmulti(wanted), self._where)
        codes = np.full((len(distinct), levels), UNKNOWN_CODE, CODE_DTYPE)
        codes[np.searchsorted(distinct, records.ids_of(keys))] = records.codes_of(keys, values, levels, self._where)
        return codes[positions]

    def get(self, item_id: int, source: str) -> tuple[int, ...] | None:
        """Codes of one item, or None."""
        key = records.key_of(self._number(source), item_id)
        value = self._transaction.get(key)
        return None if value is None else records.codes_of_one(key, value, self.contracts[source].levels, self._where)

    def fill(self, ids: npt.NDArray[np.int64], codes: npt.NDArray[np.uint16], source: str) -> None:
        """Put in place the codes of those ids whose codes uint16 [N, L] are UNKNOWN_CODE, where the delta has them."""
        missing = np.flatnonzero(codes[:, 0] == UNKNOWN_CODE)
        codes[missing] = self.lookup(ids[missing], source)

    def all_records(self) -> Records:
        """Everything, each record checked and all of them counted: source to ids int64 [N], ascending, and codes uint16 [N, L].

        Raises:
            InputError: naming the item whose record is damaged, or how many records are missing.
        """
        keys, values = _columns([pair for pair in self._transaction.cursor().iternext() if pair[0] != _META], self._where)
        if len(keys) != self.items:
            raise InputError(f"{self._where}: damaged, it holds {len(keys)} records, not {self.items}")
        found: Records = {}
        for source, contract in self.contracts.items():
            own = np.flatnonzero(keys[:, 0] == self._number(source))
            codes = records.codes_of(keys[own], [values[index] for index in own], contract.levels, self._where)
            found[source] = records.ids_of(keys[own]), codes
        if sum(len(ids) for ids, _ in found.values()) != self.items:
            raise InputError(f"{self._where}: damaged, it holds records of a source that it does not have")
        return found

    def verify(self) -> None:
        """Check every record, their number, and that each is found by its id. Raises InputError naming what is damaged."""
        for source, (ids, codes) in self.all_records().items():
            if not np.array_equal(self.lookup(ids, source), codes):
                raise InputError(f"{self._where}: damaged, it holds records of '{source}' that cannot be found by their ids")

    def append(self, ids: npt.NDArray[np.int64], codes: npt.NDArray[np.uint16], contract: SidContract, snapshot: Snapshot) -> None:
        """Add what neither the delta nor `snapshot` has; in a writing transaction.

        Args:
            ids: int64 [N].
            codes: uint16 [N, L].
            contract: of the codes.
            snapshot: the version that the delta is relative to.

        Raises:
            InputError: naming the item that has another Semantic ID there, or two in `codes`.
        """
        source = contract.source
        self.contracts.setdefault(source, contract)
        distinct, first, positions = np.unique(ids, return_index=True, return_inverse=True)
        require_same_codes(ids, codes, codes[first][positions], source, "the same call")
        codes = codes[first]
        published = snapshot.lookup(distinct, source).codes
        self.fill(distinct, published, source)
        new = published[:, 0] == UNKNOWN_CODE
        require_same_codes(distinct[~new], codes[~new], published[~new], source, str(self.path.parents[1]))
        keys = records.key_rows(self._number(source), distinct[new])
        pairs = zip(records.as_bytes(keys), records.as_bytes(records.value_rows(keys, codes[new])), strict=True)
        _, added = self._transaction.cursor().putmulti(list(pairs), overwrite=False)
        self.items += added

    def settle(self, snapshot: Snapshot, number: int) -> None:
        """Make the delta relative to a newer version, of this number: what that has leaves the delta, what it lacks stays.

        Raises:
            InputError: naming an item that would have two Semantic IDs under one contract, or, under a new contract, would be lost.
        """
        for source, (ids, codes) in self.all_records().items():
            had, has = self.contracts[source], snapshot.contract(source)
            found = snapshot.lookup(ids, source).codes
            missing = found[:, 0] == UNKNOWN_CODE
            if had == has:
                require_same_codes(ids[~missing], codes[~missing], found[~missing], source, "the new version")
            elif missing.any():
                raise InputError(
                    f"{self._where}: {np.count_nonzero(missing)} appended items, the first {ids[missing][0]}, are not in the version to "
                    f"publish, which replaces codebook {had.codebook_hash[:12]} generation {had.generation} of '{source}' by "
                    f"{has.codebook_hash[:12]} generation {has.generation}: encode them too"
                )
            for key in records.as_bytes(records.key_rows(self._number(source), ids[~missing])):
                self._transaction.delete(key)
            self.items -= int(np.count_nonzero(~missing))
            self.contracts[source] = has
        self.base = number

    def write_meta(self) -> None:
        """Store the attributes; `Delta.writing` calls it."""
        contracts = [contract.to_json() for contract in self.contracts.values()]
        described = json.dumps({"base": self.base, "items": self.items, "contracts": contracts}).encode()
        self._transaction.put(_META, zlib.crc32(described).to_bytes(records.CRC_BYTES, "big") + described)

    def _number(self, source: str) -> int:
        """The source's place in the contracts, which no source ever leaves."""
        return list(self.contracts).index(source)


@lru_cache(maxsize=16)  # most transactions find it unchanged
def _read_meta(stored: bytes, where: str) -> tuple[int, int, tuple[SidContract, ...]]:
    crc, described = stored[: records.CRC_BYTES], stored[records.CRC_BYTES :]
    if zlib.crc32(described).to_bytes(records.CRC_BYTES, "big") != crc:
        raise InputError(f"{where}: damaged, the checksum of the record that describes it differs")
    meta = json.loads(described)
    return meta["base"], meta["items"], tuple(SidContract.from_json(contract, where) for contract in meta["contracts"])


def _columns(pairs: Sequence[tuple[bytes, bytes]], where: str) -> tuple[npt.NDArray[np.uint8], list[bytes]]:
    """Keys uint8 [N, 9] and values of records."""
    if any(len(key) != records.KEY_BYTES for key, _ in pairs):
        raise InputError(f"{where}: damaged, a key has another length than an item's")
    keys = np.frombuffer(b"".join(key for key, _ in pairs), np.uint8).reshape(-1, records.KEY_BYTES)
    return keys, [value for _, value in pairs]
