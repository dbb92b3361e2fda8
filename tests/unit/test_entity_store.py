"""The entity store against a dictionary: versions and what replaces them, the delta read through, several sources, and damage."""

import multiprocessing
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.entity_store import EntityStore, open_store
from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store.publish import fold, publish
from features.store.versions import open_snapshot

CONTRACT = SidContract(levels=3, codebook_size=256, codebook_hash="c0de", source="text", generation=1)
REFRESHED = SidContract(levels=3, codebook_size=256, codebook_hash="beef", source="text", generation=2)
IMAGE = SidContract(levels=2, codebook_size=16, codebook_hash="1mg", source="image", generation=1)
INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)


def publish_equal(path: Path, count: int, code: int, **options: int) -> str:
    """A version of `count` items whose codes are all `code`."""
    return publish(path, [(np.arange(count), {"text": np.full((count, 3), code)})], [CONTRACT], **options)


def versions(path: Path) -> list[str]:
    return sorted(folder.name for folder in path.glob("v*"))


@settings(max_examples=12, deadline=None)
@given(st.dictionaries(INT64, st.tuples(*[st.integers(0, 255)] * 3), min_size=2), st.lists(INT64), st.data())
def test_published_appended_and_folded_items_agree_with_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, items: dict[int, tuple[int, ...]], others: list[int], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("store")
    ids, codes = np.array(list(items), np.int64), np.array(list(items.values()), np.uint16)
    cuts = sorted(data.draw(st.lists(st.integers(1, len(ids)), min_size=2, max_size=2)))
    publish(path, [(ids[: cuts[0]], {"text": codes[: cuts[0]]})], [CONTRACT])
    store = EntityStore(path)
    asked = np.array(others + list(items)[::2] + others + list(items), np.int64)
    for step, known in enumerate((cuts[0], cuts[1], cuts[1], len(ids), len(ids))):
        if step in (1, 3):
            store.append(ids[:known], {"text": codes[:known]}, [CONTRACT])
        elif step:
            store.fold()
        stored = {int(item): tuple(row.tolist()) for item, row in zip(ids[:known], codes[:known], strict=True)}
        for reader in (store, EntityStore(path)):
            answer = reader.lookup(asked)
            assert answer.codes.dtype == np.uint16
            assert [tuple(row) for row in answer.codes.tolist()] == [stored.get(item, (UNKNOWN_CODE,) * 3) for item in asked.tolist()]
            assert answer.misses == sum(item not in stored for item in asked.tolist())
            assert [reader.get(item) for item in asked.tolist()] == [stored.get(item) for item in asked.tolist()]
        prefix = list(items.values())[-1][:2]
        assert store.items_with_prefix(prefix).tolist() == sorted(item for item, row in stored.items() if row[:2] == prefix)
    store.verify()
    assert open_snapshot(path).rows == len(ids)


def test_no_ids_give_no_codes(tmp_path: Path) -> None:
    publish_equal(tmp_path, 4, 1)
    answer = EntityStore(tmp_path).lookup(np.array([], np.int64))
    assert answer.codes.shape == (0, 3)
    assert answer.misses == 0


def test_a_snapshot_stays_and_the_store_follows(tmp_path: Path) -> None:
    assert publish_equal(tmp_path, 4, 1) == "v000001"
    pinned, following = open_snapshot(tmp_path), open_store(tmp_path)
    assert publish_equal(tmp_path, 9, 2) == "v000002"
    assert (pinned.lookup(np.arange(9)).misses, following.lookup(np.arange(9)).misses) == (5, 0)
    assert (following.version, following.contract()) == ("v000002", CONTRACT)
    assert open_snapshot(tmp_path, "v000001").get(0) == (1, 1, 1)
    publish_equal(tmp_path, 9, 3)
    assert versions(tmp_path) == ["v000002", "v000003"]
    assert pinned.lookup(np.arange(4)).codes.tolist() == [[1, 1, 1]] * 4  # its files are gone by name, not for it
    assert publish_equal(tmp_path, 9, 4, keep=3) == "v000004"
    assert versions(tmp_path) == ["v000002", "v000003", "v000004"]


def test_the_same_contents_again_are_no_new_version(tmp_path: Path) -> None:
    assert publish_equal(tmp_path, 9, 1) == "v000001"
    assert publish_equal(tmp_path, 9, 1) == "v000001"
    assert versions(tmp_path) == ["v000001"]
    store = EntityStore(tmp_path)
    assert store.fold() == "v000001"
    store.append(np.arange(5), {"text": np.ones((5, 3), np.uint16)}, [CONTRACT])
    assert fold(tmp_path) == "v000001"


