"""The dense id map: one table row per item, known from the item's first impression on; the individual-embeddings baseline."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.dataset import Dataset, iter_row_groups
from features.errors import InputError
from features.files import publish_folder, write_durably


@dataclass(frozen=True)
class DenseIdMap:
    """Item ids in ascending order; an item's table row is its position.

    Attributes:
        ids: int64 [N], ascending.
        first_rows: int64 [N], the number of the item's first row in the impressions.
    """

    ids: NDArray[np.int64]
    first_rows: NDArray[np.int64]

    def rows(self, ids: NDArray[np.int64], known_before: int) -> NDArray[np.int64]:
        """Table rows of `ids` (int64 [M]); -1 for an item whose first impression is not before row `known_before`.

        A stream knows an item only once a batch with it has been trained on. Judged by row numbers, that is the same on every rank.
        """
        position = np.searchsorted(self.ids, ids)
        position[position == len(self.ids)] = 0
        known = (self.ids[position] == ids) & (self.first_rows[position] < known_before)
        return np.where(known, position, -1)

    @classmethod
    def build(cls, impressions: Dataset) -> "DenseIdMap":
        """One pass over the impressions; memory grows with the items, not with the rows."""
        ids = np.empty(0, np.int64)
        first_rows = np.empty(0, np.int64)
        start = 0
        for group in iter_row_groups(impressions, ["item_id"]):
            new = group.column("item_id").to_numpy()
            ids, first = np.unique(np.concatenate([ids, new]), return_index=True)
            first_rows = np.concatenate([first_rows, np.arange(start, start + len(new))])[first]
            start += len(new)
        return cls(ids, first_rows)

    def save(self, path: Path) -> None:
        """Publish as a folder of two .npy files."""
        staging = path.with_name(f".{path.name}.tmp")
        staging.mkdir(parents=True, exist_ok=True)
        np.save(staging / "ids.npy", self.ids)
        np.save(staging / "first_rows.npy", self.first_rows)
        write_durably(staging / "meta.json", json.dumps({"items": len(self.ids)}).encode())
        publish_folder(staging, path)

    @classmethod
    def load(cls, path: Path) -> "DenseIdMap":
        """Memory-map a saved map. Raises InputError naming the folder if it is none."""
        try:
            items = json.loads((path / "meta.json").read_text())["items"]
            ids, first_rows = (np.load(path / name, mmap_mode="r", allow_pickle=False) for name in ("ids.npy", "first_rows.npy"))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: no dense id map here ({error})") from error
        if ids.shape != (items,) or first_rows.shape != (items,):
            raise InputError(f"{path}: damaged dense id map, {ids.shape[0]} ids where meta.json has {items}")
        return cls(ids, first_rows)
