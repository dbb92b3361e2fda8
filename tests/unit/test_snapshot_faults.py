"""Snapshots under damage, unfit items and a full disk: named errors, and nothing half-published."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.errors import InputError
from features.files import sha256_file
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store.snapshot import Snapshot
from features.store.snapshot_files import META
from features.store.snapshot_writer import SnapshotWriter

TEXT = SidContract(levels=3, codebook_size=256, codebook_hash="c0de", source="text", generation=1)
IMAGE = SidContract(levels=4, codebook_size=16, codebook_hash="beef", source="image", generation=1)
CONTRACTS = {"text": TEXT, "image": IMAGE}
FILES = ["ids.npy", "directory.npy", "codes-text.npy", "codes-image.npy", "by_prefix-text.npy", "by_prefix-image.npy"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    with SnapshotWriter(tmp_path / "v000001", CONTRACTS) as writer:
        writer.add(np.arange(300), {"text": rng.integers(0, 256, (300, 3)), "image": rng.integers(0, 16, (300, 4))})
    return tmp_path / "v000001"


def test_a_thousand_flipped_bits_are_all_found(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, META])
    rng = np.random.default_rng(1)
    meta_sha256 = sha256_file(folder / META)
    for _ in range(1000):
        path = folder / str(rng.choice([*FILES, META]))
        with path.open("r+b") as file:
            at, bit = int(rng.integers(path.stat().st_size)), 1 << int(rng.integers(8))
            file.seek(at)
            right = file.read(1)[0]
            file.seek(at)
            file.write(bytes([right ^ bit]))
            file.flush()
            with pytest.raises(InputError) as caught:
                Snapshot.open(folder, meta_sha256=meta_sha256)
            assert str(caught.value).startswith(f"{path}: ")
            file.seek(at)
            file.write(bytes([right]))
    assert Snapshot.open(folder, meta_sha256=meta_sha256).rows == 300


@pytest.mark.parametrize("name", FILES)
def test_sizes_and_shapes_are_checked_even_without_hashes(folder: Path, name: str) -> None:
    file = folder / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=f"{name}: missing or not the {len(whole)} bytes"):
        Snapshot.open(folder, verify=False)
    file.write_bytes(b"\0" * len(whole))
    with pytest.raises(InputError, match=f"{name}: not a readable array"):
        Snapshot.open(folder, verify=False)
    file.write_bytes(whole.replace(b"<i8" if name == "ids.npy" else b"<u", b"<f8" if name == "ids.npy" else b"<i", 1))
    with pytest.raises(InputError, match=rf"{name}: .*, but meta\.json describes"):
        Snapshot.open(folder, verify=False)
    file.unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        Snapshot.open(folder, verify=False)


def _without_rows(meta: dict[str, Any]) -> None:
    del meta["rows"]


def _without_file(meta: dict[str, Any]) -> None:
    del meta["files"]["codes-text.npy"]


def _unsafe(meta: dict[str, Any]) -> None:
    meta["contracts"]["../up"] = meta["contracts"].pop("text")


def _more_levels(meta: dict[str, Any]) -> None:
    meta["contracts"]["text"]["levels"] = 4


def _more_fields(meta: dict[str, Any]) -> None:
    meta["contracts"]["text"]["colour"] = "red"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_rows, r"meta\.json: damaged"),
        (_without_file, r"meta\.json: damaged \(no file 'codes-text\.npy'\)"),
        (_unsafe, r"source '\.\./up' is not a name"),
        (_more_levels, r"codes-text\.npy: uint16\(300, 3\), but meta\.json describes uint16\(300, 4\)"),
        (_more_fields, r"meta\.json: not a Semantic ID contract"),
    ],
)
def test_files_must_be_what_meta_describes(folder: Path, change: Any, message: str) -> None:
    meta = json.loads((folder / META).read_text())
    change(meta)
    (folder / META).write_text(json.dumps(meta))
    with pytest.raises(InputError, match=message):
        Snapshot.open(folder)


def test_a_missing_or_torn_meta_is_named(folder: Path) -> None:
    (folder / META).write_text("{")
    with pytest.raises(InputError, match=r"meta\.json: damaged"):
        Snapshot.open(folder)
    (folder / META).write_text("[]")
    with pytest.raises(InputError, match=r"meta\.json: damaged"):
        Snapshot.open(folder)
    (folder / META).unlink()
    with pytest.raises(InputError, match=r"meta\.json: no such file"):
        Snapshot.open(folder)


@pytest.mark.parametrize("memory_items", [2, 1000])
def test_the_same_codes_may_come_again_but_no_others(tmp_path: Path, memory_items: int) -> None:
    ids = np.array([5, 7, 5])
    with SnapshotWriter(tmp_path / "v", CONTRACTS, memory_items=memory_items) as writer:
        writer.add(ids, {"text": np.array([[1, 2, 3], [4, 5, 6], [1, 2, 3]])})
        writer.add(ids[:1], {"image": np.array([[1, 2, 3, 4]]), "text": np.full((1, 3), UNKNOWN_CODE)})
        writer.add(ids[:1], {"text": np.array([[1, 2, 3]], np.uint8)})
    snapshot = Snapshot.open(tmp_path / "v")
    assert (snapshot.rows, snapshot.get(5, "text"), snapshot.get(5, "image")) == (2, (1, 2, 3), (1, 2, 3, 4))
    with (
        pytest.raises(InputError, match=r"item id 7 has two Semantic IDs of source 'text', \(4, 5, [67]\) and \(4, 5, [67]\)"),
        SnapshotWriter(tmp_path / "w", CONTRACTS, memory_items=memory_items) as writer,
    ):
        writer.add(ids, {"text": np.array([[1, 2, 3], [4, 5, 6], [1, 2, 3]])})
        writer.add(ids, {"text": np.array([[1, 2, 3], [4, 5, 7], [1, 2, 3]])})
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("ids", "codes", "message"),
    [
        ([], {"text": np.zeros((0, 3), int)}, "no items"),
        ([1, 2], {"text": [[0, 0, 0], [0, 256, 0]]}, r"codes \(0, 256, 0\) of item id 2 do not fit codebook_size 256 of source 'text'"),
        ([1], {"image": [[0, -1, 0, 0]]}, "item id 1 do not fit codebook_size 16 of source 'image'"),
        ([1], {"text": [[0, UNKNOWN_CODE, 0]]}, "do not fit codebook_size 256"),
        ([1], {"text": [[0, 1]]}, "of 'text' do not fit levels 3"),
        ([1], {"text": [[0.0, 1, 2]]}, "codes float64.* do not fit"),
        ([1.5], {"text": [[0, 1, 2]]}, "ids float64.* do not fit"),
        ([1, 2], {"text": [[0, 1, 2]]}, r"ids int64\(2,\) and codes int64\(1, 3\)"),
        ([1], {"video": [[0, 1, 2]]}, "no source 'video'; it has image, text"),
        ([3, 4], {"text": [[0, 1, 2], [UNKNOWN_CODE] * 3]}, "item id 4 has no codes of any source"),
        ([3], {}, "item id 3 has no codes of any source"),
    ],
)
def test_unfit_items_are_refused_and_nothing_stays(tmp_path: Path, ids: list[int], codes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message), SnapshotWriter(tmp_path / "v", CONTRACTS) as writer:
        writer.add(np.array(ids, None if ids else np.int64), {source: np.array(given) for source, given in codes.items()})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "a b", "x" * 65, "a\n"])
def test_a_source_must_be_safe_as_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"is not a name of letters"):
        SnapshotWriter(tmp_path / "v", {name: SidContract(3, 256, "c0de", name, 1)})


def test_a_contract_must_be_that_of_its_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contract of source 'image' is for 'text'"):
        SnapshotWriter(tmp_path / "v", {"image": TEXT})
    with pytest.raises(InputError, match="no sources"):
        SnapshotWriter(tmp_path / "v", {})


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "v" / ".spool").mkdir(parents=True)
    (tmp_path / "v" / "ids.npy").write_bytes(b"half")
    with SnapshotWriter(tmp_path / "v", {"text": TEXT}) as writer:
        writer.add(np.arange(4), {"text": np.zeros((4, 3), int)})
    assert Snapshot.open(tmp_path / "v").rows == 4


FULL_DISK = """
import os, sys
from pathlib import Path
import numpy as np
from features.errors import InputError
from features.semantic_id import SidContract
from features.store.snapshot import Snapshot
from features.store.snapshot_writer import SnapshotWriter
disk, ids = Path(sys.argv[1]), np.arange(10_000)
for free in range(8, 1024, 8):
    with (disk / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, os.statvfs(disk).f_bavail * 4096 - free * 1024)
    try:
        with SnapshotWriter(disk / ".v.tmp", {"text": SidContract(3, 256, "c0de", "text", 1)}, memory_items=2000) as writer:
            writer.add(ids, {"text": np.tile(ids[:, None] % 256, 3)})
        print(free, "rows", Snapshot.open(disk / ".v.tmp").rows)
        (disk / ".v.tmp").rename(disk / "v")
        break
    except InputError as error:
        print(free, error)
    assert [path.name for path in disk.iterdir()] == ["ballast"], list(disk.iterdir())
    (disk / "ballast").unlink()
"""


def test_a_full_disk_is_told_at_every_stage_and_nothing_stays(tmp_path: Path) -> None:
    namespace = ["unshare", *(["--mount"] if os.geteuid() == 0 else ["--map-root-user", "--mount"])]
    mount = 'mount -t tmpfs -o size=1m tmpfs "$1"'
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here, so no small disk of our own")
    tried = subprocess.run([*namespace, "sh", "-c", mount, "sh", str(tmp_path)], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {tried.stderr.strip()}")
    command = [*namespace, "sh", "-c", f'{mount} && exec "$2" -c "$3" "$1"', "sh", str(tmp_path), sys.executable, FULL_DISK]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *failed, done = run.stdout.splitlines()
    assert done.endswith("rows 10000")
    assert len(failed) > 20  # from too little for the spool to nearly enough for everything
    assert {line.partition(" ")[2] for line in failed} == {f"{tmp_path}/.v.tmp: cannot be written to (No space left on device)"}
