"""Columns appended to Parquet files: three readers see the rows that one writer would have written, and the old bytes are untouched."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InputError
from features.parquet_append import append_columns, copy_pages
from features.thrift_compact import BINARY, I32, LIST, STRUCT, Elements, decode, encode

TYPES = [
    *(pa.int64(), pa.int8(), pa.uint16(), pa.float32(), pa.bool_(), pa.string(), pa.large_string(), pa.binary(), pa.date32()),
    *(pa.timestamp("us", tz="UTC"), pa.timestamp("ns"), pa.list_(pa.int64()), pa.list_(pa.timestamp("us", tz="UTC"))),
    *(pa.list_(pa.uint16(), 2), pa.list_(pa.uint16()), pa.list_(pa.list_(pa.string())), pa.large_list(pa.float64())),
    *(pa.struct([("x", pa.int32()), ("y", pa.list_(pa.uint16()))]), pa.list_(pa.struct([("t", pa.timestamp("us"))]))),
    pa.map_(pa.string(), pa.int64()),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"compression": "none", "use_dictionary": False, "write_statistics": False},
    {"compression": "gzip", "data_page_version": "2.0", "write_page_checksum": True},
    {"compression": "zstd", "write_page_index": True, "data_page_size": 64, "version": "1.0"},
    {"store_schema": False},
]


def appended(data: bytes, rows: pa.Table, columns: int) -> bytes:
    """A file's bytes with those columns of `rows` that come after its own `columns`."""
    sink, file = io.BytesIO(), pq.ParquetFile(pa.BufferReader(data))
    end = copy_pages(io.BytesIO(data), sink)
    assert sink.getvalue() + end == data
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    further = rows.select(range(columns, rows.num_columns))
    append_columns(sink, end, rows.schema, columns, (further.slice(*group) for group in zip(starts, sizes, strict=False)), Path("a/file"))
    assert sink.getvalue().startswith(data[: len(data) - len(end)]), "its pages are as they were"
    return sink.getvalue()


