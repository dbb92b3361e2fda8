"""Requests as rows of impressions, beside plain Python; and what is refused of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InputError
from features.schema import TIMESTAMP
from pipeline.serve.request import RankRequest, RequestRows

INPUTS = pa.schema(
    [
        ("timestamp", TIMESTAMP),
        ("item_id", pa.int64()),
        ("dense_price", pa.float32()),
        ("dense_age_hours", pa.float32()),
        ("history_item_ids", pa.list_(pa.int64())),
        ("history_timestamps", pa.list_(TIMESTAMP)),
        ("context_country", pa.int64()),
        ("context_topics", pa.list_(pa.int64())),
    ]
)
NOW = 1_700_000_000_000_000
REQUEST = RankRequest(
    time=NOW,
    candidates=[5, 6, 5],
    history_item_ids=[9, 8],
    history_timestamps=[NOW - 1, NOW - 1],
    dense={"dense_price": [1, 2.5, 0], "dense_age_hours": 3},
    context={"context_country": [7, -8, 9], "context_topics": [1, 2]},
)
INT64 = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats(0, 1e6, width=32)


def when(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


@st.composite
def requests(draw: st.DrawFn) -> RankRequest:
    count = draw(st.integers(1, 5))
    times = sorted(draw(st.lists(st.integers(0, NOW - 1), max_size=6)), reverse=True)

    def each(value: st.SearchStrategy) -> object:
        return draw(st.one_of(value, st.lists(value, min_size=count, max_size=count)))

    return RankRequest(
        time=NOW,
        candidates=draw(st.lists(INT64, min_size=count, max_size=count)),
        history_item_ids=draw(st.lists(INT64, min_size=len(times), max_size=len(times))),
        history_timestamps=times,
        dense={"dense_price": each(NUMBERS), "dense_age_hours": each(NUMBERS)},
        context={"context_country": each(INT64), "context_topics": each(st.lists(INT64, max_size=3))},
    )


def per_candidate(value: object, count: int, *, lists: bool = False) -> list:
    """The oracle: what stands in the column."""
    is_each = isinstance(value, list) and (not lists or (len(value) > 0 and isinstance(value[0], list)))
    return list(value) if is_each else [value] * count  # type: ignore[call-overload]


@given(requests(), st.integers(1, 4))
def test_a_row_per_candidate_with_what_was_given(request: RankRequest, length: int) -> None:
    count = len(request.candidates)
    rows = RequestRows(INPUTS, length).rows(request)
    assert rows.schema == INPUTS
    rows.validate(full=True)
    assert rows.to_pydict() == {
        "timestamp": [when(NOW)] * count,
        "item_id": list(request.candidates),
        "dense_price": per_candidate(request.dense["dense_price"], count),
        "dense_age_hours": per_candidate(request.dense["dense_age_hours"], count),
        "history_item_ids": [list(request.history_item_ids[:length])] * count,
        "history_timestamps": [[when(time) for time in request.history_timestamps[:length]]] * count,
        "context_country": per_candidate(request.context["context_country"], count),
        "context_topics": per_candidate(request.context["context_topics"], count, lists=True),
    }


def test_arrays_are_taken_as_lists_are() -> None:
    arrays = replace(
        REQUEST,
        candidates=np.array(REQUEST.candidates),
        history_item_ids=np.array(REQUEST.history_item_ids),
        history_timestamps=np.array(REQUEST.history_timestamps),
        dense={"dense_price": np.array([1, 2.5, 0]), "dense_age_hours": np.float64(3)},
        context={"context_country": np.array([7, -8, 9]), "context_topics": np.array([1, 2])},
    )
    assert RequestRows(INPUTS, 4).rows(arrays).equals(RequestRows(INPUTS, 4).rows(REQUEST))


def test_a_model_may_read_little() -> None:
    inputs = pa.schema([INPUTS.field(name) for name in ("item_id", "timestamp", "history_item_ids", "history_timestamps")])
    assert RequestRows(inputs, 3).rows(RankRequest(NOW, [1, 2])).to_pydict()["history_item_ids"] == [[], []]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"candidates": []}, "there are no candidates"),
        ({"candidates": [1.5]}, "candidates is not a list of integers that fit int64"),
        ({"candidates": ["1"]}, "candidates is not a list of integers"),
        ({"candidates": [True]}, "candidates is not a list of integers"),
        ({"candidates": [None]}, "candidates is not a list of integers"),
        ({"candidates": [2**63]}, "candidates is not a list of integers"),
        ({"candidates": [2**70]}, "candidates is not a list of integers"),
        ({"candidates": 3}, "candidates is not a list of integers"),
        ({"candidates": [[1], [2]]}, "candidates is not a list of integers"),
        ({"time": "now"}, "time is not a list of integers"),
        ({"history_item_ids": [1]}, "there are 1 history_item_ids but 2 history_timestamps"),
        ({"history_timestamps": [NOW, NOW - 1]}, r"history_timestamps\[0\] is not before the request's time"),
        ({"history_timestamps": [NOW - 2, NOW - 1]}, r"history_timestamps\[1\] is later than the one before"),
        ({"dense": {"dense_price": 1}}, "feature 'dense_age_hours' is missing"),
        (
            {"dense": {**REQUEST.dense, "dense_weight": 1}},
            "has no feature 'dense_weight'; its features are dense_price, dense_age_hours, c",
        ),
        ({"dense": {**REQUEST.dense, "dense_price": [1, 2]}}, "dense_price has 2 values for 3 candidates"),
        ({"dense": {**REQUEST.dense, "dense_price": -1}}, "dense_price is negative or not finite"),
        ({"dense": {**REQUEST.dense, "dense_price": [0, float("nan"), 1]}}, "dense_price is negative or not finite"),
        ({"dense": {**REQUEST.dense, "dense_price": 1e39}}, "dense_price is negative or not finite"),
        ({"dense": {**REQUEST.dense, "dense_price": "1"}}, "dense_price is not a number or a list of them"),
        ({"dense": {**REQUEST.dense, "dense_price": [[1], [2], [3]]}}, "dense_price is not a number or a list of them"),
        ({"dense": {**REQUEST.dense, "dense_price": None}}, "dense_price is not a number or a list of them"),
        ({"context": {**REQUEST.context, "context_country": 1.0}}, "context_country is not an id"),
        ({"context": {**REQUEST.context, "context_country": [1]}}, "context_country has 1 values for 3 candidates"),
        ({"context": {**REQUEST.context, "context_topics": 1}}, "context_topics is not a list of integers"),
        ({"context": {**REQUEST.context, "context_topics": "ab"}}, "context_topics is not a list of integers"),
        ({"context": {**REQUEST.context, "context_topics": [[1], [2]]}}, "context_topics has 2 lists for 3 candidates"),
        ({"context": {**REQUEST.context, "context_topics": [[1], 2, 3]}}, "context_topics is not a list of integers"),
        ({"context": {**REQUEST.context, "context_topics": [1, [2]]}}, "context_topics is not a list of integers"),
    ],
)
def test_what_is_wrong_is_told(changes: dict, told: str) -> None:
    with pytest.raises(InputError, match=f"^request: .*{told}"):
        RequestRows(INPUTS, 4).rows(replace(REQUEST, **changes))
