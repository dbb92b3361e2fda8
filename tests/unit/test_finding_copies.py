"""Copies of items: the nearest against a loop, and what becomes of a batch's keys."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.representation import hashed_rows
from features.schema import TARGET_CODES
from pipeline.loader import BatchSource
from pipeline.recipe import with_overrides
from pipeline.reproduce.findings.copies import exact_copies, nearest, relative_difference, replaced
from tests.unit.toy_world import toy_world


def test_relative_difference_by_hand() -> None:
    assert relative_difference(np.array([0.3, 0.5, 0.1]), np.array([0.1, 0.5, 0.3])) == pytest.approx([1, 0, 1])


@given(st.integers(0, 2**32 - 1))
def test_nearest_is_the_other_item_of_highest_cosine(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, vectors = rng.permutation(1000)[:9].astype(np.int64), rng.normal(size=(9, 4)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = rng.choice(np.append(ids, [2000, -7]), 20)
    for item, found in zip(wanted.tolist(), nearest(wanted, ids, unit).tolist(), strict=True):
        if item not in ids:
            assert found == item
            continue
        mine = int(np.flatnonzero(ids == item)[0])
        cosine = {int(ids[j]): float(unit[mine] @ unit[j]) for j in range(9) if j != mine}
        assert cosine[found] == pytest.approx(max(cosine.values()))


def test_an_exact_copy_keeps_its_semantic_id_and_loses_its_hashed_row(tmp_path: Path) -> None:
    source = _source(tmp_path)
    rows = source.rows(0, 60)
    copied = exact_copies(rows)
    ids = rows.column("item_id").to_numpy()
    assert copied.drop_columns("item_id").equals(rows.drop_columns("item_id"))
    assert (copied.column("item_id").to_numpy() < 0).all()
    before, after = (_target_keys(source, each) for each in (rows, copied))
    assert np.array_equal(before["semantic_id"], after["semantic_id"])
    assert np.array_equal(before["random_hash"], hashed_rows(ids, 97))
    assert np.array_equal(after["random_hash"], hashed_rows(-1 - ids, 97))
    assert (before["random_hash"] != after["random_hash"]).mean() > 0.9


def test_another_item_stands_in_with_its_id_and_codes(tmp_path: Path) -> None:
    source = _source(tmp_path)
    rows = source.rows(0, 60)
    stand_ins = np.random.default_rng(0).permutation(source.store.ids)[:60]
    copied = replaced(rows, source, stand_ins)
    items = copied.column("item_id").to_numpy()
    assert np.array_equal(items, stand_ins)
    codes = np.array(copied.column(TARGET_CODES + "text").to_pylist())
    assert np.array_equal(codes, source.store.lookup(items).codes)
    unchanged = ["item_id", TARGET_CODES + "text"]
    assert copied.drop_columns(unchanged).equals(rows.drop_columns(unchanged))
    assert copied.schema.equals(rows.schema)
    assert np.array_equal(_target_keys(source, copied)["random_hash"], hashed_rows(items, 97))


def _source(tmp_path: Path) -> BatchSource:
    tables = {"semantic_id": {"kind": "semantic_id", "rows": 97}, "random_hash": {"kind": "random_hash", "rows": 97}}
    config = toy_world(tmp_path).config
    return BatchSource(with_overrides(config, {"model.representations": tables, "train.input": "impressions"}))


def _target_keys(source: BatchSource, rows: object) -> dict[str, np.ndarray]:
    """First key of the target, by table."""
    batch = source.builder.build(rows, first_row=0, size=60, step_rows=(0, 60), training=False, known_before=0)
    assert batch.items is not None
    positions = 1 + source.config.ingest.history_length
    found = {}
    for name, jagged in batch.items.to_dict().items():
        found[name] = jagged.values().numpy()[jagged.offsets().numpy()[:-1][::positions]]
    return found
