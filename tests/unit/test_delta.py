"""The delta of the entity store: flipped bits, the limit, records against zlib, forks, and what other codebooks may not do."""

import os
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.entity_store import EntityStore
from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store import records
from features.store.delta import make_delta
from features.store.publish import publish

CONTRACT = SidContract(levels=3, codebook_size=256, codebook_hash="c0de", source="text", generation=1)
REFRESHED = SidContract(levels=3, codebook_size=256, codebook_hash="beef", source="text", generation=2)
IDS = np.random.default_rng(0).permutation(np.arange(-1500, 1500)) * 7_000_000_000_000
CODES = np.random.default_rng(1).integers(0, 256, (3000, 3)).astype(np.uint16)
INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    """Items 0 to 99 published, 100 to 1599 appended."""
    publish(tmp_path, [(IDS[:100], {"text": CODES[:100]})], [CONTRACT])
    opened = EntityStore(tmp_path)
    opened.append(IDS[100:1600], {"text": CODES[100:1600]}, [CONTRACT])
    return opened


@given(st.lists(INT64, min_size=1, unique=True), st.integers(0, 254), st.integers(1, 9))
def test_records_are_ordered_as_their_ids_and_carry_zlibs_crc(items: list[int], source: int, levels: int) -> None:
    ids = np.array(items)
    codes = np.random.default_rng(0).integers(0, 65535, (len(ids), levels)).astype(np.uint16)
    keys = records.key_rows(source, ids)
    packed, values = records.as_bytes(keys), records.as_bytes(records.value_rows(keys, codes))
    assert packed == [records.key_of(source, item) for item in items]
    assert [packed.index(key) for key in sorted(packed)] == np.argsort(ids).tolist()
    for key, value, row in zip(packed, values, codes.tolist(), strict=True):
        assert value == b"".join(code.to_bytes(2, "big") for code in row) + zlib.crc32(key + value[:-4]).to_bytes(4, "big")
        assert records.codes_of_one(key, value, levels, "here") == tuple(row)
    assert np.array_equal(records.ids_of(keys), ids)
    assert np.array_equal(records.codes_of(keys, values, levels, "here"), codes)


