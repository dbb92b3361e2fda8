"""Snapshots against a dictionary: any ids, several sources, many runs and ranges, prefixes, and memory that does not grow."""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.errors import InputError
from features.ids import mix64
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store import snapshot_files
from features.store.snapshot import Snapshot, _mix64
from features.store.snapshot_writer import SnapshotWriter

Items = Mapping[int, Mapping[str, tuple[int, ...]]]

TEXT = SidContract(levels=3, codebook_size=4, codebook_hash="c0de", source="text", generation=1)
IMAGE = SidContract(levels=6, codebook_size=65535, codebook_hash="beef", source="image", generation=2)
CONTRACTS = {"text": TEXT, "image": IMAGE}
EDGES = [1, 255, 256, 65534]  # few codes, so that long prefixes are shared; both bytes matter to their order
COMBINATIONS = (("text",), ("image",), ("text", "image"))
MOST = 2**63 - 1

INT64 = st.integers(-MOST - 1, MOST) | st.integers(-3, 3) | st.sampled_from([-MOST - 1, MOST])
STEPS = st.builds(
    lambda start, step, count: [start + step * i for i in range(count)], st.integers(-(2**62), 2**62), st.integers(1, 9), st.integers(1, 40)
)
IDS = st.lists(st.lists(INT64, max_size=20) | STEPS, min_size=1, max_size=3).map(lambda lists: sorted({i for part in lists for i in part}))


def random_items(ids: Sequence[int], rng: np.random.Generator) -> Items:
    """Codes of one source, the other or both for every id."""
    codes = {"text": rng.integers(0, 4, (len(ids), 3)).tolist(), "image": rng.choice(EDGES, (len(ids), 6)).tolist()}
    having = rng.integers(3, size=len(ids))
    return {item: {source: tuple(codes[source][at]) for source in COMBINATIONS[having[at]]} for at, item in enumerate(ids)}


def write(path: Path, items: Items, rng: np.random.Generator, memory_items: int) -> Snapshot:
    """Add the items source by source and some of them once more with both sources, each time in another order."""
    with SnapshotWriter(path, CONTRACTS, memory_items=memory_items) as writer:
        for sources in COMBINATIONS:
            having = [item for item, codes in items.items() if set(sources) <= set(codes)][:: len(sources)]
            for part in np.array_split(rng.permutation(len(having)), 3):
                ids = [having[at] for at in part]
                codes = {s: np.array([items[item][s] for item in ids], np.int64).reshape(-1, CONTRACTS[s].levels) for s in sources}
                writer.add(np.array(ids, np.int64), codes)
    return Snapshot.open(path)


def require_equal(snapshot: Snapshot, items: Items, asked: Sequence[int]) -> None:
    """Bulk and point reads say what the dictionary says."""
    for source, contract in CONTRACTS.items():
        wanted = [items.get(item, {}).get(source) for item in asked]
        answer = snapshot.lookup(np.array(asked, np.int64), source)
        assert answer.codes.dtype == np.uint16
        assert answer.codes.tolist() == [list(codes or (UNKNOWN_CODE,) * contract.levels) for codes in wanted]
        assert answer.misses == wanted.count(None)
        assert [snapshot.get(item, source) for item in asked] == wanted


@settings(max_examples=120)
@given(IDS.filter(bool), st.lists(INT64, max_size=30), st.integers(1, 12), st.integers(0, 999))
def test_a_snapshot_agrees_with_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], others: list[int], memory_items: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    items = random_items(ids, rng)
    folder = tmp_path_factory.mktemp("store")
    snapshot = write(folder / "v", items, rng, memory_items)
    assert snapshot.rows == len(items)
    require_equal(snapshot, items, others + ids[::2] + ids + others)
    for source, contract in CONTRACTS.items():
        for item in ids[:10]:
            prefix = items[item].get(source, (0,) * contract.levels)[: rng.integers(1, contract.levels + 1)]
            alike = sorted(item for item, codes in items.items() if codes.get(source, ())[: len(prefix)] == prefix)
            found = snapshot.items_with_prefix(prefix, source)
            assert (found.dtype, found.tolist()) == (np.int64, alike)
    shutil.rmtree(folder)


