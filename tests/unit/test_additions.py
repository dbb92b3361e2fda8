"""The kernel's further columns against a row-by-row reading in Python integers: keys, hashed context ids, normalised dense columns."""

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.dataset import DatasetWriter, open_dataset, read_table
from features.dense_statistics import DenseStatistics, measure
from features.engines.mapper import Enricher
from features.enrich import Additions, enrich
from features.errors import InputError
from features.parameterization import Ngrams
from features.representation import Representation
from features.store.versions import open_snapshot
from tests.toy_log import CONTRACT, IMAGE, write_toy_log
from tests.unit.test_representation import splitmix64

PREFIXES = Ngrams("prefix_ngram", CONTRACT.levels, CONTRACT.codebook_size, 3, "modulo")
REPRESENTATIONS = (
    Representation("prefixes", "semantic_id", 1009, source="text", parameterization=PREFIXES),
    Representation("looks", "semantic_id", 18, history=False, source="vector_image", parameterization=Ngrams("unigram", 2, 9)),
    Representation("hashed", "random_hash", 101, target=False, hashes=2),
)
DENSE = {"dense_past_count": DenseStatistics(1.5, 0.25), "dense_age_hours": DenseStatistics(-3.0, 4.0)}
ADDITIONS = Additions(("vector_image",), REPRESENTATIONS, 37, DENSE)
UNKNOWN = 65535


class FewKeys:
    """A parameterization whose items have as many keys as their first code says, at most 3; that is how scheme spm behaves."""

    keys_per_item, keys_vary, key_space = 3, True, 97

    def table_rows(self, budget: int) -> int:
        return budget

    def keys(self, codes: np.ndarray, rows: int) -> np.ndarray:
        counts = np.minimum(codes[:, :1], 2) + 1
        return np.where(np.arange(3) < counts, codes.astype(np.int64) % rows, -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("additions")
    write_toy_log(path, rows=600, further=(IMAGE,))
    return path


@pytest.fixture(scope="module")
def batch(folder: Path) -> pa.RecordBatch:
    rows = read_table(open_dataset(folder / "impressions")).combine_chunks().to_batches()[0]
    tags = [[int(x) * 7**20 for x in range(i % 4)] for i in range(rows.num_rows)]
    return rows.append_column("context_tags", pa.array(tags, pa.list_(pa.int64())))


def expected(row: dict[str, Any], codes: dict[str, dict[int, list[int]]]) -> Iterator[tuple[str, object]]:
    """The added columns of one row, in order."""

    def of(source: str, item: int, levels: int) -> list[int]:
        return codes[source].get(item, [UNKNOWN] * levels)

    def prefixes(item: int) -> list[int]:
        c = of("text", item, 3)
        pair, triple = c[0] * 16 + c[1], (c[0] * 16 + c[1]) * 16 + c[2]
        return [1009] * 3 if c[0] == UNKNOWN else [c[0] % 1009, (16 + pair) % 1009, (16 + 256 + triple) % 1009]

    def looks(item: int) -> list[int]:
        c = of("vector_image", item, 2)
        return [18, 18] if c[0] == UNKNOWN else [c[0], 9 + c[1]]

    def hashed(value: int, rows: int) -> int:
        return splitmix64(value % 2**64) % rows

    def both(item: int) -> list[int]:
        once = splitmix64(item % 2**64)
        return [once % 101, splitmix64(once) % 101]

    yield "target_codes_vector_image", of("vector_image", row["item_id"], 2)
    yield "history_codes_vector_image", [code for item in row["history_item_ids"] for code in of("vector_image", item, 2)]
    yield "target_keys_prefixes", prefixes(row["item_id"])
    yield "history_keys_prefixes", [key for item in row["history_item_ids"] for key in prefixes(item)]
    yield "target_keys_looks", looks(row["item_id"])
    yield "history_keys_hashed", [key for item in row["history_item_ids"] for key in both(item)]
    yield "hashed_context_country", hashed(row["context_country"], 37)
    yield "hashed_context_tags", [hashed(tag, 37) for tag in row["context_tags"]]
    for name, (mean, std) in {"dense_past_count": (1.5, 0.25), "dense_age_hours": (-3.0, 4.0)}.items():
        yield f"normalized_{name}", pytest.approx((math.log1p(row[name]) - mean) / std, rel=1e-6)


@given(start=st.integers(0, 600), length=st.integers(0, 200))
def test_every_column_of_every_row_in_one_pass(folder: Path, batch: pa.RecordBatch, start: int, length: int) -> None:
    store = open_snapshot(folder / "store")
    codes = {
        source: {int(item): row.tolist() for item, row in zip(store.ids, store.codes[source], strict=True)}
        for source in ("text", "vector_image")
    }
    part = batch.slice(start, length)
    added = enrich(part, store, ADDITIONS)
    assert added.batch.schema.names[: batch.num_columns] == batch.schema.names
    assert added.batch.select(batch.schema.names).equals(part)
    added.batch.validate(full=True)
    for row in added.batch.to_pylist():
        assert [(name, row[name]) for name in added.batch.schema.names[batch.num_columns :]] == list(expected(row, codes))
    asked = part.num_rows + sum(map(len, part.column("history_item_ids").to_pylist()))
    assert added.lookups == asked
    assert set(added.misses) == {"text", "vector_image"}


def test_keys_whose_number_varies_are_lists_of_lists(folder: Path, batch: pa.RecordBatch) -> None:
    store = open_snapshot(folder / "store")
    few = Representation("few", "semantic_id", 97, source="text", parameterization=FewKeys())
    added = enrich(batch, store, Additions(representations=(few,))).batch
    codes = {int(item): row.tolist() for item, row in zip(store.ids, store.codes["text"], strict=True)}

    def keys(item: int) -> list[int]:
        c = codes.get(item)
        return [97] if c is None or c[0] == UNKNOWN else c[: min(c[0], 2) + 1]

    rows = added.to_pylist()
    assert [row["target_keys_few"] for row in rows] == [keys(row["item_id"]) for row in rows]
    assert [row["history_keys_few"] for row in rows] == [[keys(item) for item in row["history_item_ids"]] for row in rows]


def test_columns_share_the_memory_they_come_from(folder: Path, batch: pa.RecordBatch) -> None:
    added = enrich(batch, open_snapshot(folder / "store"), ADDITIONS).batch
    for name in batch.schema.names:
        before, after = (
            [each.address for each in column.buffers() if each is not None] for column in (batch.column(name), added.column(name))
        )
        assert before == after, name
    assert added.column("history_codes_vector_image").values.buffers()[1].address == (
        added.column("target_codes_vector_image").values.buffers()[1].address
    ), "the codes are looked up into one array and not copied out of it"


def test_rows_that_need_no_store_ask_none(batch: pa.RecordBatch) -> None:
    class Refuses:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"the store was asked for {name}")

    added = enrich(batch, Refuses(), Additions(representations=REPRESENTATIONS[2:], context_rows=5))  # type: ignore[arg-type]
    assert added.lookups == 0
    assert added.batch.schema.names[batch.num_columns :] == ["history_keys_hashed", "hashed_context_country", "hashed_context_tags"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_id": pa.array([1, None], pa.int64())}, "item_id is null, first in number 2 of 2"),
        ({"history_item_ids": pa.array([[1], None], pa.list_(pa.int64()))}, "history_item_ids is null, first in number 2 of 2"),
        (
            {"history_item_ids": pa.array([[1, None], []], pa.list_(pa.int64()))},
            "an element of history_item_ids is null, first in number 2 of 2",
        ),
        (
            {"history_item_ids": pa.array([[1], []], pa.list_(pa.int32()))},
            "column 'history_item_ids' is list<.*int32>, expected list<.*int64>",
        ),
        ({"history_item_ids": pa.array([[1], []], pa.large_list(pa.int64()))}, "column 'history_item_ids' is large_list"),
        ({"item_id": pa.array(["a", "b"])}, "column 'item_id' is string, expected int64"),
        ({"item_id": None}, "column 'item_id' .* is missing"),
        ({"context_tags": pa.array([[1], [None]], pa.list_(pa.int64()))}, "an element of context_tags is null"),
        ({"dense_past_count": pa.array([0.0, None], pa.float32())}, "dense_past_count is null"),
    ],
)
def test_what_cannot_be_enriched_is_named(folder: Path, batch: pa.RecordBatch, change: dict[str, pa.Array | None], message: str) -> None:
    columns = {name: change.get(name, column) for name, column in zip(batch.schema.names, batch.slice(0, 2).columns, strict=True)}
    rows = pa.record_batch({name: column for name, column in columns.items() if column is not None})
    with pytest.raises(InputError, match=message):
        enrich(rows, open_snapshot(folder / "store"), ADDITIONS)