def parquet(rows: pa.Table, **options: Any) -> bytes:
    """The bytes that pyarrow writes."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, **options)
    return sink.getvalue()


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values of a type, null among them."""
    if pa.types.is_map(kind):
        values: st.SearchStrategy[Any] = st.lists(st.tuples(st.sampled_from("abc"), values_of(kind.item_type)), max_size=3)
        values = values.map(lambda pairs: list(dict(pairs).items()))
    elif pa.types.is_struct(kind):
        values = st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    elif pa.types.is_fixed_size_list(kind):
        values = st.lists(values_of(kind.value_type), min_size=2, max_size=2)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = st.lists(values_of(kind.value_type), max_size=4)
    elif pa.types.is_timestamp(kind):
        values = st.integers(0, 100).map(lambda value: 1000 * value)  # which files of version 1.0 can hold
    elif pa.types.is_boolean(kind):
        values = st.booleans()
    elif pa.types.is_floating(kind):
        values = st.integers(-1000, 1000).map(float)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = st.sampled_from(["", "a", "é" * 20, "b\0"])
    elif pa.types.is_binary(kind):
        values = st.binary(max_size=9)
    else:
        values = st.integers(0, 100)
    return st.none() | values


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Up to 25 columns of any types, and up to 60 rows."""
    rows, columns = draw(st.integers(0, 60)), {}
    kinds = draw(st.lists(st.sampled_from(TYPES), min_size=2, max_size=25))
    for number, kind in enumerate(kinds):
        some = draw(st.lists(values_of(kind), min_size=1, max_size=8))
        columns[f"column {number}"] = pa.array([some[row * (number + 1) % len(some)] for row in range(rows)], kind)
    return pa.table(columns).replace_schema_metadata(draw(st.sampled_from([None, {"semid.sid_contracts": "[]", "k": "v"}])))


@settings(max_examples=50, deadline=None)
@given(data=st.data(), rows=tables(), options=st.sampled_from(OPTIONS), rows_per_group=st.integers(1, 40))
def test_three_readers_see_what_one_writer_would_have_written(
    data: st.DataObject, rows: pa.Table, options: dict[str, Any], rows_per_group: int, scratch: Path
) -> None:
    columns = data.draw(st.integers(1, rows.num_columns - 1))
    before = parquet(rows.select(range(columns)).replace_schema_metadata(), row_group_size=rows_per_group, **options)
    known = pq.read_schema(pa.BufferReader(before)).remove_metadata()
    rows = rows.cast(pa.schema([*known, *list(rows.schema)[columns:]], rows.schema.metadata))  # without Arrow's schema it knows less
    (scratch / "appended.parquet").write_bytes(appended(before, rows, columns))
    (scratch / "whole.parquet").write_bytes(parquet(rows, row_group_size=rows_per_group))
    one, other = (pq.ParquetFile(scratch / name, page_checksum_verification=True) for name in ("appended.parquet", "whole.parquet"))
    assert one.read().equals(rows)
    assert one.schema_arrow.equals(other.schema_arrow, check_metadata=True)
    assert one.metadata.metadata.items() >= other.metadata.metadata.items()
    assert_footers_alike(one.metadata, other.metadata)
    assert_compressed_sizes((scratch / "appended.parquet").read_bytes(), one.metadata)
    frames = [polars.read_parquet(scratch / f"{name}.parquet") for name in ("appended", "whole")]
    assert frames[0].equals(frames[1])
    assert frames[0].schema == frames[1].schema
    answers = [duckdb.sql(f"select * from '{scratch}/{name}.parquet'") for name in ("appended", "whole")]
    assert answers[0].to_arrow_table().equals(answers[1].to_arrow_table())  # type: ignore[union-attr]


def footer_of(data: bytes) -> dict[int, Any]:
    return decode(data[-8 - int.from_bytes(data[-8:-4], "little") : -8])


def assert_compressed_sizes(data: bytes, metadata: pq.FileMetaData) -> None:
    """Those of row groups, which pyarrow does not tell."""
    for number, group in enumerate(groups_of(footer_of(data))):
        chunks = [metadata.row_group(number).column(column) for column in range(metadata.num_columns)]
        assert group[6][1] == sum(chunk.total_compressed_size for chunk in chunks)


def assert_footers_alike(one: pq.FileMetaData, other: pq.FileMetaData) -> None:
    """Same columns, row groups and statistics where both have them; sizes and places are those of the file's own pages."""
    assert (one.num_columns, one.num_rows, one.num_row_groups) == (other.num_columns, other.num_rows, other.num_row_groups)
    assert str(one.schema).splitlines()[1:] == str(other.schema).splitlines()[1:]
    last = 4
    for number in range(one.num_row_groups):
        group, chunks = one.row_group(number), [one.row_group(number).column(column) for column in range(one.num_columns)]
        assert group.num_rows == other.row_group(number).num_rows
        assert group.total_byte_size == sum(chunk.total_uncompressed_size for chunk in chunks)
        for column, chunk in enumerate(chunks):
            theirs = other.row_group(number).column(column)
            assert (chunk.path_in_schema, chunk.num_values) == (theirs.path_in_schema, theirs.num_values)
            assert chunk.statistics is None or chunk.statistics == theirs.statistics
    spans = []
    for number in range(one.num_row_groups):
        for column in range(one.num_columns):
            chunk = one.row_group(number).column(column)
            starts = [start for start in (chunk.dictionary_page_offset, chunk.data_page_offset) if start]  # 0 for no page
            spans += [(min(starts), min(starts) + chunk.total_compressed_size)] if starts else []
    for start, stop in sorted(spans):
        assert start >= last, "column chunks do not overlap"
        last = stop


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("append")


CODES = pa.array([[i, 7 * i] for i in range(1000)], pa.list_(pa.uint16(), 2))


def log(rows: int = 1000) -> pa.Table:
    """Rows as other writers get them."""
    numbers = range(rows)
    return pa.table(
        {
            "id": numbers,
            "name": [None if i % 7 == 0 else f"title {i % 50}" for i in numbers],
            "tags": [[i % 5, 7] * (i % 3) for i in numbers],
            "share": [i / 3 for i in numbers],
        }
    )


def by_polars(rows: pa.Table, path: Path) -> None:
    polars.DataFrame(rows).write_parquet(path, row_group_size=300)


def by_duckdb(rows: pa.Table, path: Path) -> None:
    duckdb.sql(f"copy (select * from rows) to '{path}' (format parquet, row_group_size 256)")


