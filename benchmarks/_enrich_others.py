"""The enrichment that ours is compared with, as one would write it with Polars, DuckDB and pandas; same rows, same keys and codes.

Each is the fastest of the ways that were tried: the flattened ids are joined with the items' numbers alone, and NumPy then takes an item's
keys or codes by its number, in about two thirds of the time of joins that bring the codes along. Keys are computed once per item of the
store, not per id of the log. Lists are rebuilt from their offsets: group-by and list aggregation take two to five times as long.
"""

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from _enrich_data import CONTRACT, LONGEST, TABLE_ROWS
from numpy.typing import NDArray

from features.schema import HISTORY_CODES, TARGET_CODES
from features.semantic_id import UNKNOWN_CODE
from features.store.versions import open_snapshot

K, L = CONTRACT.codebook_size, CONTRACT.levels
TARGET, HISTORY = TARGET_CODES + CONTRACT.source, HISTORY_CODES + CONTRACT.source
ZSTD_LEVEL = 1  # pyarrow's default, and so that of ours and pandas; that of Polars and DuckDB is slower
Numbers = NDArray[np.integer]  # of items of the store, from 0


class Contestant(ABC):
    """What all three share: the store as arrays, and what NumPy does.

    Attributes:
        files: of the impressions.
        ids: int64 [S], of the store's items.
        threads: to work on.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the store; the work that is timed finds it there."""
        self.files, self.threads = sorted(str(file) for file in (folder / "impressions").glob("part-*")), threads
        snapshot = open_snapshot(folder / "store")
        self.ids, codes = snapshot.ids.copy(), snapshot.codes[CONTRACT.source]
        self._codes = np.concatenate([codes, np.full((1, L), UNKNOWN_CODE, np.uint16)])  # the last one is that of unknown ids

    @abstractmethod
    def keys(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Values and lengths of the item KJT of all rows, as features.kjt makes them."""

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write all rows with their codes to one Parquet file."""

    def digest(self) -> str:
        """Of the item KJT's values and lengths."""
        return "".join(hashlib.sha256(each.tobytes()).hexdigest() for each in self.keys())

    def _values(self, numbers: Numbers) -> NDArray[np.int64]:
        """Table rows of items, in the order of the numbers; H for an unknown one."""
        code, rows = self._codes.astype(np.uint64), np.uint64(TABLE_ROWS)
        keys = np.empty((len(code), L), np.uint64)
        keys[:, 0] = code[:, 0] % rows
        for level in range(1, L):
            keys[:, level] = (K * (keys[:, level - 1] + 1) + code[:, level]) % rows
        keys[-1] = rows
        return keys.view(np.int64).take(numbers, axis=0, mode="wrap").ravel()

    def _targets(self, numbers: Numbers) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(self._flat_codes(numbers), L)

    def _histories(self, numbers: Numbers, lengths: NDArray[np.integer], lists: Any = pa.ListArray) -> pa.Array:
        return lists.from_arrays(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) * L, self._flat_codes(numbers))

    def _flat_codes(self, numbers: Numbers) -> pa.Array:
        return pa.array(self._codes.take(numbers, axis=0, mode="wrap").ravel())


class Polars(Contestant):
    """Lazy scan; explode and left join, in order. POLARS_MAX_THREADS must be set before this module is imported."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._store = pl.LazyFrame({"id": self.ids, "number": np.arange(len(self.ids), dtype=np.uint32)})

    def keys(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Target and history as one list, which is never empty."""
        items = pl.scan_parquet(self.files).select(id=pl.concat_list("item_id", "history_item_ids"))
        lengths, numbers = pl.collect_all([items.select(pl.col("id").list.len()), self._joined(items.explode("id"))])
        return self._values(numbers["number"].to_numpy()), bag_lengths(lengths["id"].to_numpy() - 1)

    def write(self, path: Path) -> None:
        """Empty lists are left out of the explosion, which would give each a null."""
        log = pl.scan_parquet(self.files).collect()
        lengths, targets = log["history_item_ids"].list.len().to_numpy(), log.lazy().select(id="item_id")
        history = log.lazy().select(id="history_item_ids").filter(pl.col("id").list.len() > 0).explode("id")
        of_targets, of_history = (self._joined(ids).collect()["number"].to_numpy() for ids in (targets, history))
        codes = {TARGET: self._targets(of_targets), HISTORY: self._histories(of_history, lengths, pa.LargeListArray)}
        added = [pl.Series(name, pl.from_arrow(each)) for name, each in codes.items()]
        log.with_columns(added).write_parquet(path, compression="zstd", compression_level=ZSTD_LEVEL)

    def _joined(self, ids: pl.LazyFrame) -> pl.LazyFrame:
        found = ids.join(self._store, on="id", how="left", maintain_order="left")
        return found.select(pl.col("number").fill_null(len(self.ids)))


