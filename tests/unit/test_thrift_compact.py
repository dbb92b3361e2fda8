"""Thrift's compact protocol: bytes worked out by hand, footers of three writers back to the byte, and no bytes that do harm."""

import tracemalloc
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.thrift_compact import (
    BINARY,
    DOUBLE,
    FALSE,
    I8,
    I16,
    I32,
    I64,
    LIST,
    MAP,
    SET,
    STRUCT,
    TRUE,
    UUID,
    Elements,
    Struct,
    decode,
    encode,
)


@pytest.mark.parametrize(
    ("data", "struct"),
    [
        ("00", {}),
        ("15 02 00", {1: (I32, 1)}),
        ("15 01 00", {1: (I32, -1)}),
        ("16 df8903 00", {1: (I64, -25200)}),  # the specification's 50399, which is odd
        ("16 ffffffffffffffffff01 00", {1: (I64, -(2**63))}),
        ("11 12 00", {1: (TRUE, b""), 2: (FALSE, b"")}),
        ("18 03 616263 00", {1: (BINARY, b"abc")}),
        ("05 a006 0a 00", {400: (I32, 5)}),
        ("f5 0a 00", {15: (I32, 5)}),
        ("25 0a 05 02 0a 00", {2: (I32, 5), 1: (I32, 5)}),
        ("19 35 02 04 06 00", {1: (LIST, Elements(I32, [1, 2, 3]))}),
        ("19 f3 0f 000102030405060708090a0b0c0d0e 00", {1: (LIST, Elements(I8, [bytes([each]) for each in range(15)]))}),
        ("19 21 01 02 00", {1: (LIST, Elements(TRUE, [b"\x01", b"\x02"]))}),
        ("1a 13 07 00", {1: (SET, Elements(I8, [b"\x07"]))}),
        ("1b 00 00", {1: (MAP, Elements(None, []))}),
        ("1b 01 85 0178 02 00", {1: (MAP, Elements((BINARY, I32), [(b"x", 1)]))}),
        ("1c 15 02 00 00", {1: (STRUCT, {1: (I32, 1)})}),
        ("17 000000000000f03f 00", {1: (DOUBLE, b"\0\0\0\0\0\0\xf0\x3f")}),
        ("1d 000102030405060708090a0b0c0d0e0f 00", {1: (UUID, bytes(range(16)))}),
    ],
)
def test_bytes_worked_out_by_hand(data: str, struct: Struct) -> None:
    assert decode(bytes.fromhex(data)) == struct
    assert encode(struct) == bytes.fromhex(data)


def sized(kind: int, size: int) -> st.SearchStrategy[tuple[int, bytes]]:
    return st.binary(min_size=size, max_size=size).map(lambda value: (kind, value))


numbers = st.one_of(st.sampled_from([0, -1, 63, 64, -64, -65, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1))
leaves = st.one_of(
    st.tuples(st.sampled_from([I16, I32, I64]), numbers),
    st.tuples(st.just(BINARY), st.binary(max_size=200)),
    sized(I8, 1),
    sized(DOUBLE, 8),
    sized(UUID, 16),
)


def nested(values: st.SearchStrategy[tuple[int, object]]) -> st.SearchStrategy[tuple[int, object]]:
    def alike(pair: tuple[int, object]) -> st.SearchStrategy[tuple[int, object]]:
        lists = st.integers(0, 40).map(lambda size: Elements(pair[0], [pair[1]] * size))
        return st.one_of(
            st.tuples(st.sampled_from([LIST, SET]), lists),
            st.integers(1, 20).map(lambda size: (MAP, Elements((I32, pair[0]), [(each, pair[1]) for each in range(size)]))),
        )

    fields = st.one_of(values, st.sampled_from([(TRUE, b""), (FALSE, b"")]))
    structs = st.dictionaries(st.integers(-(2**15), 2**15 - 1), fields, max_size=20).map(lambda struct: (STRUCT, struct))
    return st.one_of(structs, values.flatmap(alike))


@given(value=st.recursive(leaves, nested, max_leaves=12))
def test_what_is_encoded_is_decoded(value: tuple[int, object]) -> None:
    struct = {7: value, 8: (TRUE, b""), 9: value}
    assert decode(encode(struct)) == struct


def test_footers_of_three_writers_are_the_same_bytes_again(tmp_path: Path) -> None:
    rows = pa.table({f"c{number}": [[number], None, []] for number in range(20)} | {"name": ["é", None, "x"]})
    pq.write_table(rows, tmp_path / "arrow", row_group_size=1, write_page_index=True)
    polars.from_arrow(rows).write_parquet(tmp_path / "polars", row_group_size=1)  # type: ignore[union-attr]
    duckdb.sql(f"copy (select * from rows) to '{tmp_path / 'duckdb'}' (format parquet)")
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
        struct = decode(footer)
        assert encode(struct) == footer
        assert struct[3] == (I64, 3)
        assert len(struct[2][1].values) == 1 + 20 * 3 + 1, "the root, three for each list, and a string"


DEEP_LISTS = bytes([0x19]) + bytes([0x19]) * 100_000
DEEP_STRUCTS = bytes([0x1C]) * 100_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a struct has no end"),
        (b"\x15", "a struct has no end"),
        (b"\x15\x80", "a struct has no end"),
        (b"\x15\x02", "a struct has no end"),
        (b"\x00\x00", "1 bytes are left behind a struct"),
        (b"\x18\x05abc\x00", "a value has no end"),
        (b"\x17abc\x00", "a value has no end"),
        (b"\x16" + b"\xff" * 9 + b"\x02\x00", "more than 64 bits"),
        (b"\x16" + b"\xff" * 1000, "more than 64 bits"),
        (b"\x16" + b"\x80" * 20 + b"\x00\x00", "more than 64 bits"),
        (b"\x18" + b"\xff" * 9 + b"\x01\x00", "a value has no end"),
        (b"\x19\xf5" + b"\xff" * 4 + b"\x0f\x00", "are more than the bytes that are left"),
        (b"\x1b" + b"\xff" * 4 + b"\x0f\x55\x00", "are more than the bytes that are left"),
        (b"\x1e\x00", "there is no type 14"),
        (b"\x19\x10\x00\x00", "there is no type 0"),
        (DEEP_LISTS, "more than 64 deep"),
        (DEEP_STRUCTS, "more than 64 deep"),
    ],
)
def test_bytes_that_are_no_struct(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(data)


@given(
    data=st.binary(max_size=300), places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=10), whole=st.booleans()
)
def test_any_bytes_are_decoded_or_refused_in_little_memory(data: bytes, places: list[tuple[int, int]], whole: bool, footer: bytes) -> None:
    damaged = bytearray(data if whole else footer)
    for place, value in places:
        if damaged:
            damaged[place % len(damaged)] = value
    tracemalloc.start()
    try:
        decode(bytes(damaged))
    except ValueError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 300 * len(damaged) + 100_000


@pytest.fixture(scope="module")
def footer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("thrift") / "file"
    pq.write_table(pa.table({"a": range(10), "b": [["x"]] * 10}), path, row_group_size=3)
    data = path.read_bytes()
    return data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
