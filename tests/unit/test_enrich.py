"""Enrichment against a plain dictionary, and the dense id map against a row-by-row one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.dataset import DatasetWriter, open_dataset, read_table
from features.dense_ids import DenseIdMap
from features.enrich import Additions, enrich
from features.errors import InputError
from features.semantic_id import SidContract
from features.store.publish import publish
from features.store.versions import open_snapshot
from pipeline import enrich as stage
from pipeline import recipe as recipes
from pipeline.loader import BatchSource
from tests.toy_log import CONTRACT, IMAGE, toy_recipe, write_enriched_toy_log, write_toy_log

SOURCES = (CONTRACT.source, IMAGE.source)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("enrich")
    write_enriched_toy_log(folder, rows=900, further=(IMAGE,))
    return folder


def test_every_row_is_kept_with_the_codes_of_a_dictionary(workdir: Path) -> None:
    store = open_snapshot(workdir / "store")
    dataset = open_dataset(workdir / "enriched")
    rows = read_table(dataset).to_pylist()
    assert dataset.metadata["sid_contracts"] == [CONTRACT.to_json(), IMAGE.to_json()]
    assert len(rows) == 900
    assert any(not row["history_item_ids"] for row in rows)
    for contract in (CONTRACT, IMAGE):
        unknown = [65535] * contract.levels
        codes = {int(item): row.tolist() for item, row in zip(store.ids, store.codes[contract.source], strict=True)}
        assert any(codes.get(row["item_id"], unknown) == unknown for row in rows)
        for row in rows:
            assert row[f"target_codes_{contract.source}"] == codes.get(row["item_id"], unknown)
            expected = [code for item in row["history_item_ids"] for code in codes.get(item, unknown)]
            assert row[f"history_codes_{contract.source}"] == expected
    # Some items have codes of one source alone, either way round.
    known = [store.codes[source][:, 0] != 65535 for source in SOURCES]
    assert (known[0] & ~known[1]).any()
    assert (known[1] & ~known[0]).any()


def test_misses_are_counted_by_source_and_told(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage.run(recipes.load("simulated", toy_recipe(workdir, **{"embed.sources": f"[{', '.join(SOURCES)}]"})))
    rows = read_table(open_dataset(workdir / "enriched"))
    told = capsys.readouterr().out
    for contract in (CONTRACT, IMAGE):
        codes = [rows.column(f"{part}_codes_{contract.source}").combine_chunks().flatten().to_numpy() for part in ("target", "history")]
        first = np.concatenate(codes).reshape(-1, contract.levels)[:, 0]
        assert f"{len(first):,} ids looked up" in told
        assert f"{(first == 65535).mean():.2%} without a Semantic ID of {contract.source}" in told


@given(st.integers(0, 900), st.integers(0, 300))
def test_a_slice_enriches_as_the_whole_does(workdir: Path, start: int, length: int) -> None:
    store = open_snapshot(workdir / "store")
    batch = read_table(open_dataset(workdir / "impressions")).combine_chunks().to_batches()[0].slice(start, length)
    part = enrich(batch, store, Additions(SOURCES))
    expected = read_table(open_dataset(workdir / "enriched")).slice(start, length).combine_chunks()
    assert pa.Table.from_batches([part.batch]).to_pylist() == expected.to_pylist()
    ids = batch.column("item_id").to_pylist() + [item for items in batch.column("history_item_ids").to_pylist() for item in items]
    assert part.lookups == len(ids)
    known = {source: set(store.ids[store.codes[source][:, 0] != 65535].tolist()) for source in SOURCES}
    assert part.misses == {source: sum(item not in known[source] for item in ids) for source in SOURCES}


def test_columns_come_in_the_order_of_the_sources_and_share_the_impressions_memory(workdir: Path) -> None:
    store = open_snapshot(workdir / "store")
    batch = read_table(open_dataset(workdir / "impressions")).combine_chunks().to_batches()[0]
    both, turned, one = (enrich(batch, store, Additions(sources)).batch for sources in (SOURCES, SOURCES[::-1], SOURCES[:1]))
    names = [f"{part}_codes_{source}" for source in SOURCES for part in ("target", "history")]
    assert both.schema.names == [*batch.schema.names, *names]
    assert turned.select(both.schema.names).equals(both)
    assert turned.schema.names[-4:] == [*names[2:], *names[:2]]
    assert one.equals(both.select(one.schema.names))
    assert both.column("history_item_ids").values.buffers()[1].address == batch.column("history_item_ids").values.buffers()[1].address


def test_files_of_another_codebook_are_refused_by_name(workdir: Path, tmp_path: Path) -> None:
    write_toy_log(tmp_path, rows=50)
    config = recipes.load("simulated", toy_recipe(tmp_path))
    stage.run(config)
    other = CONTRACT.__class__(**{**CONTRACT.to_json(), "codebook_hash": "another"})
    publish(tmp_path / "store", [(np.array([1]), {"text": np.zeros((1, 3), np.uint16)})], [other])
    with pytest.raises(InputError, match=r"codebook_hash is 'toy' in .*enriched but 'another' in .*store"):
        _ = BatchSource(config).contracts


def test_of_several_sources_the_configured_ones_are_read(tmp_path: Path) -> None:
    write_enriched_toy_log(tmp_path, rows=200)
    one = read_table(open_dataset(tmp_path / "enriched"))
    ids = open_snapshot(tmp_path / "store").ids
    image = SidContract(levels=2, codebook_size=9, codebook_hash="images", source="image", generation=1)
    publish(tmp_path / "store", [(ids, {"image": np.full((len(ids), 2), 7)})], [image])
    config = recipes.load("simulated", toy_recipe(tmp_path))
    stage.run(config)
    assert read_table(open_dataset(tmp_path / "enriched")).equals(one)
    looked_up = recipes.with_overrides(config, {"train.input": "impressions"})
    assert BatchSource(looked_up).rows(0, 200).column("target_codes_text").equals(one.column("target_codes_text"))
    stage.run(recipes.with_overrides(config, {"embed.sources": ["image", "text"]}))
    both = read_table(open_dataset(tmp_path / "enriched"))
    assert both.select(one.column_names).equals(one)
    known = [codes[0] != 65535 for codes in one.column("target_codes_text").to_pylist()]
    assert both.column("target_codes_image").to_pylist() == [[7, 7] if each else [65535] * 2 for each in known]
    with pytest.raises(InputError, match="there is no source 'sound'; it has image, text"):
        stage.run(recipes.with_overrides(config, {"embed.sources": ["text", "sound"]}))


@given(st.lists(st.integers(0, 12), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 90))
def test_the_dense_map_knows_an_item_from_its_first_row_on(
    tmp_path_factory: pytest.TempPathFactory, items: list[int], group: int, before: int
) -> None:
    folder = tmp_path_factory.mktemp("dense")
    schema = pa.schema([pa.field("item_id", pa.int64(), nullable=False)])
    with DatasetWriter(folder / "impressions", schema, {}, rows_per_group=group) as writer:
        writer.write(pa.table({"item_id": items}, schema=schema))
    DenseIdMap.build(open_dataset(folder / "impressions")).save(folder / "dense")
    dense = DenseIdMap.load(folder / "dense")
    order = sorted(set(items))
    expected = [order.index(item) if item in items[:before] else -1 for item in range(14)]
    assert dense.rows(np.arange(14), before).tolist() == expected
