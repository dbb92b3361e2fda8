"""Tensor files beside the safetensors library; mapped, not read; saved states in blocks; and int8 rows beside NumPy."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.errors import InputError
from features.files import sha256_file
from pipeline.serve.lookup import Int8Tables, quantised
from pipeline.serve.saved_state import SavedState
from pipeline.serve.tensor_files import Expected, map_tensors, write_tensors


def cut(tensor: torch.Tensor, rows: int) -> Iterator[torch.Tensor]:
    for first in range(0, len(tensor), rows):
        yield tensor[first : first + rows]


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    tensors = {
        "ids": torch.arange(-5, 6),
        "weight": torch.randn(11, 3),
        "columns": torch.randn(4, 6)[:, ::2],
        "bytes": torch.randint(0, 255, (5, 7), dtype=torch.uint8),
    }
    write_tensors(tmp_path / "file", {name: (Expected.of(tensor), cut(tensor, 4)) for name, tensor in tensors.items()})
    found, mapped = load_file(tmp_path / "file"), map_tensors(tmp_path / "file", {n: Expected.of(t) for n, t in tensors.items()})
    assert found.keys() == mapped.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert torch.equal(mapped[name], tensor)


def test_we_map_what_the_library_wrote_without_reading_it(tmp_path: Path) -> None:
    """Twice mapped, it lies in two places of memory, both of them the file's own pages."""
    tensor = torch.randn(1000, 8)
    save_file({"weight": tensor}, tmp_path / "file")
    one, other = (map_tensors(tmp_path / "file", {"weight": Expected.of(tensor)})["weight"] for _ in range(2))
    assert torch.equal(one, tensor)
    ranges = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(tmp_path / "file"))
    ]
    for view in (one, other):
        assert any(int(low, 16) <= view.data_ptr() < int(high, 16) for low, high in ranges)


def test_too_few_rows_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="weight came as 8 bytes, and not 12"):
        write_tensors(tmp_path / "file", {"weight": (Expected(torch.float32, (3, 1)), [torch.zeros(2, 1)])})


@pytest.mark.parametrize("header", [b"", b"\x08", b"\xff" * 8, (10).to_bytes(8, "little") + b"{}" + b" " * 8, b"PK\x03\x04" * 9])
def test_what_is_no_tensor_file_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "file").write_bytes(header)
    with pytest.raises(InputError, match=f"^{tmp_path / 'file'}: "):
        map_tensors(tmp_path / "file", {"weight": Expected(torch.float32, (1,))})


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 50), st.sampled_from([torch.float32, torch.float16]))
def test_a_saved_state_gives_all_rows_in_blocks(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, rows: int, dtype: torch.dtype
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    tensors = {"weight": torch.randn(height, width).to(dtype), "moment": torch.randn(height)}
    dcp.save({"a": tensors}, storage_writer=FileSystemWriter(folder), no_dist=True)
    files = {file.name: sha256_file(file) for file in folder.iterdir()}
    (folder / "meta.json").write_text(json.dumps({"files": files}))
    state = SavedState(folder)
    assert state.sizes == {"a.weight": (height, width), "a.moment": (height,)}
    for name, tensor in tensors.items():
        blocks = list(state.blocks(f"a.{name}", rows))
        assert all(len(block) == rows for block in blocks[:-1])
        assert torch.cat(blocks).equal(tensor.float())
        assert torch.cat(list(state.blocks(f"a.{name}"))).equal(tensor.float())


@pytest.mark.parametrize("width", [4, 7, 32])
def test_int8_rows_are_a_step_apart_and_pooled_as_they_are_read(width: int) -> None:
    generator = np.random.default_rng(0)
    tables = {
        name: torch.from_numpy(generator.normal(0, spread, (50, width)).astype(np.float32)) for name, spread in (("a", 1), ("b", 1e-3))
    }
    tables["a"][3] = 0.25  # a row of one number
    stored = {name: quantised(table) for name, table in tables.items()}
    read = {}
    for name, table in tables.items():  # the layout, by NumPy
        raw = stored[name].numpy()
        assert raw.shape == (50, width + 8)
        scale, offset = raw[:, width:].copy().view(np.float32).T
        read[name] = raw[:, :width] * scale[:, None] + offset[:, None]
        step = (table.max(1).values - table.min(1).values).numpy() / 255
        assert (np.abs(read[name] - table.numpy()) <= step[:, None] * 0.5001 + 1e-6).all()
    lengths = generator.integers(0, 4, 2 * 9)
    values = torch.from_numpy(generator.integers(0, 50, lengths.sum()))
    features = KeyedJaggedTensor(keys=["b", "a"], values=values, lengths=torch.from_numpy(lengths.astype(np.int32)))
    pooled = Int8Tables(stored)(features)
    assert pooled.keys() == ["a", "b"]
    ends = np.cumsum(lengths)
    for place, name in enumerate(["b", "a"]):
        for bag in range(9):
            end = ends[place * 9 + bag]
            rows = values[end - lengths[place * 9 + bag] : end].numpy()
            assert np.allclose(pooled[name][bag].numpy(), read[name][rows].sum(0), atol=1e-5)
