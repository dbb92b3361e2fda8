"""Enrichment from Parquet to training batches, and from Parquet to Parquet, beside Polars, DuckDB and pandas on the same files.

Bars: at least twice as fast as the fastest of them on the same work, on one core and on two; 10M history ids/s per core from Parquet to
KJT; with a hundred times as many rows, no less than four fifths of the rows/s and no more than 1.2 times the memory. About 50 history ids
a row, skewed as Zipf's law has it, 5% of them unknown to a store of 1M items; L = 3, K = 2048, prefix-ngram of depth 3 into 1M rows.

To KJT, ours makes the item KJT of 4096 rows at a time, sha256 and page checksums compared, by the parts of the training loader; the others
make its keys and lengths at once for all rows. What whole training batches take (ages, masks, labels and dense columns besides) stands
below. To Parquet, ours writes row groups of 8192 rows with page
checksums, and their sha256; the others write one file as their defaults have it, and do not wait for the disk. Two cores are two processes
of ours with half of the files each, whose start counts where stage enrich starts them (to Parquet), and two threads of the others; pandas
has but one. Each contestant is held to its cores. On cores that others use too, look at the processor time: the more threads a contestant
has there, such as that in which ours decodes ahead, the larger its share.
"""

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from os import sched_getaffinity
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from _enrich_data import LONGEST, repeat_impressions, write_impressions, write_store
from _enrich_worker import Worker
from _figures import Row, arguments, median_seconds, row, show

from features.dataset import open_dataset, read_table
from launch.components import PROCESS_ENV

BAR, IDS_BAR, RATE_BAR, MEMORY_BAR = 2, 10e6, 0.8, 1.2
OTHERS = {"Polars": ("Polars", (1, 2)), "DuckDB": ("DuckDb", (1, 2)), "pandas": ("Pandas", (1,))}  # class, and threads that it can use
BATCHES, COPYING, DECODING, WRITING = "whole batches of ours", "a copy of the bytes", "decoding alone", "writing alone"
TITLES = {"keys": "Parquet to KJT", "write": "Parquet to Parquet"}
CORES = sorted(sched_getaffinity(0))[:2]
Contestant = tuple[str, int]  # title and cores
Action = Callable[[], float]  # does a work once; processor seconds


class Seconds(NamedTuple):
    """Medians of each contestant."""

    clock: dict[Contestant, float]
    processor: dict[Contestant, float]


def main() -> None:
    """Print the table."""
    options = arguments(__doc__ or "")
    os.environ.update(PROCESS_ENV)  # of all contestants, as the components set it for a job's processes
    rows, items, rounds = (16_384, 100_000, 3) if options.small else (1 << 18, 1_000_000, 5)
    with tempfile.TemporaryDirectory(prefix="enrich_") as folder:
        figures = _beside_others(Path(folder), rows, items, rounds)
    with tempfile.TemporaryDirectory(prefix="enrich_") as folder:
        figures += _growth(Path(folder), items, *((10_000, (1, 10)) if options.small else (100_000, (1, 10, 100))))
    show(f"enrichment, {rows:,} rows, {items:,} items in the store", figures, options.json)


def _beside_others(folder: Path, rows: int, items: int, rounds: int) -> list[Row]:
    write_store(folder / "store", items)
    ids = write_impressions(folder / "impressions", rows, items, files=8)
    ours, theirs = folder / "ours", folder / "theirs"
    with ExitStack() as stack:
        first, second = (stack.enter_context(Worker("_enrich_to_kjt", "ToKjt", (folder,), on)) for on in (CORES[:1], CORES[-1:]))
        one, both = (stack.enter_context(Worker("_enrich_to_parquet", "ToParquet", (folder,), on)) for on in (CORES[:1], CORES))
        others = {
            (title, threads): stack.enter_context(Worker("_enrich_others", name, (folder, threads), CORES[:threads]))
            for title, (name, possible) in OTHERS.items()
            for threads in possible
        }
        _check(first, one, {title: other for (title, threads), other in others.items() if threads == 1}, ours, theirs)
        size, _ = first.ask("touched")
        keys: dict[Contestant, Action] = {("ours", 1): _asked(first, "keys"), ("ours", 2): partial(_halves, first, second)}
        keys |= {each: _asked(other, "keys") for each, other in others.items()}
        keys |= {(BATCHES, 1): _asked(first, "batches"), (COPYING, 1): _asked(first, "copy", size), (DECODING, 1): _asked(first, "decode")}
        figures = _figures("keys", rows, ids, _measured(keys, rounds))
        size, _ = one.ask("hold", ours)
        write: dict[Contestant, Action] = {("ours", 1): _asked(one, "write", ours, 1), ("ours", 2): _asked(both, "write", ours, 2)}
        write |= {each: _asked(other, "write", theirs) for each, other in others.items()}
        write |= {(COPYING, 1): _asked(one, "copy", size), (DECODING, 1): _asked(one, "decode"), (WRITING, 1): _asked(one, "encode")}
        return figures + _figures("write", rows, ids, _measured(write, rounds))