class DuckDb(Contestant):
    """Lists come out as Arrow, whose offsets keep the order; an inner join says at which spot each item stands."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connection = duckdb.connect(config={"threads": self.threads})
        self._connection.register("given", pa.table({"id": self.ids, "number": np.arange(len(self.ids), dtype=np.int32)}))
        self._connection.execute("CREATE TABLE store AS SELECT * FROM given")

    def keys(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Target and history as one list."""
        items = self._read("list_prepend(item_id, history_item_ids) AS ids").column("ids").combine_chunks()
        return self._values(self._joined(items.values)), bag_lengths(np.diff(items.offsets.to_numpy()) - 1)

    def write(self, path: Path) -> None:
        """COPY from Arrow."""
        log = self._read("*")
        targets, history = (log.column(name).combine_chunks() for name in ("item_id", "history_item_ids"))
        log = log.append_column(TARGET, self._targets(self._joined(targets)))
        log = log.append_column(HISTORY, self._histories(self._joined(history.values), np.diff(history.offsets.to_numpy())))
        self._connection.register("enriched", log)
        self._connection.execute(f"COPY enriched TO '{path}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {ZSTD_LEVEL})")

    def _read(self, columns: str) -> pa.Table:
        return self._connection.sql(f"SELECT {columns} FROM read_parquet({self.files})").to_arrow_table()

    def _joined(self, ids: pa.Array) -> Numbers:
        self._connection.register("asked", pa.table({"id": ids, "spot": np.arange(len(ids), dtype=np.int32)}))
        found = self._connection.execute("SELECT spot, number FROM asked JOIN store USING (id)").fetchnumpy()
        numbers = np.full(len(ids), -1, np.int32)
        numbers[found["spot"]] = found["number"]
        return numbers


class Pandas(Contestant):
    """An Index of the store's ids, hashed once; Arrow-backed lists, flattened."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._index = pd.Index(self.ids)
        self._index.get_indexer(self.ids[:1])  # which hashes it

    def keys(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Numbers of targets and histories, put together by NumPy."""
        log = pd.read_parquet(self.files, columns=["item_id", "history_item_ids"], dtype_backend="pyarrow")
        targets, history, lengths = self._joined(log)
        numbers, is_history = np.empty(len(targets) + len(history), np.int64), np.ones(len(targets) + len(history), bool)
        target_at = np.cumsum(lengths) - lengths + np.arange(len(lengths))
        is_history[target_at] = False
        numbers[target_at], numbers[is_history] = targets, history
        return self._values(numbers), bag_lengths(lengths)

    def write(self, path: Path) -> None:
        """Arrow-backed columns."""
        log = pd.read_parquet(self.files, dtype_backend="pyarrow")
        targets, history, lengths = self._joined(log)
        codes = {TARGET: self._targets(targets), HISTORY: self._histories(history, lengths)}
        log.assign(**{name: pd.arrays.ArrowExtensionArray(each) for name, each in codes.items()}).to_parquet(path, compression="zstd")

    def _joined(self, log: pd.DataFrame) -> tuple[Numbers, Numbers, NDArray[np.int64]]:
        history = log["history_item_ids"]
        targets, of_history = (self._index.get_indexer(ids.to_numpy()) for ids in (log["item_id"], history.list.flatten()))
        return targets, of_history, history.list.len().to_numpy().astype(np.int64)


def bag_lengths(history: NDArray[np.integer]) -> NDArray[np.int32]:
    """Of 1 + LONGEST bags a row, the first and as many after it as the row has history items hold L keys."""
    full = np.tri(LONGEST + 1, 1 + LONGEST, dtype=np.int32) * np.int32(L)
    return full.take(history, axis=0).ravel()
