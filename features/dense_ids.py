"""The dense id map: one table row per item, known from the item's first impression on; the individual-embeddings baseline."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset, iter_row_groups
from features.errors import InputError
from features.files import publish_folder, sha256_file, write_durably

META = "meta.json"
FILES = ("ids.npy", "table_rows.npy", "first_rows.npy")
MERGE_EVERY = 1 << 20  # ids held before they are merged, or as many as there are by then
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class DenseIdMap:
    """Item ids in ascending order, and the table row of each.

    Attributes:
        ids: int64 [N], ascending.
        table_rows: int64 [N], each of 0 .. N-1 once; an item keeps its row in every map that extends this one.
        first_rows: int64 [N], the number of the item's first row in the impressions; -1 for an item of the map that this one extends,
            which is known from the start.
    """

    ids: Int64
    table_rows: Int64
    first_rows: Int64

    def rows(self, ids: Int64, known_before: int) -> Int64:
        """Table rows of `ids` (int64 [M]); -1 for an item whose first impression is not before row `known_before`.

        A stream knows an item only once a batch with it has been trained on. Judged by row numbers, that is the same on every rank.
        """
        position = np.searchsorted(self.ids, ids)
        position[position == len(self.ids)] = 0
        known = (self.ids[position] == ids) & (self.first_rows[position] < known_before)
        return np.where(known, self.table_rows[position], -1)

    @property
    def inherited(self) -> int:
        """M, items of the map that this one extends; they have rows 0 .. M-1."""
        return int(np.count_nonzero(self.first_rows < 0))

    def sha256(self, items: int | None = None) -> str:
        """Hex sha256 of the ids in rows 0 .. `items`-1, in the order of their rows; of all by default.

        A map extends another just where its first rows have the other's hash.
        """
        ids_by_row = np.empty(len(self.ids), np.int64)
        ids_by_row[self.table_rows] = self.ids
        return hashlib.sha256(ids_by_row[:items].tobytes()).hexdigest()

    def misplaced(self, older: "DenseIdMap") -> tuple[int, int, int] | None:
        """The first item of an older map that has another row here: its id, its row there, and here, -1 for none. None if all fit."""
        here = self.rows(older.ids, np.iinfo(np.int64).max)
        wrong = np.flatnonzero(here != older.table_rows)
        return (int(older.ids[wrong[0]]), int(older.table_rows[wrong[0]]), int(here[wrong[0]])) if len(wrong) else None

    @classmethod
    def build(cls, impressions: Dataset, extends: "DenseIdMap | None" = None) -> "DenseIdMap":
        """One pass over the impressions; memory grows with the items, not with the rows.

        Args:
            impressions: whose targets get rows, in ascending order of their ids.
            extends: an older map, whose items keep their rows, whether they are impressed again or not; new ones get the rows after them.
        """
        before = np.empty(0, np.int64) if extends is None else extends.table_rows
        held = [] if extends is None else [(extends.ids, np.full(len(before), -1, np.int64))]
        ids, first_rows = _merged(held)
        waiting = 0
        for part in _firsts(impressions):
            held.append(part)
            waiting += len(part[0])
            if waiting >= max(MERGE_EVERY, len(ids)):
                ids, first_rows = _merged(held)
                held, waiting = [(ids, first_rows)], 0
        ids, first_rows = _merged(held)
        table_rows = np.empty(len(ids), np.int64)
        table_rows[first_rows < 0] = before
        table_rows[first_rows >= 0] = np.arange(len(before), len(ids))
        return cls(ids, table_rows, first_rows)

    def save(self, path: Path) -> None:
        """Publish as a folder of three .npy files, and meta.json with N, M, the hash of the ids, and the sha256 of each file."""
        staging = path.with_name(f".{path.name}.tmp")
        staging.mkdir(parents=True, exist_ok=True)
        for name, array in zip(FILES, (self.ids, self.table_rows, self.first_rows), strict=True):
            np.save(staging / name, array)
        files = {name: sha256_file(staging / name) for name in FILES}
        write_durably(staging / META, json.dumps({**self.describe(), "files": files}).encode())
        publish_folder(staging, path)

    def describe(self) -> dict[str, int | str]:
        """What a trained table must say of the map behind it: `items` N, `inherited` M, and `sha256`."""
        return {"items": len(self.ids), "inherited": self.inherited, "sha256": self.sha256()}

    @classmethod
    def load(cls, path: Path) -> "DenseIdMap":
        """Memory-map a saved map, whose bytes are all checked. Raises InputError naming the folder if it is none, or the damaged file."""
        try:
            files = json.loads((path / META).read_text())["files"]
            damaged = [name for name in FILES if sha256_file(path / name) != files[name]]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: no dense id map here ({error})") from error
        if damaged:
            raise InputError(f"{path / damaged[0]}: damaged, its sha256 differs from {META}")
        return cls(*(np.load(path / name, mmap_mode="r", allow_pickle=False) for name in FILES))


def _firsts(impressions: Dataset) -> Iterator[tuple[Int64, Int64]]:
    """By row group the distinct targets, ascending, and the row of each one's first impression in it."""
    start = 0
    for group in iter_row_groups(impressions, ["item_id"]):
        ids, first = np.unique(group.column("item_id").to_numpy(), return_index=True)
        yield ids, start + first
        start += group.num_rows


def _merged(held: list[tuple[Int64, Int64]]) -> tuple[Int64, Int64]:
    """Distinct ids, ascending, each with the row that comes first in `held`, which is the lowest."""
    if not held:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ids, first = np.unique(np.concatenate([ids for ids, _ in held]), return_index=True)
    return ids, np.concatenate([rows for _, rows in held])[first]
