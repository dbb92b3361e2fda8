"""Append columns to a Parquet file: the columns that it has are copied as the bytes that they are, and the two footers become one.

After the file format's specification, https://github.com/apache/parquet-format (README.md and src/main/thrift/parquet.thrift): the pages
of all row groups; a footer that says where they lie, the Thrift struct FileMetaData; its length and "PAR1".
"""

import base64
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa

from features.errors import InputError
from features.location import Location
from features.part_file import parquet_writer
from features.thrift_compact import BINARY, I32, I64, LIST, STRUCT, Elements, Struct, decode, encode

_MAGIC = b"PAR1"
_TAIL = 8  # bytes: the footer's length, and _MAGIC
_BLOCK = 1 << 20  # bytes copied at once
_ARROW_SCHEMA = b"ARROW:schema"  # the key of what Arrow knows of the types, and Parquet does not

# Field ids of parquet.thrift, by struct.
_SCHEMA, _ROW_GROUPS, _KEY_VALUES, _COLUMN_ORDERS, _ENCRYPTION = 2, 4, 5, 7, 8  # FileMetaData
_NAME, _NUM_CHILDREN = 4, 5  # SchemaElement
_COLUMNS, _BYTES, _ROWS, _COMPRESSED_BYTES = 1, 2, 3, 6  # RowGroup
_CHUNK_OFFSET, _CHUNK_METADATA = 2, 3  # ColumnChunk
_PAGE_OFFSETS = (9, 10, 11, 14)  # ColumnMetaData: of data, index and dictionary pages, and of the Bloom filter
_KEY, _VALUE = 1, 2  # KeyValue


class Sink(Protocol):
    """Where a file is written, from its beginning to its end."""

    def write(self, data: bytes, /) -> int:
        """Append bytes."""

    def tell(self) -> int:
        """How many bytes it has so far."""


def copy_pages(source: IO[bytes], sink: Sink) -> bytes:
    """Copy a Parquet file without its end, which is given back: the footer, its length and "PAR1". Nothing is looked into."""
    size = source.seek(0, os.SEEK_END)
    source.seek(max(0, size - _TAIL))
    footer = int.from_bytes(source.read(4), "little")
    source.seek(0)
    for left in range(size - _TAIL - footer, 0, -_BLOCK):
        sink.write(source.read(min(left, _BLOCK)))
    return source.read()


def append_columns(sink: Sink, end: bytes, schema: pa.Schema, columns: int, row_groups: Iterable[pa.Table], where: Path | Location) -> None:
    """Finish what `copy_pages` has begun, with further columns. The file's page index and Bloom filters, which lie among its pages, stay.

    Args:
        sink: has the file's pages and nothing else.
        end: what `copy_pages` has given back.
        schema: of the result: the file's columns, and then the further ones; its metadata are added to those of the file.
        columns: how many of them the file has.
        row_groups: the further columns of each of the file's row groups, in order; asked for one after the other.
        where: the file, for errors.

    Raises:
        InputError: naming the file, if its footer is damaged or encrypted, or it has other columns or row groups than was said.
    """
    with _named(where):
        footer = _footer(end)
        if _names(footer) != [name.encode() for name in schema.names[:columns]]:
            raise ValueError("its footer has other columns than the data set")
        if len(set(schema.names)) < len(schema):
            raise ValueError(f"more than one column is named {max(schema.names, key=schema.names.count)}")
    added, start, pages = pa.schema(list(schema)[columns:], schema.metadata), sink.tell(), _Pages(sink)
    with parquet_writer(pages, added) as writer:
        pages.passing = True
        for table in row_groups:
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
        pages.passing = False
    with _named(where):
        further = _footer(pages.around.removeprefix(_MAGIC))
        _append_schema(footer, further)
        _append_row_groups(footer, further, moved=start - len(_MAGIC))
        _append_metadata(footer, further, base64.b64encode(schema.serialize()))
    merged = encode(dict(sorted(footer.items())))
    sink.write(merged + len(merged).to_bytes(4, "little") + _MAGIC)


