"""The entity store under faults, with real processes: kills at any moment, readers while versions come and go, and a full file system."""

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.entity_store import EntityStore
from features.semantic_id import UNKNOWN_CODE, SidContract
from features.store.publish import publish

TEXT = SidContract(levels=3, codebook_size=256, codebook_hash="c0de", source="text", generation=1)
IMAGE = SidContract(levels=2, codebook_size=256, codebook_hash="1mg", source="image", generation=1)
BATCH = 20
MARK = struct.Struct("<cq")  # what the killed process was about to do or had done, and a number
ROUNDS = 200


def codes_of(ids: np.ndarray, levels: int = 3) -> np.ndarray:
    """Codes that anybody can tell from the id, so that every reader can check them."""
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.stack([(mixed >> np.uint64(8 * level + 16)) & np.uint64(255) for level in range(levels)], axis=1).astype(np.uint16)


def write_until_killed(path: Path, first: int, marks: int) -> None:
    """Append batches from id `first` on, fold and publish now and then; a mark before and after each."""

    def marked(kind: bytes, number: int, action: Callable[[], object]) -> None:
        os.write(marks, MARK.pack(kind, number))
        action()
        os.write(marks, MARK.pack(kind.upper(), number))

    store = EntityStore(path)
    for number in count():
        ids = np.arange(first + number * BATCH, first + (number + 1) * BATCH)
        marked(b"a", ids[0], lambda ids=ids: store.append(ids, {"text": codes_of(ids)}, [TEXT]))  # type: ignore[misc]
        if number % 4 != 3:
            continue
        if (first // 10**6 + number // 4) % 2:
            marked(b"f", number, store.fold)
        else:
            some = np.arange(number + 1)
            marked(b"p", number, lambda some=some: publish(path, [(some, {"image": codes_of(some, 2)})], [IMAGE]))  # type: ignore[misc]


def killed_after(seconds: float, path: Path, first: int) -> list[tuple[bytes, int]]:
    """The marks that a writer made before it was killed, `seconds` after its first."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_until_killed(path, first, write)
        finally:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as marks:
        begun = marks.read(MARK.size)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the writer ended by itself"
        return list(MARK.iter_unpack(begun + marks.read()))


@pytest.mark.slow
def test_200_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    publish(tmp_path, [(np.arange(BATCH), {"text": codes_of(np.arange(BATCH))})], [TEXT])
    chance, acknowledged, interrupted = random.Random(0), [np.arange(BATCH)], Counter[bytes]()
    for number in range(1, ROUNDS + 1):
        marks = killed_after(chance.uniform(0, 0.15), tmp_path, number * 10**6)
        acknowledged += [np.arange(first, first + BATCH) for kind, first in marks if kind == b"A"]
        last, first = marks[-1]
        interrupted[last] += 1
        store = EntityStore(tmp_path)
        store.verify()
        ids = np.concatenate(acknowledged)
        found = store.lookup(ids, "text")
        assert found.misses == 0, f"round {number}, killed in {last!r}: {found.misses} acknowledged items lost"
        assert np.array_equal(found.codes, codes_of(ids))
        if last == b"a":
            torn = np.arange(first, first + BATCH)
            codes = store.lookup(torn, "text").codes
            assert (codes == UNKNOWN_CODE).all() or np.array_equal(codes, codes_of(torn))
    print(f"{sum(map(len, acknowledged))} items acknowledged; killed in {dict(interrupted)}")
    assert sum(interrupted.values()) == ROUNDS
    for kind in (b"a", b"f", b"p"):
        assert interrupted[kind] >= 10, f"too few kills in {kind!r}: {interrupted}"
    assert len(list(tmp_path.glob("v*"))) <= 3, "the newest two, and one that a kill kept from becoming current or from being removed"


def publish_numbers(path: Path, numbers: range) -> None:
    ids = np.arange(1000)
    for number in numbers:
        contracts = [SidContract(3, 256, codebook_hash="c0de", source=source, generation=number) for source in ("text", "image")]
        publish(path, [(ids, {contract.source: np.full((1000, 3), number) for contract in contracts})], contracts)


def test_a_million_reads_across_100_publishes_each_of_one_version(tmp_path: Path) -> None:
    publish_numbers(tmp_path, range(1, 2))
    store, ids, reads, seen = EntityStore(tmp_path), np.random.default_rng(0).permutation(1000), 0, [1]
    publisher = get_context("fork").Process(target=publish_numbers, args=(tmp_path, range(2, 102)))
    publisher.start()
    while publisher.is_alive() or reads < 10**6:
        codes = np.concatenate([found.codes for found in store.lookups(ids, ["text", "image"])])
        assert (codes == codes[0, 0]).all(), f"a batch of two versions: {np.unique(codes)}"
        assert codes[0, 0] >= seen[-1], f"version {seen[-1]} came before {codes[0, 0]}"
        seen.append(int(codes[0, 0]))
        reads += len(ids)
    publisher.join()
    assert publisher.exitcode == 0
    print(f"{reads} reads saw {len(set(seen))} versions")
    assert len(set(seen)) > 50
    assert store.lookup(ids, "text").codes[0, 0] == 101


def append_and_fold(path: Path, batches: int, acknowledged: Any) -> None:
    store = EntityStore(path)
    for number in range(1, batches):
        ids = np.arange(number * BATCH, (number + 1) * BATCH)
        store.append(ids, {"text": codes_of(ids)}, [TEXT])
        acknowledged.value = ids[-1] + 1
        if number % 3 == 0:
            store.fold()


def test_appended_items_are_there_at_every_moment_of_a_fold(tmp_path: Path) -> None:
    publish(tmp_path, [(np.arange(BATCH), {"text": codes_of(np.arange(BATCH))})], [TEXT])
    fork = get_context("fork")
    acknowledged = fork.Value("q", BATCH)
    writer = fork.Process(target=append_and_fold, args=(tmp_path, 150, acknowledged))
    writer.start()
    store, reads = EntityStore(tmp_path), 0
    while writer.is_alive():
        ids = np.arange(acknowledged.value)
        answer = store.lookup(ids)
        assert answer.misses == 0
        assert np.array_equal(answer.codes, codes_of(ids))
        assert store.get(int(ids[-1])) == tuple(codes_of(ids[-1:])[0].tolist())
        reads += 1
    writer.join()
    assert writer.exitcode == 0
    assert reads > 100


def test_no_space_left_is_told_and_loses_nothing(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace of its own for a small tmpfs")
    mounted = 'mount -t tmpfs -o size=11m tmpfs "$0" && exec "$@"'
    program = [sys.executable, "-m", "tests.distributed.full_disk", str(tmp_path)]
    done = subprocess.run([unshare, "-rm", "sh", "-c", mounted, str(tmp_path), *program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "items kept" in done.stdout