@pytest.mark.parametrize("write", [by_polars, by_duckdb])
@pytest.mark.parametrize("count", [1000, 0])
def test_files_of_other_writers(tmp_path: Path, write: Callable[[pa.Table, Path], None], count: int) -> None:
    write(log().slice(0, count), tmp_path / "before.parquet")
    rows = pq.read_table(tmp_path / "before.parquet").replace_schema_metadata().append_column("codes", CODES.slice(0, count))
    (tmp_path / "after.parquet").write_bytes(appended((tmp_path / "before.parquet").read_bytes(), rows, 4))
    after, before = (pq.ParquetFile(tmp_path / f"{name}.parquet") for name in ("after", "before"))
    assert after.read().equals(rows)
    assert after.metadata.num_row_groups == before.metadata.num_row_groups
    assert after.metadata.created_by == before.metadata.created_by
    assert polars.read_parquet(tmp_path / "after.parquet").drop("codes").equals(polars.read_parquet(tmp_path / "before.parquet"))
    assert polars.read_parquet(tmp_path / "after.parquet")["codes"].to_list() == rows["codes"].to_pylist()
    names = ", ".join(log().column_names)
    answers = [asked(f"select {names} from '{tmp_path}/{name}.parquet'") for name in ("after", "before")]
    assert answers[0] == answers[1]
    codes = asked(f"select codes from '{tmp_path}/after.parquet' order by id")
    assert [list(row[0]) for row in codes] == rows["codes"].to_pylist()


def asked(query: str) -> list[Any]:
    """What DuckDB answers."""
    relation = duckdb.sql(query)
    assert relation is not None
    return list(relation.fetchall())


def test_bloom_filters_and_page_indexes_stay_where_they_are(tmp_path: Path) -> None:
    by_duckdb(log(), tmp_path / "before.parquet")
    rows = pq.read_table(tmp_path / "before.parquet").replace_schema_metadata().append_column("codes", CODES)
    (tmp_path / "after.parquet").write_bytes(appended((tmp_path / "before.parquet").read_bytes(), rows, 4))
    probe = "select row_group_id, bloom_filter_excludes from parquet_bloom_probe('{}/{}.parquet', 'name', '{}')"
    probes = [asked(probe.format(tmp_path, name, value)) for value in ("title 3", "no title") for name in ("before", "after")]
    assert probes[0] == probes[1] != probes[2] == probes[3]
    indexed = parquet(log(), write_page_index=True, data_page_size=256)
    after = pq.ParquetFile(pa.BufferReader(appended(indexed, log().append_column("codes", CODES), 4)))
    chunks = [after.metadata.row_group(0).column(column) for column in range(5)]
    assert [(chunk.has_column_index, chunk.has_offset_index) for chunk in chunks] == [(True, True)] * 4 + [(False, False)]


def test_appended_twice_the_newer_metadata_holds() -> None:
    one, two = ({"semid.sid_contracts": value} for value in ("one", "two"))
    first = log().append_column("codes", CODES).replace_schema_metadata(one)
    second = first.append_column("more", CODES).replace_schema_metadata(two)
    file = pq.ParquetFile(pa.BufferReader(appended(appended(parquet(log()), first, 4), second, 5)))
    assert file.read().equals(second)
    assert file.schema_arrow.metadata == {b"semid.sid_contracts": b"two"}
    assert sorted(file.metadata.metadata) == [b"ARROW:schema", b"semid.sid_contracts"]


def test_no_flipped_bit_of_an_appended_page_goes_unseen() -> None:
    data = parquet(log(), compression="zstd", write_page_checksum=True)
    rows = log().append_column("codes", CODES).append_column("more", pa.array([f"{i}" for i in range(1000)]))
    whole = appended(data, rows, 4)
    metadata = pq.read_metadata(pa.BufferReader(whole))
    codes = metadata.row_group(0).column(4)
    assert codes.encodings == ("RLE", "BYTE_STREAM_SPLIT")
    more = metadata.row_group(0).column(5).dictionary_page_offset
    for place in range(codes.data_page_offset + 64, more, 41):  # behind the page's header, which no checksum covers
        damaged = bytearray(whole)
        damaged[place] ^= 1
        with pytest.raises(OSError, match="CRC"):
            pq.ParquetFile(pa.BufferReader(bytes(damaged)), page_checksum_verification=True).read()


def end_of(change: Callable[[dict[int, Any]], Any]) -> bytes:
    """The end of a file whose footer was changed."""
    footer = footer_of(parquet(log(), row_group_size=400))
    change(footer)
    changed = encode(footer)
    return changed + len(changed).to_bytes(4, "little") + b"PAR1"


