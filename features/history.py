"""What had happened before each row: user histories, item counts and item ages, from strictly earlier timestamps alone."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.schema import TIMESTAMP

Int64 = npt.NDArray[np.int64]
MICROSECONDS_PER_HOUR = 3_600_000_000.0


class PastEvents:
    """Events grouped by a key (a user or an item) and sorted by time, so that what lies before a moment is one range.

        key 7: t=10 t=10 t=12 | key 9: t=11            sorted positions 0 1 2 | 3
        range_before(key 7, t=12) = [0, 2)             both events at t=10, not the one at t=12 itself

    A (key, time) pair is packed into one integer, key rank * (number of times + 1) + time rank, so that all rows are answered by a
    single binary search.
    """

    def __init__(self, keys: Int64, timestamps: Int64) -> None:
        """Sort the events.

        Args:
            keys: int64 [E].
            timestamps: int64 [E], microseconds; any order. Events of one key at the same time keep their order.
        """
        self._keys, key_rank = np.unique(keys, return_inverse=True)
        self._times, time_rank = np.unique(timestamps, return_inverse=True)
        self._stride = len(self._times) + 1
        packed = key_rank * self._stride + time_rank
        self.order: Int64 = np.argsort(packed, kind="stable")
        self.timestamps: Int64 = timestamps[self.order]
        self._packed = packed[self.order]
        self._first = np.searchsorted(self._packed, np.arange(len(self._keys)) * self._stride)

    def range_before(self, keys: Int64, timestamps: Int64) -> tuple[Int64, Int64]:
        """Where the events of each row's key before the row's time lie.

        Args:
            keys: int64 [N], each row's key; it may be unknown.
            timestamps: int64 [N], each row's time.

        Returns:
            start, end: int64 [N], positions in `order` and `timestamps`; end - start is the number of earlier events.
        """
        if len(self._keys) == 0:
            return np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        rank = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        end = np.searchsorted(self._packed, rank * self._stride + np.searchsorted(self._times, timestamps))
        start = self._first[rank]
        return start, np.where(self._keys[rank] == keys, end, start)

    def count_before(self, keys: Int64, timestamps: Int64) -> Int64:
        """Number of earlier events of each row's key, int64 [N]."""
        start, end = self.range_before(keys, timestamps)
        return end - start

    def hours_since_first(self, keys: Int64, timestamps: Int64) -> npt.NDArray[np.float32]:
        """Hours since the first earlier event of each row's key, float32 [N]; 0 where there is none."""
        start, end = self.range_before(keys, timestamps)
        hours = np.zeros(len(keys), np.float32)
        some = end > start
        hours[some] = (timestamps[some] - self.timestamps[start[some]]) / MICROSECONDS_PER_HOUR
        return hours


class Histories:
    """Each user's positives, most recent first, as of any moment."""

    def __init__(self, timestamps: Int64, user_ids: Int64, item_ids: Int64) -> None:
        """Index the positives: int64 [E] each; any order, the later of two simultaneous ones counts as the more recent."""
        self._past = PastEvents(user_ids, timestamps)
        self._user_ids, self._item_ids = user_ids[self._past.order], item_ids[self._past.order]

    def before(self, timestamps: Int64, user_ids: Int64, length: int) -> tuple[pa.ListArray, pa.ListArray]:
        """The histories of rows.

        Args:
            timestamps: int64 [N], each row's time, microseconds.
            user_ids: int64 [N], each row's user; it may be unknown.
            length: T, positives kept per row.

        Returns:
            item ids (list<int64>) and timestamps (list<timestamp[us, UTC]>), [N] each with equal offsets: at most T positives with a
            timestamp strictly below the row's, most recent first.
        """
        positions, offsets = self._recent(timestamps, user_ids, length)
        ends = pa.array(offsets, pa.int32())
        times = pa.array(self._past.timestamps[positions]).cast(TIMESTAMP)
        return pa.ListArray.from_arrays(ends, pa.array(self._item_ids[positions])), pa.ListArray.from_arrays(ends, times)

    def latest(self, length: int) -> tuple[Int64, Int64, Int64]:
        """Each user's last T positives as (timestamps, user ids, item ids), in time order per user: all that a later chunk can see."""
        users = np.unique(self._user_ids)
        positions, _ = self._recent(np.full(len(users), np.iinfo(np.int64).max), users, length)
        positions = np.sort(positions)
        return self._past.timestamps[positions], self._user_ids[positions], self._item_ids[positions]

    def _recent(self, timestamps: Int64, user_ids: Int64, length: int) -> tuple[Int64, Int64]:
        start, end = self._past.range_before(user_ids, timestamps)
        counts = np.minimum(end - start, length)
        offsets = np.concatenate(([0], np.cumsum(counts)))
        return np.repeat(end - 1 + offsets[:-1], counts) - np.arange(offsets[-1]), offsets


class FirstTimes:
    """The first time that each item was met, over a log that arrives in chunks; memory grows with items, not rows."""

    def __init__(self) -> None:
        self._items, self._times = np.empty(0, np.int64), np.empty(0, np.int64)

    def add(self, timestamps: Int64, item_ids: Int64) -> None:
        """Remember int64 [N] times of int64 [N] items; an item that was added before keeps its time, whatever the order."""
        items, first = np.unique(item_ids, return_index=True)
        new = ~np.isin(items, self._items)
        places = np.searchsorted(self._items, items[new])
        self._items, self._times = np.insert(self._items, places, items[new]), np.insert(self._times, places, timestamps[first[new]])

    def of(self, item_ids: Int64) -> Int64:
        """The times of items that were added, int64 [N]."""
        return self._times[np.searchsorted(self._items, item_ids)]


class RunningCounts:
    """Rows per item at strictly earlier timestamps, over a log that arrives in chunks; memory grows with items, not rows."""

    def __init__(self) -> None:
        self._items = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)
        # Rows at the newest timestamp may still be followed by simultaneous rows, which must not see them.
        self._open_items = np.empty(0, np.int64)
        self._open_time = np.iinfo(np.int64).min

    def count(self, timestamps: Int64, item_ids: Int64) -> Int64:
        """Count for the next chunk, then remember it.

        Args:
            timestamps: int64 [N], non-decreasing and not before the previous chunk's last.
            item_ids: int64 [N].

        Returns:
            int64 [N], earlier rows of each row's item in all chunks so far.
        """
        if len(timestamps) == 0:
            return np.empty(0, np.int64)
        items = np.concatenate((self._open_items, item_ids))
        times = np.concatenate((np.full(len(self._open_items), self._open_time), timestamps))
        counts = PastEvents(items, times).count_before(item_ids, timestamps) + self._folded(item_ids)
        closed = times < timestamps[-1]
        self._open_items, self._open_time = items[~closed], int(timestamps[-1])
        merged, where = np.unique(np.concatenate((self._items, items[closed])), return_inverse=True)
        weights = np.concatenate((self._counts, np.ones(np.count_nonzero(closed), np.int64)))
        self._items, self._counts = merged, np.bincount(where, weights, len(merged)).astype(np.int64)
        return counts

    def _folded(self, item_ids: Int64) -> Int64:
        if len(self._items) == 0:
            return np.zeros(len(item_ids), np.int64)
        rank = np.minimum(np.searchsorted(self._items, item_ids), len(self._items) - 1)
        return np.where(self._items[rank] == item_ids, self._counts[rank], 0)
