"""The stores that ours is compared with: LMDB, a DuckDB table, and sorted arrays under a binary search; same ids, same answers."""

from pathlib import Path

import duckdb
import lmdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.semantic_id import UNKNOWN_CODE

Ids = NDArray[np.int64]
Codes = NDArray[np.uint16]
SIGN = np.uint64(1 << 63)


class Sorted:
    """Arrays in ascending order of the ids, in memory; queries are sorted too, which suits it better than random ones."""

    def __init__(self, ids: Ids, codes: Codes) -> None:
        order = np.argsort(ids)
        self.ids, self.codes = ids[order], codes[order]

    def lookup(self, ids: Ids) -> Codes:
        """Codes uint16 [N, L] of ids int64 [N]."""
        order = np.argsort(ids)
        asked = ids[order]
        at = np.minimum(np.searchsorted(self.ids, asked), len(self.ids) - 1)
        found = self.codes.take(at, axis=0)
        found[self.ids.take(at) != asked] = UNKNOWN_CODE
        codes = np.empty_like(found)
        codes[order] = found
        return codes


class Lmdb:
    """A plain LMDB environment, big-endian id to codes; with fixed sizes, so that it can hand out a batch as one array."""

    def __init__(self, folder: Path, ids: Ids, codes: Codes) -> None:
        self.levels = codes.shape[1]
        self.environment = lmdb.open(str(folder), map_size=1 << 36, max_dbs=2, sync=False)
        self.plain = self.environment.open_db(b"plain")
        self.fixed = self.environment.open_db(b"fixed", dupsort=True, dupfixed=True)
        order = np.argsort(ids)
        keys, values, size = _keys(ids[order]), codes[order].tobytes(), 2 * self.levels
        for database in (self.plain, self.fixed):
            pairs = ((key, values[at * size : (at + 1) * size]) for at, key in enumerate(keys))
            with self.environment.begin(write=True) as writing:
                writing.cursor(database).putmulti(pairs, append=True)
        self.reading = self.environment.begin()

    def lookup(self, ids: Ids) -> Codes:
        """One `get` per id."""
        get, database, unknown = self.reading.get, self.plain, b"\xff" * (2 * self.levels)
        return np.frombuffer(b"".join([get(key, unknown, database) for key in _keys(ids)]), np.uint16).reshape(-1, self.levels)

    def lookup_multi(self, ids: Ids) -> Codes:
        """One `getmulti` into an array, ids sorted."""
        order = np.argsort(ids)
        asked = ids[order]
        data = self.reading.cursor(self.fixed).getmulti(_keys(asked), dupdata=True, dupfixed_bytes=2 * self.levels, keyfixed=True)
        pairs = np.frombuffer(data, np.dtype([("id", ">u8"), ("codes", np.uint16, (self.levels,))]))
        got = (pairs["id"].astype(np.uint64) ^ SIGN).view(np.int64)
        at = np.minimum(np.searchsorted(got, asked), len(got) - 1)
        found = pairs["codes"].take(at, axis=0)
        found[got.take(at) != asked] = UNKNOWN_CODE
        codes = np.empty_like(found)
        codes[order] = found
        return codes

    def get(self, item_id: int) -> tuple[int, ...] | None:
        """Point read."""
        value = self.reading.get((item_id + (1 << 63)).to_bytes(8), None, self.plain)
        return None if value is None else tuple(memoryview(value).cast("H"))


class DuckDb:
    """A table joined with the batch, which is registered as it is, on one thread."""

    def __init__(self, ids: Ids, codes: Codes) -> None:
        self.levels = codes.shape[1]
        self.connection = duckdb.connect(config={"threads": 1})
        order = np.argsort(ids)  # so that each row group has a narrow range of ids
        self.connection.register(
            "given", pa.table({"id": ids[order], **{f"c{level}": codes[order, level] for level in range(self.levels)}})
        )
        self.connection.execute("CREATE TABLE store AS SELECT * FROM given")
        self.connection.unregister("given")

    def lookup(self, ids: Ids) -> Codes:
        """Codes uint16 [N, L] of ids int64 [N]."""
        self.connection.register("batch", pa.table({"id": ids, "spot": np.arange(len(ids))}))
        names = [f"c{level}" for level in range(self.levels)]
        answer = self.connection.execute(f"SELECT spot, {', '.join(names)} FROM batch JOIN store USING (id)").fetchnumpy()
        codes = np.full((len(ids), self.levels), UNKNOWN_CODE, np.uint16)
        codes[answer["spot"]] = np.stack([answer[name] for name in names], axis=1)
        return codes


def _keys(ids: Ids) -> list[bytes]:
    """Eight bytes each, in the order of the ids."""
    data = (ids.view(np.uint64) ^ SIGN).astype(">u8").tobytes()
    return [data[at : at + 8] for at in range(0, len(data), 8)]