def _publish_many(path: Path, numbers: range, together: Barrier) -> None:
    together.wait()
    for number in numbers:
        publish_equal(path, 2000 + number, number)


def test_readers_see_whole_versions_while_two_processes_publish(tmp_path: Path) -> None:
    publish_equal(tmp_path, 2000, 0)
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    writers = [spawn.Process(target=_publish_many, args=(tmp_path, numbers, together)) for numbers in (range(1, 11), range(11, 21))]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        snapshot = open_snapshot(tmp_path)
        values = np.unique(snapshot.codes["text"])
        assert len(values) == 1
        assert snapshot.rows == 2000 + values[0]
        seen.add(snapshot.path.name)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(seen) > 2
    assert versions(tmp_path) == ["v000020", "v000021"]


def test_what_a_killed_publisher_left_disturbs_nobody_and_is_removed(tmp_path: Path) -> None:
    publish_equal(tmp_path, 4, 1)
    for left in (".v000002.tmp", ".v000000.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "ids.npy").write_bytes(b"half")
    (tmp_path / ".CURRENT.1.tmp").write_bytes(b"v0")
    assert EntityStore(tmp_path).version == "v000001"
    assert publish_equal(tmp_path, 5, 2) == "v000002"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "CURRENT", "v000001", "v000002"]


def test_every_changed_bit_of_current_is_found(tmp_path: Path) -> None:
    publish_equal(tmp_path, 4, 1)
    publish_equal(tmp_path, 5, 2)
    pointer = tmp_path / "CURRENT"
    whole = pointer.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        pointer.write_bytes(damaged)
        with pytest.raises(InputError, match=str(tmp_path)):
            open_snapshot(tmp_path)
    pointer.write_bytes(whole)
    assert EntityStore(tmp_path).version == "v000002"


def test_damage_to_a_new_version_is_found_when_the_store_follows(tmp_path: Path) -> None:
    publish_equal(tmp_path, 1000, 1)
    store = EntityStore(tmp_path)
    publish_equal(tmp_path, 1000, 2)
    file = tmp_path / "v000002" / "codes-text.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"v000002/codes-text\.npy: sha256 differs"):
        store.lookup(np.arange(5))
    file.write_bytes(whole)
    assert store.lookup(np.arange(5)).codes[0, 0] == 2


def test_a_missing_store_or_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no entity store here"):
        EntityStore(tmp_path)
    publish_equal(tmp_path, 4, 1)
    with pytest.raises(InputError, match=r"v000009.*no such file"):
        open_snapshot(tmp_path, "v000009")


@pytest.mark.parametrize(
    ("ids", "codes", "message"),
    [
        ([5, 7, 5], [[0, 0, 0], [0, 0, 0], [0, 0, 1]], "item id 5 has two Semantic IDs"),
        ([], np.zeros((0, 3)), "no items"),
        ([1], [[0, 256, 0]], "do not fit codebook_size 256"),
        ([1], [[0, 1]], "do not fit levels 3"),
    ],
)
def test_unfit_items_are_refused_and_nothing_is_published(tmp_path: Path, ids: list[int], codes: Any, message: str) -> None:
    given_items = [(np.array(ids, np.int64), {"text": np.array(codes, np.uint16)})]
    with pytest.raises(InputError, match=message):
        publish(tmp_path, given_items, [CONTRACT])
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]
    publish_equal(tmp_path, 4, 1)
    if ids:
        with pytest.raises(InputError, match=message.replace("5 has two Semantic IDs", "5 has Semantic ID .* in the same call")):
            EntityStore(tmp_path).append(*given_items[0], [CONTRACT])
    assert EntityStore(tmp_path).lookup(np.arange(9)).misses == 5


