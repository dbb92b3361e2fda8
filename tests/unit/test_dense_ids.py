"""The dense id map, checked against dictionaries: an item is known from its first row on, and a map that grows moves no row."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import dense_ids
from features.dataset import Dataset, DatasetWriter, open_dataset
from features.dense_ids import DenseIdMap
from features.errors import InputError
from pipeline import enrich
from pipeline import recipe as recipes
from pipeline.stage import STAGES, is_current, mark_current
from tests.toy_log import toy_recipe, write_toy_log

ITEMS = 14
Days = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=40), min_size=1, max_size=4)


def impressions(folder: Path, items: list[int], group: int) -> Dataset:
    schema = pa.schema([pa.field("item_id", pa.int64(), nullable=False)])
    with DatasetWriter(folder, schema, {}, rows_per_group=group) as writer:
        writer.write(pa.table({"item_id": items}, schema=schema))
    return open_dataset(folder)


@given(Days, st.integers(1, 9), st.integers(0, 50), st.sampled_from([1, 1 << 20]))
def test_a_grown_map_keeps_every_row_and_knows_what_it_inherited(
    tmp_path_factory: pytest.TempPathFactory, days: list[list[int]], group: int, before: int, merge_every: int
) -> None:
    folder = tmp_path_factory.mktemp("dense")
    rows: dict[int, int] = {}
    ids: DenseIdMap | None = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_ids, "MERGE_EVERY", merge_every)
        for number, items in enumerate(days):
            inherited, older = set(rows), ids
            rows |= {item: len(rows) + place for place, item in enumerate(sorted(set(items) - inherited))}
            DenseIdMap.build(impressions(folder / f"day{number}", items, group), older).save(folder / f"map{number}")
            ids = DenseIdMap.load(folder / f"map{number}")
            expected = [rows[item] if item in inherited or item in items[:before] else -1 for item in range(ITEMS)]
            assert ids.rows(np.arange(ITEMS), before).tolist() == expected
            assert ids.inherited == len(inherited)
            assert older is None or (ids.misplaced(older) is None and ids.sha256(len(older.ids)) == older.sha256())
    assert ids is not None
    assert sorted(ids.table_rows.tolist()) == list(range(len(rows)))
    by_row = np.array(sorted(rows, key=lambda item: rows[item]))
    described = json.loads((folder / f"map{len(days) - 1}" / "meta.json").read_text())
    assert described["sha256"] == hashlib.sha256(by_row.tobytes()).hexdigest()


def test_a_map_that_extends_nothing_is_no_extension(tmp_path: Path) -> None:
    """Rows are given in ascending order of the ids: an id between two others moves all that follow."""
    yesterday = DenseIdMap.build(impressions(tmp_path / "1", [5, 9, 30], 8))
    assert DenseIdMap.build(impressions(tmp_path / "2", [5, 9, 30, 44], 8)).misplaced(yesterday) is None
    shifted, lacking = (DenseIdMap.build(impressions(tmp_path / str(items), items, 8)) for items in ([30, 5, 7, 9], [5, 30]))
    assert shifted.misplaced(yesterday) == (9, 1, 2)
    assert lacking.misplaced(yesterday) == (9, 1, -1)
    assert shifted.sha256(3) != yesterday.sha256()
    assert lacking.sha256(3) != yesterday.sha256()


def test_stage_enrich_extends_the_map_that_it_is_given(tmp_path: Path) -> None:
    for seed, (day, rows) in enumerate((("yesterday", 200), ("today", 300))):
        write_toy_log(tmp_path / day, rows=rows, seed=seed)
        extra = {} if day == "yesterday" else {"enrich.dense_ids_from": tmp_path / "yesterday" / "dense_ids"}
        config = recipes.load("simulated", toy_recipe(tmp_path / day, **extra))
        enrich.run(config)
    older, newer = (DenseIdMap.load(tmp_path / day / "dense_ids") for day in ("yesterday", "today"))
    assert newer.misplaced(older) is None
    assert newer.inherited == len(older.ids) < len(newer.ids)
    mark_current(STAGES["enrich"], config)
    assert is_current(STAGES["enrich"], config)
    DenseIdMap(newer.ids, newer.table_rows, newer.first_rows).save(tmp_path / "yesterday" / "dense_ids")
    assert not is_current(STAGES["enrich"], config)
    with pytest.raises(InputError, match="is the folder that the stage writes; give each day a workdir of its own"):
        enrich.run(recipes.with_overrides(config, {"enrich.dense_ids_from": str(tmp_path / "today" / "dense_ids")}))
    with pytest.raises(InputError, match="nowhere: no dense id map here"):
        enrich.run(recipes.with_overrides(config, {"enrich.dense_ids_from": "nowhere"}))


@pytest.mark.parametrize("name", ["ids", "table_rows", "first_rows"])
def test_a_damaged_map_is_named(tmp_path: Path, name: str) -> None:
    DenseIdMap.build(impressions(tmp_path / "log", [3, 4], 8)).save(tmp_path / "map")
    file = tmp_path / "map" / f"{name}.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=f"{name}.npy: damaged, its sha256 differs"):
        DenseIdMap.load(tmp_path / "map")