class _Pages:
    """Passes on to a sink the pages that Parquet's writer writes, and keeps what it writes around them: "PAR1", and the file's end."""

    closed = False  # pyarrow asks

    def __init__(self, sink: Sink) -> None:
        self.passing, self.around = False, b""
        self._sink = sink

    def write(self, data: bytes) -> int:
        if self.passing:
            return self._sink.write(data)
        self.around += data
        return len(data)

    def flush(self) -> None:
        pass


@contextmanager
def _named(where: Path | Location) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(f"{where}: not a Parquet file that columns can be appended to ({error})") from error


def _footer(end: bytes) -> Struct:
    if end[-4:] != _MAGIC or int.from_bytes(end[-_TAIL:-4], "little") != len(end) - _TAIL:
        raise ValueError("it does not end with a footer")
    footer = decode(end[:-_TAIL])
    if _ENCRYPTION in footer:
        raise ValueError("it is encrypted")
    return footer


def _append_schema(footer: Struct, further: Struct) -> None:
    elements = _structs(footer, _SCHEMA) + _structs(further, _SCHEMA)[1:]
    footer[_SCHEMA] = LIST, Elements(STRUCT, elements)
    elements[0][_NUM_CHILDREN] = I32, len(_names(footer))
    if _COLUMN_ORDERS in footer:  # one per column or none: statistics of unknown order are not used
        orders = [*_structs(footer, _COLUMN_ORDERS), *_structs(further, _COLUMN_ORDERS)]
        footer[_COLUMN_ORDERS] = LIST, Elements(STRUCT, orders)


def _append_row_groups(footer: Struct, further: Struct, moved: int) -> None:
    groups, added = _structs(footer, _ROW_GROUPS), _structs(further, _ROW_GROUPS)
    rows, expected = ([_get(group, _ROWS, I64) for group in each] for each in (added, groups))
    if rows != expected:
        raise ValueError("its row groups have other numbers of rows than the columns that are appended")
    for group, more in zip(groups, added, strict=True):
        chunks = _structs(more, _COLUMNS)
        for chunk in chunks:
            _move(chunk, (_CHUNK_OFFSET,), moved)
            _move(_get(chunk, _CHUNK_METADATA, STRUCT), _PAGE_OFFSETS, moved)
        group[_COLUMNS] = LIST, Elements(STRUCT, _structs(group, _COLUMNS) + chunks)
        for field in (_BYTES, _COMPRESSED_BYTES):
            if field in group:
                group[field] = I64, _get(group, field, I64) + _get(more, field, I64)


def _move(struct: Struct, offsets: tuple[int, ...], by: int) -> None:
    for field in offsets:
        if field in struct and _get(struct, field, I64):  # 0 stands for none: without rows there is no data page
            struct[field] = I64, _get(struct, field, I64) + by


def _append_metadata(footer: Struct, further: Struct, arrow_schema: bytes) -> None:
    told = [*(_structs(footer, _KEY_VALUES) if _KEY_VALUES in footer else ()), *_structs(further, _KEY_VALUES)]
    entries = {_get(entry, _KEY, BINARY): entry for entry in told}  # of those with one key the last, which is the new one
    entries[_ARROW_SCHEMA] = {_KEY: (BINARY, _ARROW_SCHEMA), _VALUE: (BINARY, arrow_schema)}
    footer[_KEY_VALUES] = LIST, Elements(STRUCT, list(entries.values()))


def _names(footer: Struct) -> list[bytes]:
    """The columns' names: those elements of the schema, depth first, that no column's element has for a child."""
    names, children = [], 0
    for element in _structs(footer, _SCHEMA)[1:]:
        if children:
            children -= 1
        else:
            names.append(_get(element, _NAME, BINARY))
        children += _get(element, _NUM_CHILDREN, I32) if _NUM_CHILDREN in element else 0
    return names


def _structs(struct: Struct, field: int) -> list[Struct]:
    elements = _get(struct, field, LIST)
    if elements.values and elements.kind != STRUCT:
        raise ValueError(f"field {field} in its footer is no list of structs")
    return list(elements.values)


def _get(struct: Struct, field: int, kind: int) -> Any:
    found, value = struct.get(field, (None, None))
    if found != kind:
        raise ValueError(f"field {field} in its footer is missing or of another type")
    return value
