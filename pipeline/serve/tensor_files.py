"""Tensors in safetensors files: written in blocks of rows, so that none has to fit into memory; mapped, so that processes share them."""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from features.errors import InputError

DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.uint8: "U8"}


class Expected(NamedTuple):
    """What a tensor in a file must be."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "Expected":
        """What a tensor is."""
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_tensors(path: Path, tensors: Mapping[str, tuple[Expected, Iterable[torch.Tensor]]]) -> None:
    """Write a safetensors file.

    Args:
        path: the file; its folder is there.
        tensors: name to what a tensor is, and its rows in order, cut into blocks anyhow. Larger elements must come first, so that all are
            aligned.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, (expected, _) in tensors.items():
        begin, end = end, end + expected.bytes
        header[name] = {"dtype": DTYPES[expected.dtype], "shape": list(expected.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (expected, blocks) in tensors.items():
            written = sum(file.write(block.contiguous().numpy().data) for block in blocks)
            if written != expected.bytes:
                raise RuntimeError(f"{path}: {name} came as {written} bytes, and not {expected.bytes}")


def map_tensors(path: Path, expected: Mapping[str, Expected]) -> dict[str, torch.Tensor]:
    """Map a safetensors file, whose pages all processes share that do so; nothing is read yet, and nothing in it is run.

    Args:
        path: the file.
        expected: every tensor that it must have, by name; and no other.

    Raises:
        InputError: naming the file, if it is missing, no safetensors file, cut short, or has other tensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in list(file.keys())}
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: not a safetensors file ({' '.join(str(error).split())[:200]})") from error
    if found.keys() != expected.keys():
        raise InputError(f"{path}: has tensors {_listed(found)}, expected {_listed(expected)}")
    for name, tensor in found.items():
        here = Expected.of(tensor)
        if here != expected[name]:
            raise InputError(f"{path}: {name} is {_said(here)}, expected {_said(expected[name])}")
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _said(expected: Expected) -> str:
    return f"{str(expected.dtype).removeprefix('torch.')}{list(expected.shape)}"
