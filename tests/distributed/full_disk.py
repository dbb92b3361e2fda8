"""A store on a file system without space left, as a program: fills the folder it is given, and checks that nothing is lost.

Run in a folder of a few megabytes of its own. Ends with exit code 0 if all held.
"""

import sys
from pathlib import Path

import numpy as np

from features.entity_store import EntityStore
from features.errors import InputError
from features.semantic_id import SidContract
from features.store.publish import publish
from features.store.versions import open_snapshot

CONTRACT = SidContract(levels=3, codebook_size=256, codebook_hash="c0de", source="text", generation=1)
BATCH = 2000


def codes_of(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 251, ids // 251 % 251, ids // 63001 % 251], axis=1).astype(np.uint16)


def refusal(action: object, *arguments: object) -> str:
    """What the InputError of `action` says."""
    assert callable(action)
    try:
        action(*arguments)
    except InputError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def main(folder: Path) -> None:
    path, ballast = folder / "store", folder / "ballast"
    publish(path, [(np.arange(BATCH), {"text": codes_of(np.arange(BATCH))})], [CONTRACT])
    ballast.write_bytes(bytes(7 << 20))
    store, acknowledged = EntityStore(path), BATCH

    def append() -> None:
        nonlocal acknowledged
        ids = np.arange(acknowledged, acknowledged + BATCH)
        store.append(ids, {"text": codes_of(ids)}, [CONTRACT])
        acknowledged += BATCH

    def check() -> None:
        ids = np.arange(acknowledged + BATCH)
        for reader in (store, EntityStore(path)):
            reader.verify()
            answer = reader.lookup(ids)
            assert answer.misses == BATCH, f"{answer.misses} of {BATCH} missing"
            assert np.array_equal(answer.codes[:acknowledged], codes_of(ids[:acknowledged]))

    said = ""
    while not said and acknowledged < 10**6:
        try:
            append()
        except InputError as error:
            said = str(error)
    assert "No space left on device" in said, said
    assert str(path / "delta") in said, said
    check()
    version = open_snapshot(path).path.name
    for said in (refusal(store.fold), refusal(publish, path, [(np.arange(10**6), {"text": codes_of(np.arange(10**6))})], [CONTRACT])):
        assert "No space left on device" in said, said
        assert str(path) in said, said
    assert open_snapshot(path).path.name == version
    check()
    ballast.unlink()
    append()
    check()
    assert store.fold() != version
    check()
    print(f"{acknowledged} items kept")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
