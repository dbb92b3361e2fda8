"""The stages embed, quantize and assign on a small data set of items with vectors: what they write, and what they refuse."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.content import read_content
from features.dataset import DatasetWriter, open_dataset, read_table
from features.entity_store import EntityStore
from features.errors import InputError
from features.schema import ITEMS
from features.store.versions import open_snapshot
from models.quantizers.codebook import load
from pipeline import assign, embed, quantize
from pipeline.config import RunConfig
from pipeline.recipe import validate, with_overrides

ITEM_COUNT = 300
SOURCE = "vector_content"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small_run(tmp_path)


def small_run(folder: Path) -> RunConfig:
    """A run whose items, in 8 clusters, are written; the last item has no vector."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(8, 16))[rng.integers(0, 8, ITEM_COUNT)] * 3 + rng.normal(size=(ITEM_COUNT, 16))).astype(np.float32)
    schema = ITEMS.append(pa.field("vector_content", pa.list_(pa.float32(), 16)))
    columns = {name: pa.nulls(ITEM_COUNT, ITEMS.field(name).type) for name in ITEMS.names}
    columns["item_id"] = pa.array(rng.permutation(ITEM_COUNT) * 7, pa.int64())
    columns["vector_content"] = pa.array([*vectors[:-1].tolist(), None], pa.list_(pa.float32(), 16))
    with DatasetWriter(folder / "items", schema, {}) as writer:
        writer.write(pa.table(columns, schema=schema))
    values = {
        "name": "small",
        "workdir": str(folder),
        "ingest": {"source": "canonical"},
        "embed": {"sources": [SOURCE]},
        "quantize": {"codebook_size": 8, "epochs": 3, "hidden_dims": [16], "latent_dim": 8},
        "model": {"representations": {"sid": {"kind": "semantic_id", "rows": 100}}},
    }
    return validate(values, "test")


def test_codes_of_all_items_with_content_reach_the_store(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in (embed, quantize, assign):
        stage.run(config)
    printed = capsys.readouterr().out
    assert "embed: vector_content: 299 vectors of width 16" in printed
    assert "assign: vector_content: 299 items, " in printed
    assert "usage 100.0% 100.0% 100.0%" in printed
    content, codebook, store = (
        read_content(config.path("content", SOURCE)),
        load(config.path("codebook", SOURCE)),
        open_snapshot(config.path("store")),
    )
    assert open_dataset(config.path("content", SOURCE)).metadata["left_out"] == 1
    assert store.contract() == codebook.contract
    answer = store.lookup(content.item_ids)
    assert answer.misses == 0
    assert len(store.ids) == ITEM_COUNT - 1
    # Items of like content share level 1 far more often than chance has it.
    chance, shared, *_ = codebook.quality.prefix_cosine
    assert chance is not None
    assert shared is not None
    assert shared > chance + 0.3


def test_the_negative_control_has_the_same_codes_for_other_items(config: RunConfig) -> None:
    for stage in (embed, quantize, assign):
        stage.run(config)
    store, shuffled = (open_snapshot(config.path(name)) for name in ("store", "store_shuffled"))
    codes, permuted = store.codes["vector_content"], shuffled.codes["vector_content-shuffled"]
    assert np.array_equal(store.ids, shuffled.ids)
    assert sorted(codes.tolist()) == sorted(permuted.tolist())
    assert (codes[:, 0] == permuted[:, 0]).mean() < 0.3
    with pytest.raises(InputError, match="source is 'vector_content' in store but 'vector_content-shuffled' in control"):
        store.contract().require_same(shuffled.contract(), "store", "control")


def test_a_published_semantic_id_stays_and_only_new_items_are_encoded(config: RunConfig) -> None:
    for stage in (embed, quantize, assign):
        stage.run(config)
    dataset, path = open_dataset(config.path("content", SOURCE)), config.path("store")
    before, store = open_snapshot(path), EntityStore(path)
    assign.run(config)
    assert (store.version, open_snapshot(config.path("store_shuffled")).path.name) == ("v000001", "v000001")
    appended = np.array([[7, 7, 7]])
    store.append(np.array([-5]), {"vector_content": appended}, [before.contract()])
    # Content without the first 99 items, with other vectors for the rest, with the appended item and a new one, in two row groups.
    table = read_table(dataset)
    ids = np.append(table.column("item_id").to_numpy()[99:], [-5, -6])
    vectors = np.random.default_rng(1).normal(size=(len(ids), 16)).astype(np.float32)
    with DatasetWriter(config.path("content", SOURCE), dataset.schema, dataset.metadata, rows_per_group=150) as writer:
        writer.write(pa.table({"item_id": ids, "vector": pa.array(vectors.tolist(), dataset.schema.field("vector").type)}))
    assign.run(config)
    assert store.version == "v000002"
    assert np.array_equal(store.lookup(before.ids).codes, before.codes["vector_content"])
    assert store.get(-5) == (7, 7, 7)
    expected = load(config.path("codebook", SOURCE)).model.encode(torch.tensor(vectors[-1:]))
    assert store.get(-6) == tuple(expected[0].tolist())
    assert store.snapshot().rows == len(before.ids) + 1


def test_a_run_is_repeated_exactly(config: RunConfig) -> None:
    embed.run(config)
    hashes = []
    for _ in range(2):
        quantize.run(config)
        hashes.append(load(config.path("codebook", SOURCE)).contract.codebook_hash)
    assert hashes[0] == hashes[1]


def test_a_collapsed_level_is_named_and_nothing_is_published(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    items = open_dataset(config.path("items"))
    table = pa.table(
        {
            "item_id": pa.array(range(100), pa.int64()),
            "vector_content": pa.array([[float(row % 4)] + [0.0] * 15 for row in range(100)], pa.list_(pa.float32(), 16)),
        }
    )
    for name in ITEMS.names[1:]:
        table = table.append_column(name, pa.nulls(100, ITEMS.field(name).type))
    with DatasetWriter(config.path("items"), items.schema, {}) as writer:
        writer.write(table)
    embed.run(config)
    with pytest.raises(InputError, match=r"collapsed: level 1 uses 50.0% of its 8 codes, less than quantize.min_usage 90\.0%"):
        quantize.run(with_overrides(config, {"quantize.min_usage": 0.9, "quantize.codebook_size": 8, "quantize.epochs": 1}))
    assert not config.path("codebook").exists()
    assert "ALARM: the codebook collapses: level 1 uses 50.0% of its 8 codes" in capsys.readouterr().out
    assert list((config.path("quantize") / "tensorboard").rglob("events.*"))


def test_content_of_another_source_is_refused(config: RunConfig) -> None:
    embed.run(config)
    quantize.run(config)
    content = read_content(config.path("content", SOURCE))
    dataset = open_dataset(config.path("content", SOURCE))
    with DatasetWriter(config.path("content", SOURCE), dataset.schema, {"source": "text"}) as writer:
        writer.write(
            pa.table({"item_id": content.item_ids, "vector": pa.array(content.vectors_ND.tolist(), dataset.schema.field("vector").type)})
        )
    with pytest.raises(
        InputError, match=r"source 'text' and width 16, .*codebook/vector_content was trained on source 'vector_content' and width 16"
    ):
        assign.run(config)


def test_a_missing_text_column_is_named(config: RunConfig) -> None:
    with pytest.raises(InputError, match="column 'vector_image' is missing"):
        embed.run(with_overrides(config, {"embed.sources": ["vector_image"]}))
