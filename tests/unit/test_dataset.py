"""Parquet data sets: whole or absent, in row order, and no damage that goes unseen."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.dataset import MANIFEST, Dataset, DatasetWriter, iter_row_groups, open_dataset, read_table
from features.errors import InputError
from features.files import sha256_file, write_durably
from features.location import Location
from features.part_file import DataFile, PartFile
from launch.chain import ROOT

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("codes", pa.list_(pa.uint16())), pa.field("text", pa.string())])


def table(rows: int, start: int = 0) -> pa.Table:
    ids = np.arange(start, start + rows)
    codes = [list(range(i % 4)) for i in ids]
    return pa.table([pa.array(ids), pa.array(codes, pa.list_(pa.uint16())), pa.array([f"title {i % 50}" for i in ids])], schema=SCHEMA)


def write(path: Path, data: pa.Table, **sizes: int) -> Dataset:
    with DatasetWriter(path, SCHEMA, {"source": "test"}, **sizes) as writer:
        writer.write(data)
    return open_dataset(path, verify=True)


@settings(max_examples=40)
@given(
    chunks=st.lists(st.integers(0, 60), max_size=8),
    rows_per_group=st.integers(1, 40),
    rows_per_file=st.integers(1, 90),
    reverse=st.booleans(),
)
def test_what_is_written_in_any_chunks_is_read_in_order_and_in_sized_groups(
    chunks: list[int], rows_per_group: int, rows_per_file: int, reverse: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        with DatasetWriter(path, SCHEMA, {"k": 1}, rows_per_file=rows_per_file, rows_per_group=rows_per_group) as writer:
            for start, rows in zip(np.cumsum([0, *chunks]), chunks, strict=False):
                chunk = table(rows, int(start))
                writer.write(chunk.select(chunk.schema.names[::-1]) if reverse else chunk)
        dataset = open_dataset(path, verify=True)
        groups = [group.num_rows for group in iter_row_groups(dataset)]
        assert read_table(dataset).equals(table(sum(chunks)))
        assert all(rows <= rows_per_group for rows in groups)
        assert all(file.rows <= rows_per_file for file in dataset.files)
        assert dataset.rows == sum(chunks)
        # No part file but the last is short, and no row group but the last of its file.
        assert all(file.rows == rows_per_file for file in dataset.files[:-1])
        assert len(groups) == sum(-(-file.rows // rows_per_group) or len(groups) for file in dataset.files)


def test_an_empty_data_set_keeps_schema_and_metadata(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", table(0))
    assert (dataset.rows, len(dataset.files)) == (0, 1)
    assert dataset.schema.equals(SCHEMA)
    assert dataset.metadata == {"source": "test"}
    assert read_table(dataset).equals(table(0))


def test_columns_are_read_alone(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "set", table(30)), ["id"]).equals(table(30).select(["id"]))


def test_equal_contents_have_equal_fingerprints(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", table(50)), write(tmp_path / "b", table(50))
    assert first.fingerprint == second.fingerprint
    assert write(tmp_path / "c", table(51)).fingerprint != first.fingerprint


def test_the_manifest_has_what_another_program_computes(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", table(50), rows_per_file=20)
    for file in dataset.files:
        path = dataset.path / file.name
        told = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
        assert (file.sha256, file.bytes, file.rows) == (told, path.stat().st_size, pq.read_metadata(path).num_rows)


class Stop(Exception):
    """What a failing stage raises in these tests."""


def test_an_error_leaves_the_old_data_set_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "set"
    with pytest.raises(Stop), DatasetWriter(path, SCHEMA, {}) as writer:
        writer.write(table(20_000))
        raise Stop
    assert list(path.iterdir()) == []
    old = write(path, table(10))
    with pytest.raises(Stop), DatasetWriter(path, SCHEMA, {}) as writer:
        writer.write(table(20_000))
        raise Stop
    assert {file.name for file in path.iterdir()} == {MANIFEST, *(file.name for file in old.files)}
    assert open_dataset(path, verify=True) == old


def test_an_error_in_the_last_flush_leaves_nothing(tmp_path: Path) -> None:
    interval = pa.table({"x": pa.array([(1, 2, 3)], pa.month_day_nano_interval())})  # a type that Parquet lacks
    with pytest.raises(pa.ArrowNotImplementedError), DatasetWriter(tmp_path / "set", interval.schema, {}) as writer:
        writer.write(interval)
    assert list((tmp_path / "set").iterdir()) == []


def test_a_new_data_set_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "set"
    write(path, table(50), rows_per_file=10)
    new = write(path, table(3))
    assert read_table(new).equals(table(3))
    assert sorted(file.name for file in path.iterdir()) == [MANIFEST, new.files[0].name]
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_data_set(tmp_path: Path) -> None:
    path = tmp_path / "set"
    old = write(path, table(10))
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tests.unit.test_dataset import SCHEMA, DatasetWriter, table\n"
        "with DatasetWriter(Path(sys.argv[1]), SCHEMA, {}) as writer:\n"
        "    writer.write(table(20_000)); print('written', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    assert open_dataset(path, verify=True) == old
    assert read_table(old).equals(table(10))


def test_no_flipped_bit_of_a_data_page_goes_unseen(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", table(3000), rows_per_group=1000)
    part = Path(dataset.part(0).path)
    good = part.read_bytes()
    footer = int.from_bytes(good[-8:-4], "little") + 8
    random = np.random.default_rng(0)
    unseen = 0
    for position in random.integers(4, len(good) - footer, 200):
        damaged = bytearray(good)
        damaged[position] ^= 1 << int(random.integers(8))
        part.write_bytes(damaged)
        try:
            assert read_table(open_dataset(tmp_path / "set")).equals(table(3000)), f"wrong rows after a flip at byte {position}"
            unseen += 1
        except InputError as error:
            assert str(part) in str(error)
            assert "\n" not in str(error)
    assert unseen == 0
    with pytest.raises(InputError, match="sha256 differs"):
        open_dataset(tmp_path / "set", verify=True)


def test_any_flipped_bit_of_footer_or_manifest_is_told_in_one_line_if_it_matters(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", table(300))
    random = np.random.default_rng(1)
    for path in (Path(dataset.part(0).path), dataset.path / MANIFEST):
        good = path.read_bytes()
        for position in random.integers(max(0, len(good) - 600), len(good), 150):
            damaged = bytearray(good)
            damaged[position] ^= 1 << int(random.integers(8))
            path.write_bytes(damaged)
            try:
                for group in iter_row_groups(open_dataset(tmp_path / "set")):
                    assert group.num_columns == 3
            except InputError as error:
                assert "\n" not in str(error)
        path.write_bytes(good)


@pytest.mark.parametrize("keep", [0, 3, 100, -9, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    dataset = write(tmp_path / "set", table(300))
    part = Path(dataset.part(0).path)
    cut = part.read_bytes()[:keep]
    part.write_bytes(cut)
    with pytest.raises(InputError, match=r"part-00000-\w{8}.parquet: missing or not the \d+ bytes"):
        open_dataset(tmp_path / "set")
    manifest = json.loads((dataset.path / MANIFEST).read_text())
    manifest["files"][0] |= {"bytes": len(cut), "sha256": sha256_file(part)}
    (dataset.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"part-00000-\w{8}.parquet: (the file is empty|not a readable Parquet file)"):
        open_dataset(tmp_path / "set", verify=True)


def test_a_missing_file_and_a_missing_manifest_are_named(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", table(300), rows_per_file=100)
    Path(dataset.part(1).path).unlink()
    with pytest.raises(InputError, match=r"part-00001-\w{8}.parquet: missing"):
        open_dataset(tmp_path / "set")
    (tmp_path / "set" / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"set: no data set here"):
        open_dataset(tmp_path / "set")


def test_a_part_with_other_columns_is_named(tmp_path: Path) -> None:
    dataset = write(tmp_path / "set", table(300), rows_per_file=100)
    part = Path(dataset.part(1).path)
    pq.write_table(table(100).rename_columns(["id", "codes", "title"]), part)
    manifest = json.loads((dataset.path / MANIFEST).read_text())
    manifest["files"][1] |= {"bytes": part.stat().st_size, "sha256": sha256_file(part)}
    (dataset.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"part-00001-\w{8}.parquet: its columns differ"):
        read_table(open_dataset(tmp_path / "set", verify=True))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"metadata": {}, "files": []}', '{"metadata": {}, "files": [{"name": "x"}]}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=r"manifest.json: (damaged manifest|the data set has no files)"):
        open_dataset(tmp_path)


def test_a_file_written_durably_is_never_half_there(tmp_path: Path) -> None:
    path = tmp_path / "state"
    blocks = [bytes([value]) * 200_000 for value in (1, 2)]
    write_durably(path, blocks[0])
    child = os.fork()
    if child == 0:
        while True:
            for block in blocks:
                write_durably(path, block)
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            assert path.read_bytes() in blocks
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert path.read_bytes() in blocks


def test_codes_and_listed_times_are_stored_by_significance_and_the_rest_by_dictionaries(tmp_path: Path) -> None:
    time, codes = pa.timestamp("us", tz="UTC"), pa.uint16()
    split = {
        "times": pa.list_(time),
        "codes": pa.list_(codes),
        "target": pa.list_(codes, 2),
        "code": codes,
        "deep": pa.list_(pa.list_(codes)),
    }
    rest = {
        "time": time,
        "ids": pa.list_(pa.int64()),
        "text": pa.string(),
        "map": pa.map_(pa.string(), time),
        "both": pa.struct([("x", codes)]),
    }
    schema = pa.schema([*split.items(), *rest.items()])
    values = {"target": [1, 2], "code": 1, "time": 1, "text": "a", "map": [("k", 1)], "both": {"x": 1}, "deep": [[1], [2]]}
    row = {name: values.get(name, [1, 2]) for name in schema.names}
    with DatasetWriter(tmp_path, schema, {}) as writer:
        writer.write(pa.Table.from_pylist([row] * 9, schema))
    dataset = open_dataset(tmp_path)
    assert read_table(dataset).to_pylist() == pa.Table.from_pylist([row] * 9, schema).to_pylist()
    group = pq.read_metadata(dataset.part(0).path).row_group(0)
    columns = {group.column(place).path_in_schema: group.column(place) for place in range(group.num_columns)}
    by_significance = {name.replace(".list.element", "") for name, column in columns.items() if "BYTE_STREAM_SPLIT" in column.encodings}
    assert by_significance == {*split, "map.key_value.value", "both.x"}
    assert all(("RLE_DICTIONARY" in column.encodings) != ("BYTE_STREAM_SPLIT" in column.encodings) for column in columns.values())
    assert {column.compression for column in columns.values()} == {"ZSTD"}


def test_a_part_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stop), PartFile(Location.of(tmp_path), 3) as part:
        part.write(b"half of it")
        assert len(list(tmp_path.iterdir())) == 1
        raise Stop
    assert list(tmp_path.iterdir()) == []
    assert part.write(b"what its writer says when it is closed") == 38
    with PartFile(Location.of(tmp_path), 3) as part:
        part.write(b"the whole")
        file = part.finish(7)
    digest = hashlib.sha256(b"the whole").hexdigest()
    assert file == DataFile(f"part-00003-{digest[:8]}.parquet", 7, 9, digest)
    assert (tmp_path / file.name).read_bytes() == b"the whole"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
