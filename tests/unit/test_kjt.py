"""Batches against a plain row-by-row construction: bags, keys, padding, ages, id dropout, and the reader's route to the same batch."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from features.batch import Batch
from features.dataset import open_dataset, read_table
from features.dense_ids import DenseIdMap
from features.errors import InputError
from features.prefix_ngram import exact_coarse_keys
from features.reader import BatchPlan
from features.representation import hashed_rows
from features.store.publish import publish
from features.store.snapshot import Snapshot
from features.store.versions import open_snapshot
from pipeline import recipe as recipes
from pipeline.config import RunConfig
from pipeline.loader import BatchSource
from tests.toy_log import CONTRACT, rows_of, toy_recipe, write_enriched_toy_log, write_toy_log

T = 4
BOTH = "{sid: {kind: semantic_id, rows: 97, depth: 3}, own: {kind: individual}, hash: {kind: random_hash, rows: 50, history: false}}"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kjt")
    write_enriched_toy_log(folder, rows=700)
    return folder


def load(folder: Path, **changes: object) -> RunConfig:
    return recipes.load("simulated", toy_recipe(folder, **changes))


def test_bags_hold_each_positions_keys(workdir: Path) -> None:
    source = BatchSource(load(workdir, **{"model.representations": BOTH, "train.id_dropout": 0.0}))
    rows = read_table(open_dataset(workdir / "impressions")).slice(600, 100).to_pylist()
    batch = source.builder.build(source.rows(600, 700), first_row=600, size=128, step_rows=(512, 700), training=True, known_before=512)
    store, dense_ids = open_snapshot(workdir / "store"), DenseIdMap.load(workdir / "dense_ids")
    assert batch.items is not None
    assert batch.context is not None
    jagged = batch.items.to_dict()
    assert list(jagged) == ["sid", "own"]
    for name, rows_in_table in {"sid": 97, "own": len(dense_ids.ids)}.items():
        bags = [bag.tolist() for bag in jagged[name].to_dense()]
        assert len(bags) == 128 * (1 + T)
        for example, row in enumerate(rows):
            items = [row["item_id"], *row["history_item_ids"][:T]]
            expected = [keys_of(name, item, store, dense_ids, rows_in_table) for item in items]
            expected += [[]] * (1 + T - len(expected))
            assert bags[example * (1 + T) : (example + 1) * (1 + T)] == expected
        assert not any(bags[len(rows) * (1 + T) :])
    alone = [bag.tolist() for bag in batch.context.to_dict()["hash"].to_dense()]  # of the target alone: a bag per example
    assert alone == [hashed_rows(np.array([row["item_id"]]), 50).tolist() for row in rows] + [[]] * 28
    assert batch.weight_B.tolist() == [1.0] * 100 + [0.0] * 28
    assert batch.rows_in_step.item() == 188


def keys_of(name: str, item: int, store: Snapshot, dense_ids: DenseIdMap, rows: int) -> list[int]:
    """The rule in its plainest form, for one item."""
    if name == "own":
        position = np.flatnonzero(dense_ids.ids == item)
        return [int(position[0])] if len(position) and dense_ids.first_rows[position[0]] < 512 else [rows]
    codes = store.lookup(np.array([item])).codes
    if codes[0, 0] == 65535:
        return [rows] * 3
    return exact_coarse_keys(codes, depth=3, codebook_size=16, rows=rows)[0].tolist()


def test_ages_dense_and_masks(workdir: Path) -> None:
    source = BatchSource(load(workdir))
    rows = read_table(open_dataset(workdir / "impressions")).slice(0, 64).to_pylist()
    batch = source.builder.build(source.rows(0, 64), first_row=0, size=64, step_rows=(0, 64), training=False, known_before=0)
    for example, row in enumerate(rows):
        ages = [(row["timestamp"] - then).total_seconds() / 3600 for then in row["history_timestamps"][:T]]
        assert batch.history_mask_BT[example].tolist() == [True] * len(ages) + [False] * (T - len(ages))
        assert batch.history_age_BT[example, : len(ages)].tolist() == pytest.approx(ages, rel=1e-6)
        assert batch.dense_BF[example].tolist() == pytest.approx(
            [np.log1p(row["dense_past_count"]), np.log1p(row["dense_age_hours"])], rel=1e-6
        )
        assert batch.label_BK[example, 0] == row["label_click"]


def test_lookup_in_the_reader_gives_the_enriched_batch(workdir: Path) -> None:
    enriched, live = (BatchSource(load(workdir, **{"train.input": kind})) for kind in ("enriched", "impressions"))
    plan = BatchPlan(0, rows_of(workdir), 128)
    pairs = list(zip(enriched.batches(plan, 0, training=True), live.batches(plan, 0, training=True), strict=True))
    assert len(pairs) == plan.steps
    for one, other in pairs:
        assert_same_items(one, other)


def assert_same_items(one: Batch, other: Batch) -> None:
    assert one.items is not None
    assert other.items is not None
    assert torch.equal(one.items.values(), other.items.values())
    assert torch.equal(one.items.lengths(), other.items.lengths())


def test_loader_processes_change_nothing(workdir: Path) -> None:
    plan = BatchPlan(0, rows_of(workdir), 128)
    here, there = (BatchSource(load(workdir, **{"train.workers": workers})).batches(plan, 1, training=True) for workers in (0, 2))
    for one, other in zip(here, there, strict=True):
        assert_same_items(one, other)
        assert torch.equal(one.label_BK, other.label_BK)


def test_individual_ids_drop_out_at_the_stated_rate_whatever_the_ranks(workdir: Path) -> None:
    source = BatchSource(load(workdir, **{"model.representations": "{own: {kind: individual}}", "train.id_dropout": 0.3}))
    unknown = source.builder.representations[0].rows
    kept, dropped = keys(source, 0, 700, training=False), keys(source, 0, 700, training=True)
    assert torch.equal(torch.cat([keys(source, 0, 350, training=True), keys(source, 350, 700, training=True)]), dropped)
    assert (dropped[dropped != unknown] == kept[dropped != unknown]).all()
    assert (dropped == unknown)[kept != unknown].float().mean() == pytest.approx(0.3, abs=0.03)


def keys(source: BatchSource, start: int, stop: int, *, training: bool) -> torch.Tensor:
    rows = source.rows(start, stop)
    batch = source.builder.build(rows, first_row=start, size=stop - start, step_rows=(0, 700), training=training, known_before=10**9)
    assert batch.items is not None
    return batch.items.values()


@given(st.integers(0, 700), st.integers(0, 700))
def test_any_range_of_rows_is_the_same_as_from_the_whole(workdir: Path, start: int, length: int) -> None:
    stop = min(start + length, 700)
    source = BatchSource(load(workdir))
    whole = read_table(source.dataset, source.builder.columns)
    assert source.rows(start, stop).equals(whole.slice(start, stop - start))


@given(st.integers(0, 50), st.integers(0, 5000), st.integers(1, 40), st.sampled_from([1, 2, 4]))
def test_every_row_is_in_exactly_one_slice(start: int, length: int, local: int, world: int) -> None:
    plans = [BatchPlan(start, start + length, local * world, world, rank) for rank in range(world)]
    assert len({plan.steps for plan in plans}) == 1
    rows = [row for step in range(plans[0].steps) for plan in plans for row in range(*plan.rank_rows(step))]
    assert rows == list(range(start, start + length))


def test_modulo_tables_get_rows_that_share_no_factor_with_the_codebook(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = "{sid: {kind: semantic_id, rows: 96, depth: 3, mapping: modulo}}"
    source = BatchSource(load(workdir, **{"model.representations": tables}))
    assert source.builder.schema.item_tables == {"sid": 98}  # 97, and the unknown row
    assert "table sid: a modulo of 96 rows, which share a factor with K, would lose coarse codes: 97 rows taken" in capsys.readouterr().out


def test_a_table_is_no_larger_than_its_scheme_has_keys(workdir: Path) -> None:
    tables = "{levels: {kind: semantic_id, scheme: unigram, rows: 1000}, pairs: {kind: semantic_id, scheme: bigram, rows: 1000}}"
    source = BatchSource(load(workdir, **{"model.representations": tables}))
    assert source.builder.schema.item_tables == {"levels": 3 * 16 + 1, "pairs": 16**2 + 16 + 1}


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("{kind: semantic_id, scheme: fourgram}", "model.representations.sid: scheme fourgram needs 4 levels, the codes have 3"),
        ("{kind: semantic_id, depth: 4}", r"model.representations.sid: scheme prefix_ngram: depth 4 is not in 1\.\.3"),
        ("{kind: semantic_id, scheme: spm, rows: 47}", "model.representations.sid: scheme spm: 47 rows are too few .* 48 in all"),
    ],
)
def test_a_scheme_that_does_not_fit_the_codes_is_refused_by_name(workdir: Path, table: str, told: str) -> None:
    source = BatchSource(load(workdir, **{"model.representations": f"{{sid: {table}}}"}))
    with pytest.raises(InputError, match=told):
        source.prepare()
        _ = source.builder


def test_ranks_and_loader_processes_read_the_version_that_rank_0_found(tmp_path: Path) -> None:
    write_toy_log(tmp_path, rows=100)
    config = load(tmp_path, **{"train.input": "impressions"})
    found = BatchSource(config).prepare()
    before = BatchSource(config, found).rows(0, 100)
    ids = open_snapshot(tmp_path / "store").ids
    changed = np.zeros((len(ids), CONTRACT.levels), np.uint16)
    publish(tmp_path / "store", [(ids, {"text": changed})], [CONTRACT])
    loader = pickle.loads(pickle.dumps(BatchSource(config, found)))
    assert loader.rows(0, 100).equals(before)
    assert not BatchSource(config).rows(0, 100).equals(before)


def test_hashed_tables_share_the_rows_equally(workdir: Path) -> None:
    tables = "{sid: {kind: semantic_id}, hash: {kind: random_hash}, own: {kind: individual}}"
    source = BatchSource(load(workdir, **{"model.representations": tables, "model.rows": 200}))
    assert source.builder.schema.item_tables == {"sid": 101, "hash": 101, "own": source.builder.representations[2].rows + 1}
