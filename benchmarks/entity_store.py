"""The entity store's look-ups and builds on one thread, beside LMDB, DuckDB and sorted arrays on the same ids.

Bars: 5M items, >= 5M ids/s in bulk and p99 < 10 us for a point read of a published item; 100M items built in memory that does not grow with
them and read at >= 2M ids/s; files that look-up maps within 20% of 8 + 2 L bytes an item. L = 3, K = 2048; batches of 100k random ids, 95%
of them present.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
from _entity_store_others import DuckDb, Lmdb, Sorted
from _figures import Row, arguments, median_seconds, row, show
from numpy.typing import NDArray

from features.entity_store import EntityStore
from features.ids import mix64
from features.semantic_id import SidContract
from features.store.publish import publish
from features.store.snapshot import Snapshot
from features.store.snapshot_writer import SnapshotWriter
from features.store.versions import CURRENT

Ids = NDArray[np.int64]
Reads = dict[str, tuple[Callable[[int], object], list[int]]]  # how one item is read, and which ones
CONTRACT = SidContract(levels=3, codebook_size=2048, codebook_hash="benchmark", source="text", generation=1)
RAW = 8 + 2 * CONTRACT.levels
BATCH, PRESENT = 100_000, 0.95
APPENDED = 10_000
POINT_READS = 20_000


def main() -> None:
    """Print the table."""
    options = arguments(__doc__ or "")
    items, many, memory_items = (1_000_000, 5_000_000, 200_000) if options.small else (5_000_000, 100_000_000, 4_000_000)
    with tempfile.TemporaryDirectory(prefix="entity_store_") as folder:
        rows = _beside_others(items, Path(folder), rounds=3 if options.small else 7)
    with tempfile.TemporaryDirectory(prefix="entity_store_") as folder:
        rows += _many(many, memory_items, Path(folder))
    show("entity store, one thread", rows, options.json)


def _items(start: int, end: int) -> tuple[Ids, NDArray[np.uint16]]:
    """The items numbered from `start`: ids and codes are hashes of the number."""
    ids = mix64(np.arange(start, end, dtype=np.uint64) ^ np.uint64(0x5EED)).view(np.int64)
    return ids, _codes(ids)


def _codes(ids: Ids) -> NDArray[np.uint16]:
    bits = ids.view(np.uint64)
    return np.stack([bits >> np.uint64(shift) & np.uint64(2047) for shift in (1, 17, 40)], axis=1).astype(np.uint16)


def _batches(items: int, count: int) -> list[Ids]:
    """Batches of ids, `PRESENT` of which are among the first `items`."""
    numbers = np.random.default_rng(0).integers(0, int(items / PRESENT), (count, BATCH)).astype(np.uint64)
    return list(mix64(numbers ^ np.uint64(0x5EED)).view(np.int64))


def _each(lookup: Callable[[Ids], object], batches: list[Ids]) -> None:
    for batch in batches:
        lookup(batch)


def _beside_others(items: int, folder: Path, rounds: int) -> list[Row]:
    ids, codes = _items(0, items)
    publish(folder / "store", [(ids, {"text": codes})], [CONTRACT])
    store = EntityStore(folder / "store")
    new, new_codes = _items(2 * items, 2 * items + APPENDED)
    store.append(new, {"text": new_codes}, [CONTRACT])
    snapshot, others, table, arrays = store.snapshot(), Lmdb(folder / "lmdb", ids, codes), DuckDb(ids, codes), Sorted(ids, codes)
    batches = _batches(items, 10)
    lookups: dict[str, Callable[[Ids], NDArray[np.uint16]]] = {
        "snapshot": lambda ids: snapshot.lookup(ids).codes,
        "store": lambda ids: store.lookup(ids).codes,
        "LMDB, get": others.lookup,
        "LMDB, getmulti": others.lookup_multi,
        "DuckDB, join": table.lookup,
        "sorted arrays, sorted queries": arrays.lookup,
    }
    right = arrays.lookup(batches[0])
    for name, lookup in lookups.items():
        if not np.array_equal(lookup(batches[0]), right):
            raise AssertionError(f"{name} gives other codes")
    seconds = median_seconds({name: partial(_each, lookup, batches) for name, lookup in lookups.items()}, rounds)
    rates = {name: len(batches) * BATCH / taken for name, taken in seconds.items()}
    size = f"{items // 1_000_000}M items"
    ours = rates["snapshot"]
    rows = [
        row(f"{size}, bulk, snapshot (of {name})", ours, "ids/s", baseline=rates[name], bar=">= 5M ids/s", holds=ours >= 5e6)
        for name in list(lookups)[2:]
    ]
    delta = f"{size}, bulk, store with {APPENDED:,} items in its delta (of snapshot)"
    rows.append(row(delta, rates["store"], "ids/s", baseline=ours))
    pointer = str(folder / "store" / CURRENT)
    present = ids[np.random.default_rng(1).integers(0, items, POINT_READS)].tolist()
    reads: Reads = {
        "snapshot": (snapshot.get, batches[0][:POINT_READS].tolist()),
        "store, items of its version": (store.get, present),
        "store, items of its delta": (store.get, new.tolist()),
        # The share of the two above that is the kernel's: how a store that is open learns of a new version.
        "a stat of the store's pointer alone": (lambda _: os.stat(pointer), present),
        "LMDB": (others.get, batches[0][:POINT_READS].tolist()),
    }
    return rows + _point_reads(size, reads, rounds) + _sizes(size, snapshot)


def _point_reads(size: str, reads: Reads, rounds: int) -> list[Row]:
    measured: dict[str, list[float]] = {name: [] for name in reads}
    for _ in range(rounds):
        for name, (get, ids) in reads.items():
            measured[name].append(_p99_us(get, ids))
    medians = {name: float(np.median(values)) for name, values in measured.items()}
    rows = []
    for name, p99 in medians.items():
        title = f"{size}, point read p99, {name} (of LMDB)"
        if "delta" in name or "stat" in name:
            rows.append(row(title, p99, "us", baseline=medians["LMDB"]))
        elif name != "LMDB":
            rows.append(row(title, p99, "us", baseline=medians["LMDB"], bar="< 10 us", holds=p99 < 10))
    return rows


def _p99_us(get: Callable[[int], object], ids: list[int]) -> float:
    clock, taken = time.perf_counter_ns, []
    for item in ids:
        started = clock()
        get(item)
        taken.append(clock() - started)
    return float(np.percentile(taken, 99)) / 1000


def _sizes(size: str, snapshot: Snapshot) -> list[Row]:
    mapped = (snapshot.ids.nbytes + snapshot.directory.nbytes + snapshot.codes["text"].nbytes) / snapshot.rows
    reverse = snapshot.by_prefix["text"].nbytes / snapshot.rows
    return [
        row(f"{size}, mapped for look-up (of raw 8 + 2 L)", mapped, "B/item", baseline=RAW, bar="<= 1.2 x", holds=mapped <= 1.2 * RAW),
        row(f"{size}, mapped for reverse look-up besides", reverse, "B/item"),
    ]


def _many(items: int, memory_items: int, folder: Path) -> list[Row]:
    _, tenth_mib = _built(items // 10, memory_items, folder / "tenth")
    seconds, mib = _built(items, memory_items, folder / "whole")
    snapshot = Snapshot.open(folder / "whole")
    batches = _batches(items, 20)
    for batch in batches:
        found = snapshot.lookup(batch).codes
        if not ((found == _codes(batch)).all(axis=1) | (found == 65535).all(axis=1)).all():
            raise AssertionError("wrong codes")
    taken = median_seconds({"lookup": partial(_each, snapshot.lookup, batches)}, 5)["lookup"]
    rate = len(batches) * BATCH / taken
    size = f"{items // 1_000_000}M items"
    return [
        row(f"{size}, build", items / seconds, "items/s"),
        row(
            f"{size}, build, peak memory (of a tenth of the items)",
            mib,
            "MiB",
            baseline=tenth_mib,
            bar="<= 1.2 x",
            holds=mib <= 1.2 * tenth_mib,
        ),
        row(f"{size}, bulk, snapshot", rate, "ids/s", bar=">= 2M ids/s", holds=rate >= 2e6),
    ]


def _built(items: int, memory_items: int, path: Path) -> tuple[float, float]:
    """Build in a process of its own: seconds, and peak memory in MiB."""
    context = multiprocessing.get_context("spawn")
    figures: Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=_build, args=(items, memory_items, path, figures))
    process.start()
    answer = figures.get()
    process.join()
    return answer


def _build(items: int, memory_items: int, path: Path, figures: "Queue[tuple[float, float]]") -> None:
    started = time.perf_counter()
    with SnapshotWriter(path, {"text": CONTRACT}, memory_items=memory_items) as writer:
        for start in range(0, items, BATCH):
            ids, codes = _items(start, min(start + BATCH, items))
            writer.add(ids, {"text": codes})
    # Of this process alone: getrusage's figure has its parent's in it.
    peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    figures.put((time.perf_counter() - started, int(peak) / 1024))


if __name__ == "__main__":
    main()
