"""Thrift's compact protocol without any schema: structs become dictionaries and bytes again, fields that nobody here knows included.

After the protocol's specification, https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from typing import Any, NamedTuple

TRUE, FALSE, I8, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT, UUID = range(1, 14)  # types, as the bytes have them
_FIXED = {TRUE: 1, FALSE: 1, I8: 1, DOUBLE: 8, UUID: 16}  # bytes of an element; a field that is true or false has none
_DEEPEST = 64  # structs and lists within each other
_LONGEST = 10  # bytes of a varint of 64 bits

Struct = dict[int, tuple[int, Any]]  # field id to type and value, in the order of the bytes


class Elements(NamedTuple):
    """A list, set or map: its elements' type (for a map types of key and value, for an empty one none) and values."""

    kind: int | tuple[int, int] | None
    values: list[Any]


def decode(data: bytes) -> Struct:
    """Read one struct: integers as int, binary as bytes, lists, sets and maps as Elements, and what else there is as its bytes.

    Memory is at most some hundred times that of `data`, whatever counts the bytes have.

    Raises:
        ValueError: if the bytes are no struct, or something is left behind it.
    """
    try:
        struct, end = _read_struct(data, 0, _DEEPEST)
    except IndexError as error:
        raise ValueError("a struct has no end") from error
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes are left behind a struct")
    return struct


def encode(struct: Struct) -> bytes:
    """The bytes of a struct; those that `decode` has read, if they were as short as can be."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = data[at]
    at += 1
    if number < 128:
        return number, at
    number &= 127
    for shift in range(7, 7 * _LONGEST, 7):
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            if number >> 64:
                break
            return number, at
    raise ValueError("a number has more than 64 bits")


def _read_struct(data: bytes, at: int, deepest: int) -> tuple[Struct, int]:
    struct: Struct = {}
    field = 0
    while head := data[at]:
        at += 1
        kind = head & 15
        if head >> 4:
            field += head >> 4
        else:
            number, at = _read_varint(data, at)
            field = number >> 1 ^ -(number & 1)
        if kind in (I32, I64, I16):  # most fields; read here for speed
            number, at = _read_varint(data, at)
            struct[field] = kind, number >> 1 ^ -(number & 1)
        elif kind in (TRUE, FALSE):
            struct[field] = kind, b""
        else:
            value, at = _read(data, at, kind, deepest)
            struct[field] = kind, value
    return struct, at + 1


def _read(data: bytes, at: int, kind: int, deepest: int) -> tuple[Any, int]:
    """A value that is no boolean field."""
    if kind == BINARY:
        size, at = _read_varint(data, at)
        return _bytes(data, at, size), at + size
    if kind in (I16, I32, I64):
        number, at = _read_varint(data, at)
        return number >> 1 ^ -(number & 1), at
    if size := _FIXED.get(kind, 0):
        return _bytes(data, at, size), at + size
    if deepest == 0:
        raise ValueError(f"structs lie more than {_DEEPEST} deep in each other")
    if kind == STRUCT:
        return _read_struct(data, at, deepest - 1)
    if kind in (LIST, SET):
        return _read_list(data, at, deepest - 1)
    if kind == MAP:
        return _read_map(data, at, deepest - 1)
    raise ValueError(f"there is no type {kind}")


def _bytes(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError("a value has no end")
    return data[at : at + size]


def _read_list(data: bytes, at: int, deepest: int) -> tuple[Elements, int]:
    kind, size = data[at] & 15, data[at] >> 4
    at += 1
    if size == 15:
        size, at = _read_varint(data, at)
    _require_room(data, at, size)
    values = []
    for _ in range(size):
        value, at = _read(data, at, kind, deepest)
        values.append(value)
    return Elements(kind, values), at


def _read_map(data: bytes, at: int, deepest: int) -> tuple[Elements, int]:
    size, at = _read_varint(data, at)
    if size == 0:
        return Elements(None, []), at
    _require_room(data, at, 2 * size)
    kinds = data[at] >> 4, data[at] & 15
    at += 1
    values = []
    for _ in range(size):
        key, at = _read(data, at, kinds[0], deepest)
        value, at = _read(data, at, kinds[1], deepest)
        values.append((key, value))
    return Elements(kinds, values), at


def _require_room(data: bytes, at: int, size: int) -> None:
    if size > len(data) - at:  # an element has a byte at least
        raise ValueError(f"{size} elements are more than the bytes that are left")


def _write_varint(out: bytearray, number: int) -> None:
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)


def _write_number(out: bytearray, number: int) -> None:
    _write_varint(out, number << 1 if number >= 0 else ~(number << 1))


def _write_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for field, (kind, value) in struct.items():
        if 0 < field - last < 16:
            out.append(field - last << 4 | kind)
        else:
            out.append(kind)
            _write_number(out, field)
        last = field
        _write(out, kind, value)
    out.append(0)


def _write(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _write_number(out, value)
    elif kind == STRUCT:
        _write_struct(out, value)
    elif kind in (LIST, SET):
        size = len(value.values)
        out.append(min(size, 15) << 4 | value.kind)
        if size >= 15:
            _write_varint(out, size)
        for each in value.values:
            _write(out, value.kind, each)
    elif kind == MAP:
        _write_map(out, value)
    else:
        if kind == BINARY:
            _write_varint(out, len(value))
        out += value


def _write_map(out: bytearray, elements: Elements) -> None:
    _write_varint(out, len(elements.values))
    if isinstance(elements.kind, tuple):
        out.append(elements.kind[0] << 4 | elements.kind[1])
        for pair in elements.values:
            for kind, value in zip(elements.kind, pair, strict=True):
                _write(out, kind, value)
