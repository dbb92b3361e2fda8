"""Histories of an event log larger than memory that is sorted by user and time: one pass, keeping what one user's later rows can see."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.errors import InputError
from features.history import Histories
from features.quarantine import Fault, is_null, numbers
from features.schema import IMPRESSIONS, require

Int64 = npt.NDArray[np.int64]
LOG = ("user_id", "timestamp", "item_id")
HISTORY = ("history_item_ids", "history_timestamps")
INT64 = np.iinfo(np.int64)
# History items per output table at most: what bounds its memory, and keeps the offsets of its lists in 32 bits.
TABLE_ITEMS = 1 << 20


@dataclass(frozen=True)
class _Past:
    """What the rows so far leave to the next one: its number, the last row's user and time, and the positives that user may still see."""

    rows: int
    user_id: int
    timestamp: int
    times: Int64  # [C], in the log's order
    item_ids: Int64  # [C]


def with_histories(
    log: Iterable[pa.RecordBatch | pa.Table], *, length: int, delay: int = 0, positive: str = "label_click"
) -> Iterator[pa.Table]:
    """Append to each row the user's last T positives that were known before it.

        T = 2, delay 3:  timestamp 1 4 5 9, all positive, one user  ->  histories [] [] [1] [5 4]

    A positive is known `delay` after it happened: it is in the history where timestamp + delay < the row's timestamp, strictly. The log's
    own delay between an event and its arrival in the feature pipeline is the one to give, or training sees what serving could not.

    Memory: a batch, its histories piece by piece, and of one user the last T positives that all later rows can see with those that are
    not known yet as of the latest row.

    Args:
        log: batches of any size, of user_id int64, timestamp (features.schema.TIMESTAMP), item_id int64, `positive` and any other
            columns, sorted by user_id, then timestamp; features.external_sort.sort_by brings a log into this order.
        length: T, positives kept per row.
        delay: microseconds.
        positive: name of the int8 column that is 1 where the event is a positive, and 0 elsewhere.

    Yields:
        The rows in their order with two more columns, history_item_ids list<int64> and history_timestamps list<timestamp[us, UTC]>, of
        equal offsets: most recent first; of simultaneous positives the later one in the log counts as the more recent. Tables have at
        most max(2^20 / T, 1) rows.

    Raises:
        InputError: naming the column that is missing or of another type; or the first row (counted from 1 over the whole log) and the
            user where the order breaks, one of these columns is null, or `positive` is neither 0 nor 1.
    """
    if length < 0 or not 0 <= delay <= INT64.max:
        raise InputError(f"histories need a length of 0 or more and a delay of 0 or more microseconds, not {length} and {delay}")
    expected = pa.schema([*map(IMPRESSIONS.field, LOG), pa.field(positive, pa.int8())])
    rows = max(TABLE_ITEMS // max(length, 1), 1)
    past = _Past(0, INT64.min, INT64.min, np.empty(0, np.int64), np.empty(0, np.int64))
    for batch in log:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        require(table.schema, expected, "event log")
        if present := set(HISTORY).intersection(table.column_names):
            raise InputError(f"event log: it already has {', '.join(sorted(present))}")
        for start in range(0, table.num_rows, rows):
            made, past = _appended(table.slice(start, rows), past, length, delay, positive)
            yield made


def _appended(table: pa.Table, past: _Past, length: int, delay: int, positive: str) -> tuple[pa.Table, _Past]:
    """The next rows, at least one, with their histories; and what they leave to those after them."""
    users, times, items, labels = (numbers(table[name]) for name in (*LOG, positive))
    _check(table, users, times, labels, positive, past)
    # Positives in the order of the log: the carried ones of one user, who may go on here, and these rows'.
    event_users = np.concatenate((np.full(len(past.times), past.user_id), users[labels == 1]))
    event_times = np.concatenate((past.times, times[labels == 1]))
    event_items = np.concatenate((past.item_ids, items[labels == 1]))
    known = np.maximum(times, INT64.min + delay) - delay  # what happened before this moment is known; must not wrap round
    histories = Histories(event_times, event_users, event_items).before(known, users, length)
    for name, column in zip(HISTORY, histories, strict=True):
        table = table.append_column(IMPRESSIONS.field(name), column)
    first = int(np.searchsorted(event_users, users[-1]))
    seen_by_all = first + int(np.searchsorted(event_times[first:], known[-1]))
    kept = slice(max(first, seen_by_all - length), None)
    return table, _Past(past.rows + len(users), int(users[-1]), int(times[-1]), event_times[kept].copy(), event_items[kept].copy())


def _check(table: pa.Table, users: Int64, times: Int64, labels: npt.NDArray[np.int8], positive: str, past: _Past) -> None:
    """Raise InputError for the first row that is null, has another label than 0 or 1, or is out of order."""
    user_before, time_before = np.append(past.user_id, users[:-1]), np.append(past.timestamp, times[:-1])
    faults = [
        *(Fault(is_null(table[name]), f"{name} is null") for name in (*LOG, positive)),
        Fault((labels != 0) & (labels != 1), f"{positive} is neither 0 nor 1"),
        Fault(users < user_before, "the log is not sorted by user_id"),
        Fault((users == user_before) & (times < time_before), "the log is not sorted by timestamp within its users"),
    ]
    at_fault = np.any([fault.rows for fault in faults], axis=0)
    if at_fault.any():
        row = int(at_fault.argmax())
        reason = next(fault.reason for fault in faults if fault.rows[row])
        raise InputError(f"event log: row {past.rows + row + 1}, user {table['user_id'][row]}: {reason}")
