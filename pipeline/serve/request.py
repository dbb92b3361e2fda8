"""A request as rows of impressions: a user's history, candidates and features, as one Arrow batch with a row per candidate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from features.errors import InputError
from features.schema import CONTEXT, DENSE, TIMESTAMP

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class RankRequest:
    """Which of these would this user click now?

    Attributes:
        time: of the request, microseconds since 1970 UTC.
        candidates: item ids [n], n >= 1.
        history_item_ids: the user's positives, most recent first, all strictly before `time`; any number, of which the first T count.
        history_timestamps: theirs, microseconds since 1970 UTC.
        dense: column `dense_NAME` to a number, the same for all candidates, or to n of them; each finite and not negative.
        context: column `context_NAME` to an id or n of them; a column of lists, to one list of ids or n of them.
    """

    time: int
    candidates: Sequence[int] | Int64
    history_item_ids: Sequence[int] | Int64 = ()
    history_timestamps: Sequence[int] | Int64 = ()
    dense: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)


class RequestRows:
    """Makes rows of requests to one model."""

    def __init__(self, inputs: pa.Schema, history_length: int) -> None:
        """Args: columns of the impressions that the model reads, `Bundle.inputs`; T, beyond which no history is passed on."""
        self._inputs, self._order, self._length = inputs, inputs.names, history_length
        self._features: dict[str, Callable[[Any, str, int], pa.Array]] = {
            name: _dense if name.startswith(DENSE) else _ids if inputs.field(name).type == pa.int64() else _lists
            for name in self._order
            if name.startswith((DENSE, CONTEXT))
        }

    def rows(self, request: RankRequest) -> pa.RecordBatch:
        """One row per candidate, in their order.

        Raises:
            InputError: naming the part of the request that is missing, unknown, of another type or length, or out of range.
        """
        given = {**request.dense, **request.context}
        if given.keys() != self._features.keys():
            self._refuse(given)
        candidates = _integers(request.candidates, "candidates")
        count = len(candidates)
        if not count:
            raise InputError("request: there are no candidates")
        time = _integers([request.time], "time")
        ids, times = _history(request, time[0], self._length)
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * np.int32(len(ids)))
        columns = {
            "timestamp": pa.array(np.repeat(time, count)).view(TIMESTAMP),
            "item_id": pa.array(candidates),
            "history_item_ids": pa.ListArray.from_arrays(offsets, pa.array(np.tile(ids, count))),
            "history_timestamps": pa.ListArray.from_arrays(offsets, pa.array(np.tile(times, count)).view(TIMESTAMP)),
        }
        for name, make in self._features.items():
            columns[name] = make(given[name], name, count)
        return pa.RecordBatch.from_arrays([columns[name] for name in self._order], schema=self._inputs)

    def _refuse(self, given: Mapping[str, Any]) -> NoReturn:
        for name in given:
            if name not in self._features:
                raise InputError(f"request: the model has no feature '{name}'; its features are {', '.join(self._features) or 'none'}")
        missing = next(name for name in self._features if name not in given)
        raise InputError(f"request: feature '{missing}' is missing")


def _history(request: RankRequest, time: np.int64, length: int) -> tuple[Int64, Int64]:
    ids = _integers(request.history_item_ids, "history_item_ids")
    times = _integers(request.history_timestamps, "history_timestamps")
    if len(ids) != len(times):
        raise InputError(f"request: there are {len(ids)} history_item_ids but {len(times)} history_timestamps")
    if len(times) and times.max() >= time:
        raise InputError(f"request: history_timestamps[{times.argmax()}] is not before the request's time")
    rising = np.flatnonzero(times[1:] > times[:-1])
    if len(rising):
        raise InputError(f"request: the history is not most recent first: history_timestamps[{rising[0] + 1}] is later than the one before")
    return ids[:length], times[:length]


def _dense(value: Any, name: str, count: int) -> pa.Array:
    numbers = _array(value, name, "iuf", "a number or a list of them")
    with np.errstate(over="ignore"):
        numbers = _per_candidate(numbers, name, count).astype(np.float32)
    if not (np.isfinite(numbers) & (numbers >= 0)).all():
        raise InputError(f"request: {name} is negative or not finite")
    return pa.array(numbers)


def _ids(value: Any, name: str, count: int) -> pa.Array:
    return pa.array(_per_candidate(_array(value, name, "i", "an id, an int64, or a list of them"), name, count).astype(np.int64))


def _lists(value: Any, name: str, count: int) -> pa.Array:
    """A bag of ids for all, or one for each."""
    each = len(value) > 0 and not isinstance(value[0], int | np.integer) if isinstance(value, Sequence | np.ndarray) else False
    bags = [_integers(bag, name) for bag in (value if each else [value])]
    if each and len(bags) != count:
        raise InputError(f"request: {name} has {len(bags)} lists for {count} candidates")
    ends = np.cumsum([0, *map(len, bags)]) if each else np.arange(count + 1) * len(bags[0])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.concatenate(bags) if each else np.tile(bags[0], count)))


def _per_candidate(values: NDArray[Any], name: str, count: int) -> NDArray[Any]:
    if values.ndim == 0:
        return np.repeat(values, count)
    if len(values) != count:
        raise InputError(f"request: {name} has {len(values)} values for {count} candidates")
    return values


def _integers(value: Any, name: str) -> Int64:
    """Int64 [N]."""
    if isinstance(value, Sequence) and not len(value):
        return np.empty(0, np.int64)
    values = _array(value, name, "i", "a list of integers that fit int64")
    if values.ndim != 1:
        raise InputError(f"request: {name} is not a list of integers that fit int64")
    return values.astype(np.int64, copy=False)


def _array(value: Any, name: str, kinds: str, expected: str) -> NDArray[Any]:
    """A number or a list of numbers of these kinds of NumPy dtypes; neither strings nor true and false are any."""
    try:
        values = np.asarray(value)
    except (ValueError, OverflowError) as error:  # lists of different lengths; an integer that no type holds
        raise InputError(f"request: {name} is not {expected}") from error
    if values.ndim > 1 or values.dtype.kind not in kinds:
        raise InputError(f"request: {name} is not {expected}")
    return values
