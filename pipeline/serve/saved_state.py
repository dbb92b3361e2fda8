"""The weights in a checkpoint, read a block of rows at a time, however many ranks have saved them under whatever plan."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.utils import _create_file_view

from features.errors import InputError
from features.files import sha256_file
from pipeline.starting_point import META

BLOCK_BYTES = 4 << 20


class SavedState:
    """A published checkpoint, opened without the ranks that wrote it.

    Its index is a pickle, as PyTorch writes it: open only checkpoints of your own runs.

    Attributes:
        path: its folder.
        meta: what `pipeline.checkpoint.Position` says of it.
        sizes: tensor name, dotted as `models.sharding.ShardedModel.state_dict` nests it, to its shape as a whole.
    """

    def __init__(self, path: Path) -> None:
        """Check the sha256 of every file against meta.json, then read the index. Raises InputError naming the file that is damaged."""
        self.path = path
        self.meta: dict[str, Any] = json.loads((path / META).read_text())
        for name, digest in self.meta["files"].items():
            if not (path / name).is_file() or sha256_file(path / name) != digest:
                raise InputError(f"{path / name}: missing, or its sha256 differs from {META}")
        index = FileSystemReader(path).read_metadata()
        self._tensors = {name: saved for name, saved in index.state_dict_metadata.items() if isinstance(saved, TensorStorageMetadata)}
        self._places = index.storage_data
        self.sizes = {name: tuple(saved.size) for name, saved in self._tensors.items()}

    def blocks(self, name: str, rows: int | None = None) -> Iterator[torch.Tensor]:
        """A tensor's rows in order as float32 [rows, ..], the last block maybe shorter; no more than a block is in memory.

        Args:
            name: of the tensor, which has at least one dimension and holds floating-point numbers.
            rows: of a block; by default as many as `BLOCK_BYTES` hold.
        """
        saved = self._tensors[name]
        shards = [self._shard(name, chunk.offsets) for chunk in saved.chunks if chunk.sizes.numel()]
        height, *others = saved.size
        rows = rows or max(BLOCK_BYTES // (4 * torch.Size(others).numel()), 1)
        for first in range(0, height, rows):
            block = torch.empty((min(rows, height - first), *others))
            if sum(shard.copy_into(block, first) for shard in shards) != block.numel():
                raise RuntimeError(f"{self.path}: the shards of {name} do not make it up")
            yield block

    def _shard(self, name: str, offsets: torch.Size) -> "_Shard":
        place = self._places[MetadataIndex(name, offsets)]
        path = self.path / place.relative_path
        with path.open("rb") as file, FakeTensorMode():  # which tells where the numbers lie, and does not read them
            tensor = torch.load(cast(IO[bytes], _create_file_view(file, place.offset, place.length)), weights_only=True)
        if not tensor.is_contiguous():
            raise RuntimeError(f"{path}: {name} was not saved row by row")
        start = tensor.untyped_storage()._checkpoint_offset + tensor.storage_offset() * tensor.itemsize
        return _Shard(path, place.offset + start, tensor.dtype, tuple(offsets), tuple(tensor.shape))


@dataclass(frozen=True)
class _Shard:
    """A rectangle of a tensor, row by row in a file.

    Attributes:
        path, start: the file, and the byte at which the rectangle begins in it.
        dtype: of its numbers.
        offsets: where it begins in the tensor.
        shape: its size.
    """

    path: Path
    start: int
    dtype: torch.dtype
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    def copy_into(self, block: torch.Tensor, first: int) -> int:
        """Copy what lies in the block, whose first row is the tensor's row `first`; returns how many numbers that was."""
        low = max(first, self.offsets[0])
        high = min(first + len(block), self.offsets[0] + self.shape[0])
        if low >= high:
            return 0
        part = torch.empty((high - low, *self.shape[1:]), dtype=self.dtype)
        with self.path.open("rb") as file:
            file.seek(self.start + (low - self.offsets[0]) * (part.nbytes // len(part)))
            if file.readinto(part.numpy().data) != part.nbytes:
                raise InputError(f"{self.path}: cut short")
        columns = (slice(start, start + size) for start, size in zip(self.offsets[1:], self.shape[1:], strict=True))
        block[(slice(low - first, high - first), *columns)] = part
        return part.numel()
