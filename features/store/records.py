"""One item's codes as bytes under a CRC-32, as the LMDB delta and the Redis store keep them.

Key: a byte that tells the source, then the id as 8 bytes that sort as the ids do. Value: the codes, 2 bytes each, then the CRC-32 of key
and codes, so that a changed bit in either is found, and a record that stands under another key too. All integers are big-endian.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from features.errors import InputError
from features.semantic_id import CODE_DTYPE

KEY_BYTES = 9
CRC_BYTES = 4
_SIGN = np.uint64(1 << 63)
_CRC_TABLE = np.array([zlib.crc32(bytes([byte])) ^ zlib.crc32(b"\0") for byte in range(256)], np.uint32)


def value_bytes(levels: int) -> int:
    """Length of a value of L codes."""
    return 2 * levels + CRC_BYTES


def key_rows(source_number: int, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Keys of ids int64 [N] of one source, uint8 [N, 9]."""
    keys = np.empty((len(ids), KEY_BYTES), np.uint8)
    keys[:, 0] = source_number
    keys[:, 1:] = (ids.view(np.uint64) ^ _SIGN).astype(">u8").view(np.uint8).reshape(-1, 8)
    return keys


def ids_of(keys: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Ids int64 [N] of keys uint8 [N, 9]."""
    return (np.ascontiguousarray(keys[:, 1:]).view(">u8").ravel().astype(np.uint64) ^ _SIGN).view(np.int64)


def key_of(source_number: int, item_id: int) -> bytes:
    """Key of one item."""
    return bytes([source_number]) + (item_id + (1 << 63)).to_bytes(8, "big")


def value_rows(keys: npt.NDArray[np.uint8], codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Values of codes uint16 [N, L] under keys uint8 [N, 9], uint8 [N, 2L + 4]."""
    body = np.ascontiguousarray(codes).astype(">u2").view(np.uint8).reshape(len(codes), 2 * codes.shape[1])
    return np.hstack([body, _crc(keys, body)])


def codes_of(keys: npt.NDArray[np.uint8], values: Sequence[bytes], levels: int, where: str) -> npt.NDArray[np.uint16]:
    """The codes, uint16 [N, L], of values that were read under keys uint8 [N, 9].

    Raises:
        InputError: naming `where` and the first item whose record is damaged.
    """
    width = value_bytes(levels)
    if any(len(value) != width for value in values):
        damaged = next(index for index, value in enumerate(values) if len(value) != width)
    else:
        rows = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), width)
        wrong = np.flatnonzero((_crc(keys, rows[:, :-CRC_BYTES]) != rows[:, -CRC_BYTES:]).any(axis=1))
        if not len(wrong):
            return np.ascontiguousarray(rows[:, :-CRC_BYTES]).view(">u2").reshape(-1, levels).astype(CODE_DTYPE)
        damaged = int(wrong[0])
    raise _damaged(int(ids_of(keys[damaged : damaged + 1])[0]), where)


def codes_of_one(key: bytes, value: bytes, levels: int, where: str) -> tuple[int, ...]:
    """As `codes_of`, of one record and on plain integers, where NumPy's calls would cost more than the work."""
    if len(value) != value_bytes(levels) or zlib.crc32(key + value[:-CRC_BYTES]).to_bytes(CRC_BYTES, "big") != value[-CRC_BYTES:]:
        raise _damaged(int.from_bytes(key[1:], "big") - (1 << 63), where)
    return struct.unpack_from(f">{levels}H", value)


def as_bytes(rows: npt.NDArray[np.uint8]) -> list[bytes]:
    """Each row of uint8 [N, W] as a bytes object."""
    packed: list[bytes] = np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel().tolist()
    return packed


def _crc(keys: npt.NDArray[np.uint8], body: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """CRC-32 (as zlib's) of each row of keys and body together, uint8 [N, 4]; one step over all rows per byte."""
    crc = np.full(len(keys), 0xFFFFFFFF, np.uint32)
    for column in (*keys.T, *body.T):
        crc = _CRC_TABLE[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
    return (~crc).astype(">u4").view(np.uint8).reshape(-1, CRC_BYTES)


def _damaged(item_id: int, where: str) -> InputError:
    return InputError(f"{where}: the record of item {item_id} is damaged (its checksum differs)")