def test_each_of_1000_flipped_bits_in_records_is_found(store: EntityStore, tmp_path: Path) -> None:
    keys = records.key_rows(0, IDS[100:1600])
    pairs = list(zip(records.as_bytes(keys), records.as_bytes(records.value_rows(keys, CODES[100:1600])), strict=True))
    file = tmp_path / "delta" / "data.mdb"
    whole = file.read_bytes()
    generator = np.random.default_rng(2)
    found = told = 0
    with file.open("r+b", buffering=0) as handle:
        for index, bit in zip(generator.integers(0, 1500, 1000).tolist(), generator.integers(0, 8 * 19, 1000).tolist(), strict=True):
            # Pages that no reader sees any more, and unused parts of others, may hold copies: the bit is flipped in all.
            places = [match.start() + bit // 8 for match in re.finditer(re.escape(b"".join(pairs[index])), whole)]
            for at in places:
                handle.seek(at)
                handle.write(bytes([whole[at] ^ 1 << bit % 8]))
            with pytest.raises(InputError, match=r"data\.mdb: (the record of item -?\d+ is damaged|damaged, it holds)"):
                store.verify()
            found += 1
            if bit >= 8 * records.KEY_BYTES:
                item = int(IDS[100 + index])
                for read in (lambda item=item: store.get(item), lambda item=item: store.lookup(np.array([item]))):
                    with pytest.raises(InputError, match=f"the record of item {item} is damaged"):
                        read()
                told += 1
            for at in places:
                handle.seek(at)
                handle.write(whole[at : at + 1])
    assert found == 1000
    assert told > 400
    store.verify()
    assert store.lookup(IDS).misses == 1400


def test_damage_to_what_describes_the_delta_is_found(store: EntityStore, tmp_path: Path) -> None:
    file = tmp_path / "delta" / "data.mdb"
    whole = file.read_bytes()
    at = whole.rindex(b'{"base": 1, "items": 1500')
    for offset in range(-4, 40):
        with file.open("r+b", buffering=0) as handle:
            handle.seek(at + offset)
            handle.write(bytes([whole[at + offset] ^ 4]))
        with pytest.raises(InputError, match=r"data\.mdb: damaged, the checksum of the record that describes it differs"):
            store.lookup(IDS)
        file.write_bytes(whole)


def test_a_full_delta_is_told_keeps_everything_and_can_be_folded(tmp_path: Path) -> None:
    publish(tmp_path, [(IDS[:1], {"text": CODES[:1]})], [CONTRACT])
    store, limit = EntityStore(tmp_path, delta_limit=1 << 16), 1 << 16
    appended = 1
    with pytest.raises(InputError, match=rf"delta/data\.mdb: the delta is full, its records may take {limit:,} bytes; fold it"):
        for appended in range(1, 3000, 10):
            store.append(IDS[appended : appended + 10], {"text": CODES[appended : appended + 10]}, [CONTRACT])
    assert appended > 700
    many = np.arange(10**5)
    with pytest.raises(InputError, match="the delta is full"):  # more than LMDB's map holds
        store.append(many + 1, {"text": CODES[many % 3000]}, [CONTRACT])
    for reader in (store, EntityStore(tmp_path)):
        reader.verify()
        answer = reader.lookup(IDS)
        assert answer.misses == 3000 - appended
        assert np.array_equal(answer.codes[:appended], CODES[:appended])
    store.fold()
    store.append(IDS[appended : appended + 500], {"text": CODES[appended : appended + 500]}, [CONTRACT])
    assert store.lookup(IDS).misses == 2500 - appended
    assert (tmp_path / "delta" / "data.mdb").stat().st_size <= 4 * limit


def test_items_of_another_contract_are_refused_naming_both(store: EntityStore) -> None:
    for field, value in (("codebook_hash", "beef"), ("levels", 4), ("codebook_size", 300), ("generation", 2)):
        other = SidContract(**{**CONTRACT.to_json(), field: value})
        codes = np.zeros((1, other.levels), np.uint16)
        with pytest.raises(InputError, match=rf"{field} is .* in .* but '?{value}'? in the items to append"):
            store.append(np.array([5]), {"text": codes}, [other])
    with pytest.raises(InputError, match="there is no source 'image'"):
        store.append(np.array([5]), {"image": codes[:, :3]}, [SidContract(3, 256, "1", "image", 1)])
    assert store.get(5) is None


def test_a_delta_of_another_codebook_is_refused_naming_both(store: EntityStore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    publish(other, [(IDS[:100], {"text": CODES[:100]})], [REFRESHED])
    shutil.copytree(tmp_path / "delta", other / "delta")
    with pytest.raises(InputError, match=r"codebook_hash is 'beef' in .*v000001 but 'c0de' in .*delta/data\.mdb"):
        EntityStore(other).lookup(IDS)


def test_a_forked_child_reads_and_appends_on_its_own(store: EntityStore) -> None:
    child = os.fork()
    if child == 0:
        try:
            store.append(IDS[1600:1700], {"text": CODES[1600:1700]}, [CONTRACT])
            os._exit(0 if store.lookup(IDS).misses == 1300 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    store.append(IDS[1700:1800], {"text": CODES[1700:1800]}, [CONTRACT])
    assert store.lookup(IDS).misses == 1200
    store.verify()


def test_a_publisher_killed_between_its_two_steps_leaves_a_store_that_reads_and_appends(tmp_path: Path) -> None:
    """CURRENT names the refreshed version, and the delta still has the old codes: its view of before the publish is put back."""
    publish(tmp_path, [(IDS[:10], {"text": CODES[:10]})], [CONTRACT])
    store = EntityStore(tmp_path)
    store.append(IDS[10:20], {"text": CODES[10:20]}, [CONTRACT])
    del store
    before = (tmp_path / "delta" / "data.mdb").read_bytes()
    publish(tmp_path, [(IDS[:20], {"text": CODES[:20] ^ 1})], [REFRESHED])
    (tmp_path / "delta" / "data.mdb").write_bytes(before)
    store = EntityStore(tmp_path)
    answer = store.lookup(IDS[:30])
    assert answer.misses == 10
    assert np.array_equal(answer.codes[:20], CODES[:20] ^ 1)
    assert answer.codes[25].tolist() == [UNKNOWN_CODE] * 3
    store.append(IDS[20:25], {"text": CODES[20:25]}, [REFRESHED])
    store.verify()
    assert store.lookup(IDS[:30]).misses == 5
    delta = make_delta(tmp_path, 1 << 20)
    with delta.reading() as view:
        assert (view.base, view.items, view.contracts) == (2, 5, {"text": REFRESHED})