def _asked(worker: Worker, method: str, *arguments: object) -> Action:
    return lambda: worker.ask(method, *arguments)[1]


def _halves(first: Worker, second: Worker) -> float:
    first.start("keys", 0, 2)
    second.start("keys", 1, 2)
    return first.result()[1] + second.result()[1]


def _check(to_kjt: Worker, to_parquet: Worker, others: dict[str, Worker], ours: Path, theirs: Path) -> None:
    """All make the same keys and lengths, and write the same rows, those with empty histories among them."""
    digest, _ = to_kjt.ask("digest")
    to_parquet.ask("write", ours, 1)
    enriched = read_table(open_dataset(ours)).combine_chunks()
    if (enriched.column("history_item_ids").chunk(0).value_lengths().to_numpy() > 0).all():
        raise AssertionError("the log has no empty histories")
    for title, other in others.items():
        if other.ask("digest")[0] != digest:
            raise AssertionError(f"{title} makes other keys or lengths")
        other.ask("write", theirs)
        if not pq.read_table(theirs).cast(enriched.schema).equals(enriched):
            raise AssertionError(f"{title} writes other rows")


def _measured(actions: dict[Contestant, Action], rounds: int) -> Seconds:
    processor: dict[Contestant, list[float]] = {each: [] for each in actions}

    def noted(each: Contestant) -> None:
        processor[each].append(actions[each]())

    clock = median_seconds({str(each): partial(noted, each) for each in actions}, rounds)
    return Seconds({each: clock[str(each)] for each in actions}, {each: statistics.median(taken[1:]) for each, taken in processor.items()})


def _figures(work: str, rows: int, ids: int, seconds: Seconds) -> list[Row]:
    figures = []
    for cores in (1, 2):
        title, rate = f"{TITLES[work]}, {cores} core{'s' * (cores - 1)}", ids / seconds.clock["ours", cores]
        figures.append(row(title, rows / seconds.clock["ours", cores], "rows/s"))
        beside = {name: ids / taken for (name, on), taken in seconds.clock.items() if on == cores and name != "ours"}
        fastest = max(beside.keys() & OTHERS.keys(), key=lambda name: beside[name])
        for name, other in beside.items():
            bar = f">= {BAR} x the fastest" if name == fastest else ""
            figures.append(row(f"{title} (of {name})", rate, "ids/s", baseline=other, bar=bar, holds=rate >= BAR * other if bar else None))
        ours, theirs = (seconds.processor[name, cores] / ids * 1e9 for name in ("ours", fastest))
        figures.append(row(f"{title}, processor time (of that of {fastest})", ours, "ns/id", baseline=theirs))
        if work == "keys":
            bar = f">= {IDS_BAR / 1e6:.0f}M ids/s"
            figures.append(row(f"{title}, per core", rate / cores, "ids/s", bar=bar, holds=rate / cores >= IDS_BAR))
    return figures


def _growth(folder: Path, items: int, rows: int, factors: tuple[int, ...]) -> list[Row]:
    """Rows per processor second and peak memory; histories are shorter here, so that a hundred times the log fits on the disk."""
    write_store(folder / "store", items)
    write_impressions(folder / "once", rows, items, files=1, longest=LONGEST * 2 // 5)
    figures: list[Row] = []
    smallest: dict[str, tuple[float, float]] = {}
    for factor in factors:
        repeat_impressions(folder / "once", folder / "impressions", factor)
        times = 1 if factor == 100 else 3  # the longest is long enough
        measured = {
            "keys": _of_size(Worker("_enrich_to_kjt", "ToKjt", (folder,), CORES[:1]), times, "keys"),
            "write": _of_size(Worker("_enrich_to_parquet", "ToParquet", (folder,), CORES[:1]), times, "write", folder / "ours", 1),
        }
        for work, (seconds, mib) in measured.items():
            rate = factor * rows / seconds
            title = f"{TITLES[work]}, {factor * rows:,} rows"
            if work not in smallest:
                smallest[work] = rate, mib
                figures += [row(title, rate, "rows/processor s"), row(f"{title}, peak memory", mib, "MiB")]
                continue
            rate_0, mib_0 = smallest[work]
            fast, small = f">= {RATE_BAR} x", f"<= {MEMORY_BAR} x"
            figures += [
                row(f"{title} (of {rows:,})", rate, "rows/processor s", baseline=rate_0, bar=fast, holds=rate >= RATE_BAR * rate_0),
                row(f"{title}, peak memory (of {rows:,})", mib, "MiB", baseline=mib_0, bar=small, holds=mib <= MEMORY_BAR * mib_0),
            ]
        for name in ("impressions", "ours"):
            shutil.rmtree(folder / name)
    return figures


def _of_size(worker: Worker, times: int, method: str, *arguments: object) -> tuple[float, float]:
    """Processor seconds, and the process's peak memory in MiB."""
    with worker:
        return statistics.median(worker.ask(method, *arguments)[1] for _ in range(times)), worker.peak_mib()


if __name__ == "__main__":
    main()
