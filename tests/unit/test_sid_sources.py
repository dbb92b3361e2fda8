"""Several sources of Semantic IDs through the stages embed, quantize and assign: one store, codebooks that are published together."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from features.content import read_content
from features.dataset import DatasetWriter, open_dataset, read_table
from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE
from features.store.versions import open_snapshot
from models.quantizers.codebook import load
from pipeline import assign, embed, quantize
from pipeline.config import RunConfig
from pipeline.recipe import with_overrides
from tests.unit.test_sid_stages import ITEM_COUNT, SOURCE, small_run

IMAGE = "vector_image"


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small_run(tmp_path)


@pytest.fixture
def two(config: RunConfig) -> RunConfig:
    """The same items with a second vector, of another width, that every third item lacks; the last item has this one alone."""
    items = open_dataset(config.path("items"))
    rng = np.random.default_rng(2)
    images = (rng.normal(size=(8, 12))[rng.integers(0, 8, ITEM_COUNT)] * 3 + rng.normal(size=(ITEM_COUNT, 12))).tolist()
    given = [None if row % 3 == 0 else image for row, image in enumerate(images)]
    field = pa.field(IMAGE, pa.list_(pa.float32(), 12))
    table = read_table(items).append_column(field, pa.array(given, field.type))
    with DatasetWriter(config.path("items"), table.schema, {}) as writer:
        writer.write(table)
    return with_overrides(config, {"embed.sources": [SOURCE, IMAGE]})


def test_several_sources_lie_in_one_version_of_the_store(two: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in (embed, quantize, assign):
        stage.run(two)
    printed = capsys.readouterr().out
    for line in (f"embed: {IMAGE}: 200 vectors of width 12", f"quantize: {IMAGE}: rqvae, 200 items", f"  {IMAGE}: epoch 3/3: "):
        assert line in printed
    assert f"assign: {IMAGE}: 200 items, " in printed
    store = open_snapshot(two.path("store"))
    assert (store.path.name, store.rows) == ("v000001", ITEM_COUNT)
    ids = read_table(open_dataset(two.path("items"))).column("item_id").to_numpy()
    for source, has in ((SOURCE, np.arange(ITEM_COUNT) < ITEM_COUNT - 1), (IMAGE, np.arange(ITEM_COUNT) % 3 > 0)):
        codebook = load(two.path("codebook", source))
        assert store.contract(source) == codebook.contract
        assert codebook.contract.source == source
        codes = store.lookup(ids, source).codes
        assert np.array_equal(codes[:, 0] != UNKNOWN_CODE, has)
        content = read_content(two.path("content", source))
        assert np.array_equal(store.lookup(content.item_ids, source).codes, codebook.model.encode(torch.tensor(content.vectors_ND)).numpy())
    boards = [path.parents[1].name for path in (two.path("quantize") / "tensorboard").rglob("events.*")]
    assert sorted(boards) == [SOURCE, IMAGE]


def test_in_the_negative_control_the_codes_of_all_sources_move_together(two: RunConfig) -> None:
    for stage in (embed, quantize, assign):
        stage.run(two)
    store, shuffled = (open_snapshot(two.path(name)) for name in ("store", "store_shuffled"))
    assert set(shuffled.contracts) == {f"{SOURCE}-shuffled", f"{IMAGE}-shuffled"}
    assert np.array_equal(store.ids, shuffled.ids)
    real = np.concatenate([store.codes[source] for source in (SOURCE, IMAGE)], axis=1)
    control = np.concatenate([shuffled.codes[f"{source}-shuffled"] for source in (SOURCE, IMAGE)], axis=1)
    assert sorted(real.tolist()) == sorted(control.tolist())
    assert (real == control).all(axis=1).mean() < 0.1


def test_a_source_that_comes_later_leaves_the_others_ids_as_they_are(two: RunConfig, config: RunConfig) -> None:
    for stage in (embed, quantize, assign):
        stage.run(config)
    before = open_snapshot(config.path("store"))
    for stage in (embed, quantize, assign):
        stage.run(two)
    after = open_snapshot(two.path("store"))
    assert after.path.name == "v000002"
    assert after.contract(SOURCE) == before.contract()
    assert np.array_equal(after.lookup(before.ids, SOURCE).codes, before.codes[SOURCE])


def test_codebooks_are_published_together_and_a_trained_one_is_not_trained_again(
    two: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    embed.run(two)
    good = open_dataset(two.path("content", IMAGE))
    vectors, flat = read_table(good), np.zeros((200, 12), np.float32)
    flat[:, 0] = np.arange(200) % 4
    with DatasetWriter(good.path, good.schema, good.metadata) as writer:
        writer.write(vectors.set_column(1, good.schema.field(1), pa.array(flat.tolist(), good.schema.field(1).type)))
    strict = with_overrides(two, {"quantize.min_usage": 0.9})
    with pytest.raises(InputError, match=f"codebook of source '{IMAGE}' has collapsed: level 1 uses 50"):
        quantize.run(strict)
    assert not two.path("codebook").exists()
    with DatasetWriter(good.path, good.schema, good.metadata) as writer:
        writer.write(vectors)
    capsys.readouterr()
    quantize.run(strict)
    printed = capsys.readouterr().out
    assert f"  {SOURCE}: goes on after 3 epochs" in printed
    assert f"{SOURCE}: epoch" not in printed
    assert f"{IMAGE}: epoch 1/3" in printed
    resumed = [load(two.path("codebook", source)).contract for source in two.embed.sources]
    assert not list((two.path("quantize") / "state").iterdir())
    quantize.run(strict)
    assert [load(two.path("codebook", source)).contract for source in two.embed.sources] == resumed