def test_sources_are_published_apart_and_appended_together(tmp_path: Path) -> None:
    ids = np.arange(40)
    text, image = np.full((40, 3), 7), np.full((40, 2), 9)
    publish(tmp_path, [(ids[:20], {"text": text[:20]})], [CONTRACT])
    publish(tmp_path, [(ids[10:25], {"image": image[10:25]})], [IMAGE])
    store = EntityStore(tmp_path)
    store.append(ids[25:30], {"text": text[25:30], "image": image[25:30]}, [CONTRACT, IMAGE])
    store.append(ids[30:], {"image": image[30:]}, [IMAGE])
    for _ in range(2):
        assert (store.lookup(ids, "text").misses, store.lookup(ids, "image").misses) == (15, 10)
        assert (store.get(3, "image"), store.get(12, "text"), store.get(26, "image")) == (None, (7, 7, 7), (9, 9))
        together = store.lookups(ids[::-1], ["image", "text"])
        for found, source in zip(together, ("image", "text"), strict=True):
            assert np.array_equal(found.codes, store.lookup(ids[::-1], source).codes)
            assert found.misses == store.lookup(ids, source).misses
        assert store.items_with_prefix([9], "image").tolist() == list(range(10, 40))
        store.verify()
        store.fold()
    # A source that is published again keeps the other one's items.
    publish(tmp_path, [(ids[:5], {"text": text[:5]})], [REFRESHED])
    assert (store.lookup(ids, "text").misses, store.lookup(ids, "image").misses) == (35, 10)
    with pytest.raises(InputError, match="say which source is meant; it has image, text"):
        store.lookup(ids)


def test_a_published_semantic_id_is_never_changed_by_an_append(tmp_path: Path) -> None:
    publish_equal(tmp_path, 5, 1)
    store = EntityStore(tmp_path)
    store.append(np.array([7]), {"text": np.array([[4, 5, 6]])}, [CONTRACT])
    for item, codes in ((3, r"\(1, 1, 1\)"), (7, r"\(4, 5, 6\)")):
        with pytest.raises(InputError, match=rf"item id {item} has Semantic ID {codes} of 'text' in .*, not \(9, 9, 9\): once published"):
            store.append(np.array([100, item]), {"text": np.full((2, 3), 9)}, [CONTRACT])
    assert store.get(100) is None
    with pytest.raises(InputError, match=r"item id 7 has Semantic ID \(2, 2, 2\) of 'text' in the new version, not \(4, 5, 6\)"):
        publish_equal(tmp_path, 8, 2)
    assert store.version == "v000001"


def test_a_refreshed_codebook_must_bring_the_appended_items_along(tmp_path: Path) -> None:
    publish_equal(tmp_path, 5, 1)
    store = EntityStore(tmp_path)
    store.append(np.arange(3, 9), {"text": np.ones((6, 3), np.uint16)}, [CONTRACT])
    with pytest.raises(InputError, match=r"2 appended items, the first 7, are not in .* codebook c0de generation 1 of 'text' by beef gen"):
        publish(tmp_path, [(np.arange(7), {"text": np.full((7, 3), 2)})], [REFRESHED])
    assert store.lookup(np.arange(9)).misses == 0
    publish(tmp_path, [(np.arange(9), {"text": np.full((9, 3), 2)})], [REFRESHED])
    assert (store.lookup(np.arange(9)).codes == 2).all()
    store.append(np.array([9]), {"text": np.full((1, 3), 2)}, [REFRESHED])
    assert (store.lookup(np.arange(10)).codes == 2).all()
    with pytest.raises(InputError, match=r"codebook_hash is 'beef' in .* but 'c0de' in the items to append"):
        store.append(np.array([10]), {"text": np.ones((1, 3), np.uint16)}, [CONTRACT])


def test_a_contract_mismatch_names_both_sides(tmp_path: Path) -> None:
    publish_equal(tmp_path, 4, 1)
    with pytest.raises(InputError, match="codebook_hash is 'c0de' in the store but 'beef' in the checkpoint"):
        EntityStore(tmp_path).contract().require_same(REFRESHED, "the store", "the checkpoint")


def test_a_contract_is_read_with_its_types() -> None:
    assert SidContract.from_json(CONTRACT.to_json(), "here") == CONTRACT
    for change in ({"levels": "3"}, {"generation": None}, {"codebook_hash": 5}, {"colour": 1}):
        with pytest.raises(InputError, match="here: not a Semantic ID contract"):
            SidContract.from_json(CONTRACT.to_json() | change, "here")


def test_readers_of_one_version_need_neither_lmdb_nor_redis_nor_torch(tmp_path: Path) -> None:
    publish_equal(tmp_path, 4, 1)
    code = f"""
import sys
for name in ("lmdb", "redis", "torch"):
    sys.modules[name] = None
import numpy as np
from pathlib import Path
from features.enrich import enrich
from features.entity_store import open_store
from features.store.versions import open_snapshot
path = Path({str(tmp_path)!r})
assert open_snapshot(path).lookup(np.arange(5)).misses == open_store(path).lookup(np.arange(5)).misses == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)