def test_individual_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="'own' is individual"):
        Additions(representations=(Representation("own", "individual", 5),))


def test_what_travels_to_a_worker_does_the_same_there(folder: Path, batch: pa.RecordBatch) -> None:
    enricher = Enricher.of(folder / "store", ADDITIONS)
    travelled = pickle.loads(pickle.dumps(enricher))
    assert len(pickle.dumps(enricher)) < 2000, "the store's name travels, not the store"
    rows = pa.Table.from_batches([batch.slice(0, 100), batch.slice(100)])
    whole = pa.Table.from_batches([enrich(batch, open_snapshot(folder / "store"), ADDITIONS).batch])
    assert travelled(rows).equals(whole)
    assert travelled(rows.slice(0, 0)).schema.equals(whole.schema)
    assert travelled(rows.slice(0, 0)).num_rows == 0


@given(
    parts=st.lists(st.lists(st.floats(0, 1e6, width=32), max_size=30), min_size=1, max_size=5),
    group=st.integers(1, 20),
)
def test_statistics_are_those_of_the_logarithm_however_the_rows_are_grouped(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[float]], group: int
) -> None:
    path = tmp_path_factory.mktemp("dense") / "rows"
    values = [value for part in parts for value in part]
    schema = pa.schema([pa.field("dense_x", pa.float32(), nullable=False), pa.field("dense_same", pa.float32(), nullable=False)])
    with DatasetWriter(path, schema, {}, rows_per_group=group) as writer:
        writer.write(pa.table({"dense_x": values, "dense_same": [3.0] * len(values)}, schema=schema))
    found = measure(open_dataset(path), ["dense_x", "dense_same"])
    logs = [math.log1p(value) for value in values]
    mean = math.fsum(logs) / max(len(logs), 1)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in logs) / max(len(logs), 1))
    assert found["dense_x"].mean == pytest.approx(mean, abs=1e-9)
    assert found["dense_x"].std == pytest.approx(std, rel=1e-6, abs=1e-9) or (std < 1e-7 and found["dense_x"].std == 1.0)
    assert found["dense_same"].std == 1.0
