"""Which item lies at which position of a batch: targets and their histories, from Arrow lists to NumPy arrays, without a loop over rows.

Legend: n rows, T history positions, N items (targets and real history items), M of them in histories, L code levels.
"""

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.ids import mix64
from features.representation import Where
from features.schema import HISTORY_CODES, TARGET_CODES
from features.semantic_id import UNKNOWN_CODE


class Positions:
    """The layout of a batch: example b has 1 + lengths[b] items, its target and then its history, most recent first.

    With T=2 and histories of one and three items::

        row         0              1
        position    target hist 1  target hist 1 hist 2
        bag         0      1       3      4      5        (b * (1 + T) + position)

    Attributes:
        rows: n rows of impressions.
        history_length: T; of longer histories the T most recent items count.
        lengths: int64 [n], history items of each row.
    """

    def __init__(self, rows: pa.Table, history_length: int) -> None:
        """Read the lengths of the histories."""
        self.rows, self.history_length = rows, history_length
        self._full = list_lengths(rows, "history_item_ids" if "history_item_ids" in rows.column_names else "history_timestamps")
        self.lengths = np.minimum(self._full, history_length)

    def present(self, size: int) -> NDArray[np.bool_]:
        """Which bags have an item: bool [size, 1 + T]; rows n and above are padding."""
        items = np.zeros(size, np.int64)
        np.add(self.lengths, 1, out=items[: len(self.lengths)])
        return _staircase(1 + self.history_length).take(items, axis=0)

    def ids(self, where: Where) -> NDArray[np.int64]:
        """Item ids at the positions of `where`, in bag order: int64 [n], [M] or [N]."""
        return self._in_bag_order(where, self.targets, lambda: self.history("history_item_ids"))

    def codes(self, where: Where, source: str, levels: int) -> NDArray[np.uint16]:
        """Semantic ID codes at the positions of `where`, in bag order: uint16 [.., L]."""
        return self._in_bag_order(
            where, lambda: self.target_codes(source, levels), lambda: self.history(HISTORY_CODES + source, levels).reshape(-1, levels)
        )

    def drawn(self, where: Where, first_row: int, seed: int, share: float) -> NDArray[np.bool_]:
        """A share of the positions of `where`, chosen by row number, position and seed alone, so that any number of ranks agrees."""
        stride = np.int64(1 + self.history_length)
        targets = (first_row + np.arange(len(self.lengths))) * stride
        position = 1 + np.arange(self.lengths.sum()) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        place = self._in_bag_order(where, lambda: targets, lambda: np.repeat(targets, self.lengths) + position)
        mixed = mix64(place.astype(np.uint64) + (np.uint64(seed) << np.uint64(40)))
        return mixed < np.uint64(min(int(share * 2**64), 2**64 - 1))

    def history_ages(self) -> NDArray[np.float32]:
        """Hours between each history event and its impression: float32 [M]."""
        now = self.rows.column("timestamp").to_numpy().view(np.int64)
        elapsed = np.repeat(now, self.lengths)
        elapsed -= self.history("history_timestamps").view(np.int64)
        return (elapsed / 3.6e9).astype(np.float32)

    def shared_depths(self, source: str, levels: int) -> NDArray[np.int64]:
        """How many leading codes each history item shares with its target: int64 [M], 0..L; 0 where either has no Semantic ID."""
        targets = self.target_codes(source, levels)
        same = np.repeat(targets, self.lengths, axis=0) == self.history(HISTORY_CODES + source, levels).reshape(-1, levels)
        prefix = same[:, 0] & np.repeat(targets[:, 0] != UNKNOWN_CODE, self.lengths)
        depths = prefix.astype(np.int64)
        for level in range(1, levels):
            prefix &= same[:, level]
            depths += prefix
        return depths

    def targets(self) -> NDArray[np.int64]:
        """Item ids of the targets: int64 [n]."""
        return self.rows.column("item_id").to_numpy()

    def target_codes(self, source: str, levels: int) -> NDArray[np.uint16]:
        """Codes of the targets: uint16 [n, L]."""
        codes = _array(self.rows, TARGET_CODES + source)
        return codes.values.to_numpy().reshape(-1, levels)[codes.offset : codes.offset + len(codes)]

    def history(self, name: str, width: int = 1) -> NDArray[Any]:
        """A list column's values for the history items that count, flat [M * width]; without a copy where nothing is cut off."""
        values = list_values(self.rows, name)
        if not self._is_cut:
            return values
        rank_in_list = np.arange(len(values)) - np.repeat((np.cumsum(self._full) - self._full) * width, self._full * width)
        return values[rank_in_list < np.repeat(self.lengths * width, self._full * width)]

    def _in_bag_order(self, where: Where, targets: Callable[[], NDArray[Any]], history: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        if where == "target":
            return targets()
        if where == "history":
            return history()
        of_targets, of_history = targets(), history()
        merged = np.empty((len(of_targets) + len(of_history), *of_targets.shape[1:]), of_targets.dtype)
        _row_view(merged)[self._target_at] = _row_view(of_targets)
        _row_view(merged)[self._is_history] = _row_view(of_history)
        return merged

    @cached_property
    def _is_cut(self) -> bool:
        return bool((self._full > self.history_length).any())

    @cached_property
    def _target_at(self) -> NDArray[np.int64]:
        """Places of the targets among the items in bag order: int64 [n]."""
        return np.cumsum(self.lengths) - self.lengths + np.arange(len(self.lengths))

    @cached_property
    def _is_history(self) -> NDArray[np.bool_]:
        """Of the items in bag order: bool [N]."""
        is_history = np.ones(len(self.lengths) + self.lengths.sum(), bool)
        is_history[self._target_at] = False
        return is_history


def _row_view(values: NDArray[Any]) -> NDArray[Any]:
    """One opaque element per row: NumPy moves these an order of magnitude faster than rows of small numbers."""
    return values if values.ndim == 1 else values.view(np.dtype((np.void, values.itemsize * values.shape[1])))[:, 0]


def list_values(rows: pa.Table, name: str) -> NDArray[Any]:
    """A list column's values, flat, without a copy."""
    lists = _array(rows, name)
    offsets = lists.offsets.to_numpy()
    return lists.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]


def list_lengths(rows: pa.Table, name: str) -> NDArray[np.int64]:
    """How many values each list has: int64 [n]."""
    return np.diff(_array(rows, name).offsets.to_numpy()).astype(np.int64)


@cache
def _staircase(width: int) -> NDArray[np.bool_]:
    """Row i has i times True: bool [width + 1, width]."""
    return np.tri(width + 1, width, -1, dtype=bool)


def _array(rows: pa.Table, name: str) -> pa.Array:
    column = rows.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies a single chunk too
