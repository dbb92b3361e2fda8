"""What a recipe may add to a batch, against plain loops: several sources, shared prefixes, untrained rows, multi-valued context."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batch import Batch
from features.dataset import DatasetWriter, open_dataset, read_table
from features.dense_ids import DenseIdMap
from features.errors import InputError
from features.kjt import BatchBuilder
from features.positions import Positions
from features.reader import BatchPlan
from features.representation import Representation, hashed_rows
from features.schema import IMPRESSIONS, TIMESTAMP
from features.store.versions import open_snapshot
from models.ranker import Ranker
from pipeline import recipe as recipes
from pipeline.loader import BatchSource
from tests.toy_log import CONTRACT, IMAGE, rows_of, toy_recipe, write_enriched_toy_log

T, ROWS = 4, 700
SOURCES = {"embed.sources": "[text, vector_image]"}
TWO_SOURCES = (
    "{history: {kind: semantic_id, rows: 97, depth: 3, target: false}, text: {kind: semantic_id, rows: 97, depth: 3, history: false}, "
    "image: {kind: semantic_id, source: vector_image, rows: 90, depth: 2, history: false}, hash: {kind: random_hash, rows: 50}}"
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    write_enriched_toy_log(folder, rows=ROWS, further=(IMAGE,))
    return folder


def source(workdir: Path, **changes: object) -> BatchSource:
    return BatchSource(recipes.load("simulated", toy_recipe(workdir, **{**SOURCES, **changes})))


def built(opened: BatchSource, first: int = 600, *, training: bool = True) -> tuple[Batch, list[dict]]:
    """Rows [first, 700) as a batch of 128, and as Python sees them."""
    rows = read_table(open_dataset(opened.config.path("impressions"))).slice(first, ROWS - first).to_pylist()
    batch = opened.builder.build(
        opened.rows(first, ROWS), first_row=first, size=128, step_rows=(first, ROWS), training=training, known_before=first
    )
    return batch, rows


def bags_of(kjt: KeyedJaggedTensor | None) -> dict[str, list[list[int]]]:
    """The keys of each bag."""
    assert kjt is not None
    return {name: [bag.tolist() for bag in jagged.to_dense()] for name, jagged in kjt.to_dict().items()}


@pytest.mark.parametrize(("given", "store"), [("enriched", "store"), ("impressions", "store"), ("impressions", "store_shuffled")])
def test_six_sparse_and_one_sequential_feature_in_small(workdir: Path, given: str, store: str) -> None:
    opened = source(workdir, **{"model.representations": TWO_SOURCES, "train.input": given, "train.store": store})
    batch, rows = built(opened)
    items, context = bags_of(batch.items), bags_of(batch.context)
    assert list(items) == ["history", "hash"]
    assert list(context) == ["text", "image", "context_country"]
    tables = {table.name: table for table in opened.builder.representations}
    suffix = "-shuffled" if store == "store_shuffled" else ""
    contents = open_snapshot(workdir / store)
    names = {"history": f"text{suffix}", "text": f"text{suffix}", "image": f"vector_image{suffix}"}

    def keys(name: str, item: int) -> list[int]:
        codes = contents.lookup(np.array([item]), names[name]).codes
        table = tables[name]
        if codes[0, 0] == 65535:
            return [table.rows] * table.keys_per_item
        assert table.parameterization is not None
        return table.parameterization.keys(codes, table.rows)[0].tolist()

    bags = items | context
    for example, row in enumerate(rows):
        history = row["history_item_ids"][:T]
        expected = [[], *(keys("history", item) for item in history), *[[]] * (T - len(history))]
        assert bags["history"][example * (1 + T) : (example + 1) * (1 + T)] == expected
        for name in ("text", "image"):
            assert bags[name][example] == keys(name, row["item_id"])
    assert all(not bag for name in ("text", "image") for bag in bags[name][len(rows) :])
    Ranker(opened.builder.schema, opened.config.model)(batch)[0].backward()


def test_codes_are_read_only_where_they_are_used(workdir: Path) -> None:
    columns = source(workdir, **{"model.representations": TWO_SOURCES}).builder.columns
    assert [name for name in columns if "codes" in name] == ["target_codes_text", "history_codes_text", "target_codes_vector_image"]
    without = source(workdir, **{"model.representations": "{x: {kind: random_hash}}"}).builder.columns
    assert not [name for name in without if "codes" in name]


def test_a_source_that_is_not_there_is_refused(workdir: Path) -> None:
    with pytest.raises(InputError, match=r"source 'video' is not one of embed\.sources, text, vector_image"):
        source(workdir, **{"model.representations": "{sid: {kind: semantic_id, source: video}}"})
    with pytest.raises(InputError, match=r"has codes of source text, vector_image, but .*store_shuffled is read for 'text-shuffled'"):
        _ = source(workdir, **{"train.store": "store_shuffled"}).contracts


@pytest.mark.parametrize("table", ["{kind: random_hash, rows: 50}", "{kind: semantic_id, rows: 97, depth: 2}"])
def test_shared_depths_are_counted_code_by_code(workdir: Path, table: str) -> None:
    opened = source(workdir, **{"model.representations": f"{{x: {table}}}", "model.shared_prefix": True})
    batch, rows = built(opened, 572)
    store = open_snapshot(workdir / "store")
    seen = set()
    for example, row in enumerate(rows):
        target, *history = store.lookup(np.array([row["item_id"], *row["history_item_ids"][:T]]), "text").codes.tolist()
        depths = [next((i for i in range(3) if a[i] != target[i] or a[i] == 65535), 3) for a in history]
        assert batch.shared_depth_BT is not None
        assert batch.shared_depth_BT[example].tolist() == depths + [0] * (T - len(depths))
        seen |= set(depths)
    assert seen >= {0, 1}
    assert opened.builder.schema.shared_levels == CONTRACT.levels
    Ranker(opened.builder.schema, opened.config.model)(batch)[0].backward()


@pytest.mark.parametrize(
    ("changes", "items"),
    [
        ({}, {"target_codes_text", "history_codes_text"}),
        ({"train.input": "impressions"}, {"item_id", "history_item_ids"}),
        ({"model.representations": "{x: {kind: random_hash, history: false}}"}, {"item_id"}),
        ({"model.representations": "{x: {kind: individual, target: false}}"}, {"history_item_ids"}),
        ({"model.representations": "{x: {kind: semantic_id, history: false}}"}, {"target_codes_text"}),
        (
            {"model.representations": "{x: {kind: random_hash, target: false}}", "model.shared_prefix": True},
            {"history_item_ids", "target_codes_text", "history_codes_text"},
        ),
    ],
)
def test_only_the_columns_that_batches_are_made_of_are_read(workdir: Path, changes: dict[str, object], items: set[str]) -> None:
    columns = set(source(workdir, **changes).builder.columns)
    assert {name for name in columns if "item" in name or "codes" in name} == items
    assert {"timestamp", "history_timestamps", "label_click", "dense_age_hours", "past_impressions", "context_country"} <= columns
    assert not columns & {"user_id", "label_like", "oracle_probability"}


CODES = st.lists(st.sampled_from([0, 1]), min_size=3, max_size=3) | st.just([65535] * 3)


@given(st.lists(st.tuples(CODES, st.lists(CODES, max_size=6)), min_size=1, max_size=8), st.integers(0, 3))
def test_positions_of_any_lists_are_in_bag_order(rows: list[tuple[list[int], list[list[int]]]], skipped: int) -> None:
    skipped = min(skipped, len(rows))
    ids = [list(range(100, 100 + len(history))) for _, history in rows]
    table = pa.table(
        {
            "item_id": pa.array(range(len(rows)), pa.int64()),
            "history_item_ids": pa.array(ids, pa.list_(pa.int64())),
            "history_timestamps": pa.array(ids, pa.list_(TIMESTAMP)),
            "target_codes_a": pa.array([target for target, _ in rows], pa.list_(pa.uint16(), 3)),
            "history_codes_a": pa.array([[code for codes in history for code in codes] for _, history in rows], pa.list_(pa.uint16())),
        }
    ).slice(skipped)
    kept = [(target, history[:T]) for target, history in rows[skipped:]]
    positions = Positions(table, T)
    assert positions.lengths.tolist() == [len(history) for _, history in kept]
    assert positions.codes("both", "a", 3).tolist() == [codes for target, history in kept for codes in (target, *history)]
    assert positions.codes("history", "a", 3).tolist() == [codes for _, history in kept for codes in history]
    in_order = [item for row, (_, history) in enumerate(kept) for item in (skipped + row, *range(100, 100 + len(history)))]
    assert positions.ids("both").tolist() == in_order
    present = [[True] * (1 + len(history)) + [False] * (T - len(history)) for _, history in kept] + [[False] * (1 + T)] * 2
    assert positions.present(len(kept) + 2).tolist() == present
    depths = [next((i for i in range(3) if a[i] != target[i] or a[i] == 65535), 3) for target, history in kept for a in history]
    assert positions.shared_depths("a", 3).tolist() == depths


def test_an_untrained_row_has_been_in_no_batch_before_its_items_first_impression(workdir: Path) -> None:
    opened = source(workdir, **{"model.representations": "{own: {kind: individual, unknown: untrained}}", "train.id_dropout": 0.5})
    dense_ids = DenseIdMap.load(workdir / "dense_ids")
    plan = BatchPlan(0, rows_of(workdir), 64)
    ids = read_table(open_dataset(workdir / "impressions")).column("item_id").to_numpy()
    first_seen = {int(item): int(np.flatnonzero(ids == item)[0]) for item in np.unique(ids)}
    row_of = dict(zip(dense_ids.rows(np.unique(ids), 10**9).tolist(), np.unique(ids).tolist(), strict=True))
    unknown = opened.builder.representations[0].rows
    targets: set[int] = set()
    for step, batch in enumerate(opened.batches(plan, 0, training=True)):
        keys = [bag[0] for bag in bags_of(batch.items)["own"][:: 1 + T] if bag]
        assert keys == dense_ids.rows(ids[step * 64 : step * 64 + 64], 10**9).tolist(), "no dropout, no delay"
        for key in set(keys) - targets:
            assert first_seen[row_of[key]] // 64 == step
        targets |= set(keys)
    assert unknown not in targets


def test_a_model_may_do_without_the_history_items(workdir: Path) -> None:
    opened = source(workdir, **{"model.representations": "{sid: {kind: semantic_id, rows: 97, history: false}}"})
    batch, _ = built(opened)
    assert batch.items is None
    Ranker(opened.builder.schema, opened.config.model)(batch)[0].backward()


def test_a_multi_valued_context_column_is_a_bag_per_example(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    lists = [generator.integers(0, 9, size).tolist() for size in (3, 0, 1, 2)]
    schema = IMPRESSIONS.append(pa.field("context_topics", pa.list_(pa.int64())))
    empty: list[list[int]] = [[]] * 4
    columns = {name: [0] * 4 for name in IMPRESSIONS.names} | {"history_item_ids": empty, "history_timestamps": empty}
    with DatasetWriter(tmp_path / "log", schema, {}) as writer:
        writer.write(pa.table({**columns, "context_topics": lists, "timestamp": pa.array([0] * 4, TIMESTAMP)}, schema=schema))
    rows = read_table(open_dataset(tmp_path / "log")).slice(1, 3)
    builder = BatchBuilder((Representation("x", "random_hash", 7),), tuple(schema.names), 2, 5, None, ("click",), {}, 0.0, 0)
    batch = builder.build(rows, first_row=1, size=4, step_rows=(1, 4), training=True, known_before=0)
    assert bags_of(batch.context)["context_topics"] == [*(hashed_rows(np.array(each, np.int64), 5).tolist() for each in lists[1:]), []]
    assert builder.schema.context_tables == {"context_topics": 5}