def crowded(count: int, rng: np.random.Generator) -> list[int]:
    """Ids whose mix64 all lie in one of 2^16 parts, so that buckets and ranges overflow: mix64 backwards."""

    def unshift(value: int, bits: int) -> int:
        result = value
        for _ in range(64 // bits):
            result = value ^ (result >> bits)
        return result

    ids = []
    for mixed in (int(value) | 0xABCD << 48 for value in rng.integers(0, 1 << 48, count)):
        value = unshift(mixed, 31) * pow(0x94D049BB133111EB, -1, 1 << 64) % (1 << 64)
        value = unshift(value, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) % (1 << 64)
        value = (unshift(value, 30) - 0x9E3779B97F4A7C15) % (1 << 64)
        assert _mix64(value) == mixed
        ids.append(value if value <= MOST else value - (1 << 64))
    return ids


def test_many_items_in_many_runs_of_many_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    ids = sorted({*range(20_000), *crowded(300, rng), *range(-(10**12), -(10**12) + 60_000, 7)})
    items = random_items(ids, rng)
    snapshot = write(tmp_path / "v", items, rng, memory_items=3000)
    require_equal(snapshot, items, rng.permutation(np.concatenate([ids, rng.integers(-30_000, 30_000, 30_000)])).tolist())
    for source, prefix in (("text", (3,)), ("text", (0, 1)), ("text", (2, 3, 3)), ("image", (65534,)), ("image", (1, 255, 255, 256, 1))):
        alike = [item for item in ids if items[item].get(source, ())[: len(prefix)] == prefix]
        assert len(alike) > 2
        assert snapshot.items_with_prefix(prefix, source).tolist() == alike
    order = mix64(np.concatenate([ids for ids, _ in snapshot.batches(1 << 20)]).view(np.uint64))
    assert (order[1:] > order[:-1]).all()


def test_contents_alone_decide_the_bytes_and_batches_give_them_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    items = random_items(range(-500, 1500), rng)
    one, other = write(tmp_path / "one", items, rng, 97), write(tmp_path / "other", items, rng, 10_000)
    assert one.fingerprint == other.fingerprint
    with SnapshotWriter(tmp_path / "folded", dict(reversed(CONTRACTS.items())), memory_items=200) as writer:
        for ids, codes in one.batches(333):
            assert len(ids) <= 333
            writer.add(ids, codes)
    assert Snapshot.open(tmp_path / "folded").fingerprint == one.fingerprint
    with SnapshotWriter(tmp_path / "more", CONTRACTS) as writer:
        for ids, codes in one.batches(1000):
            writer.add(ids, codes)
        writer.add(np.array([10**6]), {"text": np.zeros((1, 3), np.uint16)})
    assert Snapshot.open(tmp_path / "more").fingerprint != one.fingerprint


def test_positions_of_more_than_32_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [snapshot_files.position_dtype(rows) for rows in (2**32 - 1, 2**32)] == [np.uint32, np.int64]
    monkeypatch.setattr(snapshot_files, "UINT32_END", 16)
    rng = np.random.default_rng(7)
    items = random_items(range(100), rng)
    snapshot = write(tmp_path / "v", items, rng, 30)
    assert snapshot.directory.dtype == snapshot.by_prefix["text"].dtype == np.int64
    require_equal(snapshot, items, range(-50, 150))
    alike = [item for item, codes in items.items() if codes.get("text", ())[:1] == (1,)]
    assert snapshot.items_with_prefix((1,), "text").tolist() == alike


def test_no_ids_give_no_codes_and_strides_do_not_matter(tmp_path: Path) -> None:
    snapshot = write(tmp_path / "v", {item: {"text": (0, 1, 2)} for item in range(10)}, np.random.default_rng(0), 100)
    answer = snapshot.lookup(np.array([], np.int64), "text")
    assert (answer.codes.shape, answer.misses) == ((0, 3), 0)
    assert snapshot.lookup(np.arange(20)[::-2], "text").misses == 5
    assert snapshot.lookup(np.arange(4), "image").misses == 4  # nobody has codes of it
    assert snapshot.items_with_prefix((0,), "image").tolist() == []
    assert snapshot.get(2**63, "text") is None


def test_an_opened_snapshot_outlives_its_folder(tmp_path: Path) -> None:
    snapshot = write(tmp_path / "v", {item: {"text": (3, 1, 2)} for item in range(10)}, np.random.default_rng(0), 100)
    shutil.rmtree(tmp_path / "v")
    assert snapshot.lookup(np.arange(12), "text").misses == 2
    assert snapshot.get(3, "text") == (3, 1, 2)
    assert len(snapshot.items_with_prefix((3, 1), "text")) == 10


def test_the_source_may_be_left_out_where_there_is_one(tmp_path: Path) -> None:
    with SnapshotWriter(tmp_path / "v", {"text": TEXT}) as writer:
        writer.add(np.array([7]), {"text": np.array([[0, 1, 2]])})
    one = Snapshot.open(tmp_path / "v")
    assert one.contract() == one.contract("text") == TEXT
    assert one.get(7) == tuple(one.lookup(np.array([7])).codes[0]) == (0, 1, 2)
    assert one.items_with_prefix([0]).tolist() == [7]
    two = write(tmp_path / "two", {7: {"text": (0, 1, 2), "image": (0,) * 6}}, np.random.default_rng(0), 10)
    assert two.contract("image") == IMAGE
    for ask in (two.contract, lambda: two.get(7), lambda: two.lookup(np.array([7])), lambda: two.items_with_prefix([1])):
        with pytest.raises(InputError, match="say which source is meant; it has image, text"):
            ask()
    with pytest.raises(InputError, match="no source 'video'; it has image, text"):
        two.get(7, "video")


@pytest.mark.parametrize("prefix", [(), (0, 0, 0, 0), (4,), (-1,), (0, UNKNOWN_CODE)])
def test_an_impossible_prefix_is_refused(tmp_path: Path, prefix: tuple[int, ...]) -> None:
    snapshot = write(tmp_path / "v", {1: {"text": (0, 0, 0)}}, np.random.default_rng(0), 10)
    with pytest.raises(InputError, match="is not 1 to 3 codes below 4"):
        snapshot.items_with_prefix(prefix, "text")


BUILD = """
import sys
from pathlib import Path
import numpy as np
from features.semantic_id import SidContract
from features.store.snapshot_writer import SnapshotWriter
rng, count = np.random.default_rng(0), int(sys.argv[2])
with SnapshotWriter(Path(sys.argv[1]), {"text": SidContract(3, 2048, "c0de", "text", 1)}, memory_items=50_000) as writer:
    for start in range(0, count, 10_000):
        writer.add(np.arange(start, start + 10_000), {"text": rng.integers(0, 2048, (10_000, 3))})
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # KiB; ru_maxrss counts the parent's too
"""


def test_memory_does_not_grow_with_the_items(tmp_path: Path) -> None:
    peaks = []
    for count in (200_000, 3_000_000):
        command = [sys.executable, "-c", BUILD, str(tmp_path / str(count)), str(count)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024)
    assert peaks[1] - peaks[0] < 12, f"MiB: {peaks}; the arrays of the larger one take 60"
