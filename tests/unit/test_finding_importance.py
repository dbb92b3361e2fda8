"""Feature importance: permuted columns against a plain reading of them, a model that heeds one feature alone, and rises known by hand."""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reproduce.findings import importance
from pipeline.reproduce.findings.importance import features_of, permute
from pipeline.reproduce.world import Variant
from tests.unit.toy_finding import Results, toy_study, toy_world

LEVELS = 2
FEATURES = features_of(["text"], ["dense_past_count", "context_country"])


def rows_of(seed: int, rows: int = 40) -> pa.Table:
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 4, rows))]).astype(np.int32)
    items = offsets[-1]
    return pa.table(
        {
            "item_id": np.arange(rows),
            "history_item_ids": pa.ListArray.from_arrays(offsets, pa.array(1000 + np.arange(items))),
            "history_timestamps": pa.ListArray.from_arrays(offsets, pa.array(np.arange(items))),
            "dense_past_count": np.arange(rows, dtype=np.float32),
            "context_country": pa.array([list(range(row % 5)) for row in range(rows)], pa.list_(pa.int64())),
            "target_codes_text": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(LEVELS * rows, dtype=np.uint16)), LEVELS),
            "history_codes_text": pa.ListArray.from_arrays(LEVELS * offsets, pa.array(np.arange(LEVELS * items, dtype=np.uint16))),
        }
    ).slice(3)


@given(st.integers(0, 1000), st.sampled_from(sorted(FEATURES)))
def test_one_feature_is_dealt_out_anew(seed: int, feature: str) -> None:
    rows = rows_of(seed)
    found = permute(rows, FEATURES[feature], np.random.default_rng(seed))
    assert found.schema == rows.schema
    for name in rows.column_names:
        before, after = rows.column(name).to_pylist(), found.column(name).to_pylist()
        if name not in FEATURES[feature]:
            assert after == before
            continue
        assert Counter(map(str, after)) == Counter(map(str, before))
        assert after != before
        if name.startswith("history_"):  # its other columns, of which nothing was changed, must still fit
            assert list(map(len, after)) == list(map(len, before))


def test_the_columns_of_a_feature_stay_together() -> None:
    rows = rows_of(0)
    rows = rows.append_column("target_codes_image", rows.column("target_codes_text"))
    found = permute(rows, features_of(["text", "image"], [])["target Semantic ID"], np.random.default_rng(0))
    assert found.column("target_codes_text").to_pylist() == found.column("target_codes_image").to_pylist()


def test_every_row_is_as_likely_to_get_any_other() -> None:
    rows = rows_of(0, rows=8)
    got: dict[int, Counter[int]] = defaultdict(Counter)
    for seed in range(3000):
        found = permute(rows, ["item_id"], np.random.default_rng(seed))
        for before, after in zip(rows.column("item_id").to_pylist(), found.column("item_id").to_pylist(), strict=True):
            got[before][after] += 1
    assert len(got) == 5
    assert all(abs(count - 600) < 120 for counts in got.values() for count in counts.values())  # 5 standard deviations


class _TinyModel:
    """A trainer of a model whose logit is one column's value, or for lists the sum of it, scored in batches of 16 rows."""

    def __init__(self, heeded: str) -> None:
        self.heeded, self.log, self.train_rows, self.rows = heeded, rows_of(5, rows=103), 20, 100
        self.config = SimpleNamespace(train=SimpleNamespace(seed=3))
        builder = SimpleNamespace(sources={"text": LEVELS}, dense_columns=("dense_past_count",), context_columns=("context_country",))
        self.source = SimpleNamespace(builder=builder)

    def score(self, start: int, stop: int, change: Callable[[pa.Table, int], pa.Table] = lambda rows, _: rows) -> np.ndarray:
        batches = [change(self.log.slice(first, min(16, stop - first)), first) for first in range(start, stop, 16)]
        return np.array([[np.sum(value)] for batch in batches for value in batch.column(self.heeded).to_pylist()], np.float32)


@pytest.mark.parametrize("heeded", [column for columns in FEATURES.values() for column in columns])
def test_a_model_that_heeds_one_feature_changes_with_it_alone(heeded: str) -> None:
    trainer: Any = _TinyModel(heeded)
    plain = trainer.score(trainer.train_rows, trainer.rows)[:, 0]
    found = importance.permuted(trainer)
    assert found["logits"].shape == (len(FEATURES), 80)
    for feature, logits in zip(found["features"].tolist(), found["logits"], strict=True):
        assert (not np.array_equal(logits, plain)) == (heeded in FEATURES[feature])
        for first in range(0, 80, 16):  # nothing leaves its batch
            assert sorted(logits[first : first + 16]) == sorted(plain[first : first + 16])
    again = importance.permuted(trainer)
    assert np.array_equal(found["logits"], again["logits"])


def test_rises(tmp_path: Path) -> None:
    """Logits of +a for clicks and -a for others lose ln(1 + e^-a) each, so that rises are known."""
    world = toy_world(tmp_path)
    clicks = world.columns(["label_click"])["label_click"]
    left = {
        "target Semantic ID": 0.1,
        "target hashed id": 0.3,
        "history Semantic IDs": 0.4,
        "history hashed ids": 0.2,
        "dense_age_hours": 0.0,
    }

    def results(variant: Variant, seed: int) -> Results:
        frozen = (2.0 * clicks[int(0.8 * len(clicks)) // 128 * 128 :] - 1).astype(np.float32)
        of = left if not variant.name.startswith("shuffled") else left | {"target Semantic ID": 0.3}
        measured = {"features": np.array(list(of)), "logits": np.stack([frozen * a for a in of.values()])}
        return ((2.0 * clicks - 1) * 0.5).astype(np.float32), {"permuted": measured}

    finding = importance.find(toy_study(world, importance, results))
    rise = {name: 100 * (np.log1p(np.exp(-a)) / np.log1p(np.exp(-0.5)) - 1) for name, a in left.items()}
    target, history, *ranked = finding.rows
    assert target.ours is not None
    assert target.ours.mean == pytest.approx(rise["target Semantic ID"] - rise["target hashed id"], rel=1e-5)
    assert (target.verdict, target.control and target.control.mean) == ("confirmed", 0)
    assert history.ours is not None
    assert history.ours.mean == pytest.approx(rise["history Semantic IDs"] - rise["history hashed ids"], rel=1e-5)
    order = ["dense_age_hours", "target Semantic ID", "history hashed ids", "target hashed id", "history Semantic IDs"]
    assert [row.what for row in ranked] == [f"{place}. {name}" for place, name in enumerate(order, 1)]
    assert [row.ours.mean for row in ranked if row.ours] == pytest.approx([rise[name] for name in order], rel=1e-5)
    assert finding.plots[0].index("dense_age_hours") >= 0
