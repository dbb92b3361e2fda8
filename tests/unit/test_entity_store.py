"""The entity store against a dictionary, readers while versions are published, and damaged or unfit stores."""

import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.entity_store import EntityStore
from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE, SidContract

CONTRACT = SidContract(levels=3, codebook_size=256, codebook_hash="c0de", source="text", generation=1)
INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)


def publish(path: Path, count: int, code: int) -> str:
    """A version of `count` items whose codes are all `code`."""
    return EntityStore.publish(path, np.arange(count), np.full((count, 3), code, np.uint16), CONTRACT)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(INT64, st.tuples(*[st.integers(0, 255)] * 3), min_size=1), st.lists(INT64))
def test_lookup_agrees_with_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, items: dict[int, tuple[int, ...]], others: list[int]
) -> None:
    path = tmp_path_factory.mktemp("store")
    EntityStore.publish(path, np.array(list(items), np.int64), np.array(list(items.values()), np.uint16), CONTRACT)
    asked = others + list(items)[::2] + others
    answer = EntityStore.open(path, verify=True).lookup(np.array(asked, np.int64))
    assert answer.codes.dtype == np.uint16
    assert answer.codes.tolist() == [list(items.get(item, (UNKNOWN_CODE,) * 3)) for item in asked]
    assert answer.misses == sum(item not in items for item in asked)


def test_no_ids_give_no_codes(tmp_path: Path) -> None:
    publish(tmp_path, 4, 1)
    answer = EntityStore.open(tmp_path).lookup(np.array([], np.int64))
    assert answer.codes.shape == (0, 3)
    assert answer.misses == 0


def test_an_open_version_stays_and_old_versions_can_be_opened(tmp_path: Path) -> None:
    assert publish(tmp_path, 4, 1) == "v000001"
    reader = EntityStore.open(tmp_path)
    assert publish(tmp_path, 9, 2) == "v000002"
    assert reader.lookup(np.arange(9)).misses == 5
    assert reader.codes[0, 0] == 1
    assert (EntityStore.open(tmp_path).version, len(EntityStore.open(tmp_path).ids)) == ("v000002", 9)
    assert EntityStore.open(tmp_path, "v000001").codes[0, 0] == 1
    assert EntityStore.open(tmp_path).contract == CONTRACT


def _publish_many(path: Path, versions: range, together: Barrier) -> None:
    together.wait()
    for version in versions:
        publish(path, 2000 + version, version)


def test_readers_see_whole_versions_while_two_processes_publish(tmp_path: Path) -> None:
    publish(tmp_path, 2000, 0)
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    writers = [spawn.Process(target=_publish_many, args=(tmp_path, numbers, together)) for numbers in (range(1, 26), range(26, 51))]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        store = EntityStore.open(tmp_path, verify=True)
        values = np.unique(store.codes)
        assert len(values) == 1
        assert len(store.ids) == 2000 + values[0]
        seen.add(store.version)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(seen) > 2
    assert EntityStore.open(tmp_path).version == "v000051"
    assert sorted(folder.name for folder in tmp_path.glob("v*")) == [f"v{number:06d}" for number in range(1, 52)]


def test_an_unfinished_version_is_not_seen(tmp_path: Path) -> None:
    """What a publisher killed before its renames leaves behind disturbs neither readers nor the next publisher."""
    publish(tmp_path, 4, 1)
    (tmp_path / ".v000002.tmp").mkdir()
    (tmp_path / ".v000002.tmp" / "ids.npy").write_bytes(b"half")
    assert EntityStore.open(tmp_path).version == "v000001"
    assert publish(tmp_path, 5, 2) == "v000002"
    assert len(EntityStore.open(tmp_path, verify=True).ids) == 5


@pytest.mark.parametrize("name", ["ids.npy", "codes.npy"])
def test_damage_is_found(tmp_path: Path, name: str) -> None:
    publish(tmp_path, 1000, 1)
    file = tmp_path / "v000001" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=f"{name}: missing or not the {len(whole)} bytes"):
        EntityStore.open(tmp_path)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{name}: sha256 differs"):
        EntityStore.open(tmp_path, verify=True)
    file.write_bytes(b"\0" * len(whole))
    with pytest.raises(InputError, match=f"{name}: not a readable array"):
        EntityStore.open(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        EntityStore.open(tmp_path)


def test_arrays_must_be_what_meta_describes(tmp_path: Path) -> None:
    publish(tmp_path, 10, 1)
    meta_path = tmp_path / "v000001" / "meta.json"
    meta = json.loads(meta_path.read_text())
    meta["contract"]["levels"] = 4
    meta_path.write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"arrays are int64.* and uint16.*does not describe"):
        EntityStore.open(tmp_path)
    meta_path.write_text("{")
    with pytest.raises(InputError, match=r"meta\.json: damaged"):
        EntityStore.open(tmp_path)


def test_a_missing_store_or_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no entity store here"):
        EntityStore.open(tmp_path)
    publish(tmp_path, 4, 1)
    with pytest.raises(InputError, match=r"v000009.*no such file"):
        EntityStore.open(tmp_path, "v000009")


@pytest.mark.parametrize(
    ("ids", "codes", "message"),
    [
        ([5, 7, 5], [[0, 0, 0]] * 3, "item id 5 occurs more than once"),
        ([], np.zeros((0, 3)), "no items"),
        ([1], [[0, 256, 0]], "do not fit codebook_size 256"),
        ([1], [[0, 1]], "do not fit levels 3"),
    ],
)
def test_unfit_items_are_refused_and_nothing_is_published(tmp_path: Path, ids: list[int], codes: list[list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EntityStore.publish(tmp_path, np.array(ids, np.int64), np.array(codes, np.uint16), CONTRACT)
    assert not any(tmp_path.iterdir())


def test_a_contract_mismatch_names_both_sides(tmp_path: Path) -> None:
    publish(tmp_path, 4, 1)
    other = SidContract(3, 256, "beef", "text", 1)
    with pytest.raises(InputError, match="codebook_hash is 'c0de' in the store but 'beef' in the checkpoint"):
        EntityStore.open(tmp_path).contract.require_same(other, "the store", "the checkpoint")