def groups_of(footer: dict[int, Any]) -> list[dict[int, Any]]:
    groups: list[dict[int, Any]] = footer[4][1].values
    return groups


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda footer: footer.pop(2), "field 2 in its footer is missing"),
        (lambda footer: footer.pop(4), "field 4 in its footer is missing"),
        (lambda footer: footer.update({2: (I32, 5)}), "field 2 in its footer is missing or of another type"),
        (lambda footer: footer.update({2: (LIST, Elements(STRUCT, []))}), "other columns than the data set"),
        (lambda footer: footer[2][1].values[2].update({4: (BINARY, b"title")}), "other columns than the data set"),
        (lambda footer: footer[2][1].values.pop(), "other columns than the data set"),
        (lambda footer: footer.update({2: (LIST, Elements(I32, [5]))}), "field 2 in its footer is no list of structs"),
        (lambda footer: footer.update({4: (LIST, Elements(I32, [5]))}), "field 4 in its footer is no list of structs"),
        (lambda footer: footer.update({7: (I32, 5)}), "field 7 in its footer is missing or of another type"),
        (lambda footer: footer.update({8: (STRUCT, {})}), "it is encrypted"),
        (lambda footer: groups_of(footer).pop(), "row groups have other numbers of rows"),
        (lambda footer: groups_of(footer).reverse(), "row groups have other numbers of rows"),
        (lambda footer: groups_of(footer)[1].pop(1), "field 1 in its footer is missing"),
        (lambda footer: groups_of(footer)[1].pop(3), "field 3 in its footer is missing"),
        (lambda footer: groups_of(footer)[1].update({2: (I32, 5)}), "field 2 in its footer is missing or of another type"),
    ],
)
def test_a_footer_that_says_other_things_is_named(change: Callable[[dict[int, Any]], Any], message: str) -> None:
    rows = log().append_column("codes", CODES)
    groups = [rows.select([4]).slice(start, 400) for start in (0, 400, 800)]
    with pytest.raises(InputError, match=f"^a/file: not a Parquet file that columns can be appended to .*{message}"):
        append_columns(io.BytesIO(), end_of(change), rows.schema, 4, groups, Path("a/file"))


@pytest.mark.parametrize("end", [b"", b"PAR1", b"\0\0\0\0PAR1", b"\x05\0\0\0PAR1", b"\0\x01\0\0\0PARE", b"\xff\xff\xff\x7fPAR1", b"x" * 50])
def test_an_end_without_a_footer_is_named(end: bytes) -> None:
    with pytest.raises(InputError, match=r"^a/file: not a Parquet file"):
        append_columns(io.BytesIO(), end, log().schema, 4, [], Path("a/file"))


@settings(max_examples=300, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6), cut=st.integers(0, 3))
def test_a_footer_with_any_damage_gives_a_file_or_an_error_that_names_it(places: list[tuple[int, int]], cut: int) -> None:
    end = bytearray(end_of(lambda footer: None)[:-8])
    for place, value in places:
        end[place % len(end)] = value
    del end[len(end) - cut :]
    rows = log().append_column("codes", CODES)
    groups = [rows.select([4]).slice(start, 400) for start in (0, 400, 800)]
    try:
        append_columns(io.BytesIO(), bytes(end) + len(end).to_bytes(4, "little") + b"PAR1", rows.schema, 4, groups, Path("a/file"))
    except InputError as error:
        assert str(error).startswith("a/file: ")
        assert "\n" not in str(error)


def test_a_name_that_the_file_has_already_is_refused() -> None:
    data, rows = parquet(log()), log().append_column("name", CODES)
    with pytest.raises(InputError, match="more than one column is named name"):
        appended(data, rows, 4)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"abc", b"\xff" * 100, b"PAR1" + b"\xff\xff\xff\xffPAR1"])
def test_copied_pages_and_what_is_left_are_the_file_whatever_it_is(data: bytes) -> None:
    sink = io.BytesIO()
    end = copy_pages(io.BytesIO(data), sink)
    assert sink.getvalue() + end == data


def test_files_larger_than_a_block_are_copied_in_blocks() -> None:
    class Counting(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.largest = max(self.largest, len(data))
            return data

    data = parquet(pa.table({"x": np.random.default_rng(0).random(600_000)}), use_dictionary=False)
    assert len(data) > 4 << 20
    sink, source = io.BytesIO(), Counting(data)
    end = copy_pages(source, sink)
    assert sink.getvalue() + end == data
    assert source.largest == 1 << 20


def test_a_failing_kernel_fails_as_itself() -> None:
    def fails() -> Iterator[pa.Table]:
        yield log(400).select(["id"]).rename_columns(["more"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        append_columns(
            io.BytesIO(), end_of(lambda footer: None), pa.schema([*log().schema, ("more", pa.int64())]), 4, fails(), Path("a/file")
        )
