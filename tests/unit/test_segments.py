"""Segments part the rows, after training and in a stream, and evaluation and training part them alike."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from features.segments import NAMES, stream_segments
from pipeline.segments import by_training_impressions, of_stream


def test_segments_after_training() -> None:
    item_ids = np.array([1] * 500 + [2] * 60 + list(range(100, 1098)) + [1, 2, 2, 1097, 5000])
    by, segments = by_training_impressions(item_ids, len(item_ids) - 5)
    assert by == "training_impressions"
    assert {name: rows.tolist() for name, rows in segments.items()} == {
        "head": [True, False, False, False, False],
        "torso": [False, True, True, False, False],
        "tail": [False, False, False, True, False],
        "seen": [True, True, True, True, False],
        "new": [False, False, False, False, True],
    }


@given(hnp.arrays(np.int32, st.integers(1, 50), elements=st.integers(0, 1000)), st.integers(0, 2**32 - 1))
def test_stream_segments_part_the_rows(past: np.ndarray, seed: int) -> None:
    age = np.random.default_rng(seed).uniform(0, 1500, len(past)).astype(np.float32)
    impressions, ages = of_stream({"past_impressions": past, "dense_age_hours": age})
    assert list(impressions.segments) == ["0", "1-9", "10-49", "50-199", "200+"]
    assert list(ages.segments) == ["under a day", "1-3 days", "3-7 days", "7-30 days", "over 30 days"]
    for parting in (impressions, ages):
        assert (np.stack(list(parting.segments.values())).sum(0) == 1).all()
    assert np.array_equal(impressions.segments["10-49"], (past >= 10) & (past < 50))
    assert np.array_equal(ages.segments["under a day"], age < 24)
    numbers = stream_segments(pa.table({"past_impressions": past, "dense_age_hours": age}))
    names = np.array(NAMES)[numbers]
    for column, parting in enumerate((impressions, ages)):
        assert all(np.array_equal(names[:, column] == name, rows) for name, rows in parting.segments.items())
