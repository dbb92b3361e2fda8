"""What a Redis server that stands in for an entity store's folder holds, and how it is read and written.

Keys of a store named NAME; a KEY has 9 bytes, source and id, and each value a CRC-32 (features/store/records.py):
    NAME:current        number of the current version; one SET moves it
    NAME:v3             contracts of version 3, in the order of their source numbers, and its records' count
    NAME:v3:KEY         codes
    NAME:new:TAG:KEY    codes of an appended item; TAG stands for a contract, so that they live as long as it does, whatever is published
    NAME:new:TAG        set of the appended ids, 8 bytes each
What is acknowledged is as durable as the server makes it: with `appendonly yes` and `appendfsync always`, as durable as the folder.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.semantic_id import CODE_DTYPE, UNKNOWN_CODE, SidContract
from features.store import records
from features.store.redis_server import Conflict, Server

CHUNK = 8192  # records per round trip


class Space:
    """All keys that are `prefix` and a record's key of this source number.

    Attributes:
        prefix: e.g. b"items:v3:".
        contract: of the codes.
    """

    def __init__(self, client: Any, where: str, prefix: str, number: int, contract: SidContract) -> None:
        self._client, self._where, self._number = client, where, number
        self.prefix, self.contract = prefix.encode(), contract

    def read(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
        """Codes uint16 [N, L] of ids int64 [N]; UNKNOWN_CODE where there is no record."""
        codes = np.full((len(ids), self.contract.levels), UNKNOWN_CODE, CODE_DTYPE)
        for start in range(0, len(ids), CHUNK):
            keys = records.key_rows(self._number, ids[start : start + CHUNK])
            self._take(keys, self._client.mget(self._full(keys)), codes[start : start + CHUNK])
        return codes

    def scan(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]]:
        """All items, as ids int64 [n] and codes uint16 [n, L]; some may come twice."""
        width = len(self.prefix) + records.KEY_BYTES
        found = self._client.scan_iter(match=self.prefix + b"*", count=CHUNK)
        own = (key for key in found if len(key) == width and key[len(self.prefix)] == self._number)
        while chunk := list(islice(own, CHUNK)):
            keys = np.frombuffer(b"".join(chunk), np.uint8).reshape(-1, width)[:, len(self.prefix) :]
            codes = np.full((len(keys), self.contract.levels), UNKNOWN_CODE, CODE_DTYPE)
            self._take(keys, self._client.mget(chunk), codes)
            yield records.ids_of(keys), codes

    def write(self, ids: npt.NDArray[np.int64], codes: npt.NDArray[np.uint16]) -> int:
        """Write records, none over another, and return how many were new. Raises InputError naming an item with two Semantic IDs."""
        written = 0
        for start in range(0, len(ids), CHUNK):
            pipe = self._client.pipeline(transaction=False)
            pairs = self.pairs(ids[start : start + CHUNK], codes[start : start + CHUNK])
            for key, value in pairs.items():
                pipe.set(key, value, nx=True, get=True)
            before = pipe.execute()
            written += before.count(None)
            differs = [had not in (None, value) for had, value in zip(before, pairs.values(), strict=True)]
            if any(differs):
                raise InputError(
                    f"{self._where}: item id {ids[start + differs.index(True)]} has two Semantic IDs of source '{self.contract.source}'"
                )
        return written

    def pairs(self, ids: npt.NDArray[np.int64], codes: npt.NDArray[np.uint16]) -> dict[bytes, bytes]:
        """Key to value."""
        keys = records.key_rows(self._number, ids)
        return dict(zip(self._full(keys), records.as_bytes(records.value_rows(keys, codes)), strict=True))

    def _full(self, keys: npt.NDArray[np.uint8]) -> list[bytes]:
        return [self.prefix + key for key in records.as_bytes(keys)]

    def _take(self, keys: npt.NDArray[np.uint8], values: list[bytes | None], codes: npt.NDArray[np.uint16]) -> None:
        found = [value for value in values if value is not None]
        present = np.array([value is not None for value in values], bool)
        codes[present] = records.codes_of(keys[present], found, self.contract.levels, self._where)


class Version(NamedTuple):
    """A version's number, and the contracts of its sources in the order of their numbers."""

    number: int
    contracts: dict[str, SidContract]


class Layout:
    """The keys of one named store.

    Attributes:
        client: the server's client.
        where: server and name in words, for errors.
    """

    def __init__(self, server: Server, name: str) -> None:
        self.client, self.name = server.client, name
        self.where = f"{server.where} store '{name}'"

    def current(self) -> Version:
        """The current version. Raises InputError where there is none."""
        while (number := self.client.get(self.key("current"))) is not None:
            described = self.client.get(self.key(f"v{int(number)}"))
            if described is not None:
                contracts = [SidContract.from_json(contract, self.where) for contract in json.loads(described)["contracts"]]
                return Version(int(number), {contract.source: contract for contract in contracts})
            # Gone between the two reads, if another is current by now.
            if self.client.get(self.key("current")) == number:
                raise InputError(f"{self.where}: version {int(number)} is current, but what describes it is missing")
        raise InputError(f"{self.where}: nothing was published here")

    def contract(self, version: Version, source: str | None) -> SidContract:
        """The contract of one source, or of the only one. Raises InputError where there is no telling which."""
        if source is None and len(version.contracts) == 1:
            return next(iter(version.contracts.values()))
        if source is None or source not in version.contracts:
            raise InputError(f"{self.where}: say which source is meant; it has {', '.join(sorted(version.contracts))}")
        return version.contracts[source]

    def space(self, version: Version, source: str) -> Space:
        """A version's records of one source."""
        number = list(version.contracts).index(source)
        return Space(self.client, self.where, self.key(f"v{version.number}:"), number, version.contracts[source])

    def appended(self, contract: SidContract) -> Space:
        """The records of items appended under a contract."""
        return Space(self.client, self.where, f"{self.members(contract)}:", 0, contract)

    def members(self, contract: SidContract) -> str:
        """Key of the set of those items' ids."""
        tag = hashlib.sha256(json.dumps(contract.to_json(), sort_keys=True).encode()).hexdigest()[:16]
        return self.key(f"new:{tag}")

    def key(self, suffix: str) -> str:
        """NAME:suffix."""
        return f"{self.name}:{suffix}"


def executed(pipe: Any) -> bool:
    """Execute a transaction; False where a watched key was changed first."""
    try:
        pipe.execute()
    except Conflict:
        return False
    return True
