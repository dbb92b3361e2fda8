"""Parquet files damaged at random: whoever reads one gets the right rows or one clear error; no crash, no hang, no huge allocation.

`python -m tests.soak.mutations WORKDIR CASES [FIRST]` tries the seeds from FIRST on, in processes of their own, names those that fail,
and counts in its last line, as JSON, how the others ended. `python -m tests.soak.mutations WORKDIR 1 SEED` tries one again.
"""

import json
import re
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.dataset import MANIFEST, DatasetWriter, open_dataset, open_parquet, read_row_group, read_table
from features.engines import job as jobs
from features.engines.local import run_parts
from features.enrich import Additions
from features.errors import InputError
from features.location import Location
from features.reader import RowReader
from features.representation import Representation
from features.sources import canonical
from features.store.broadcast import StoreVersion
from tests.toy_log import write_toy_log

BATCH = 1000  # cases of one process
ROWS, PART_ROWS, GROUP_ROWS = 73, 40, 20  # two parts of unequal length, two row groups each
UNTOUCHED, JOBS = 50, 20  # every so many seeds: a file that is not damaged, a whole job
SECONDS = 120  # that a case may take, of which it needs a hundredth
ADDRESS_SPACE, RESIDENT = 8 << 30, 1 << 30  # bytes; a damaged count may ask for the one, which never becomes the other
ZSTD = bytes.fromhex("28b52ffd")  # a compressed page's body begins with it
HEADER = 32  # bytes, about what a page header takes
WITHOUT_CHECKSUMS: dict[str, dict[str, Any]] = {
    "zstd": {"compression": "zstd"},
    "uncompressed": {"compression": "none"},
    "snappy": {"compression": "snappy", "data_page_version": "2.0", "use_dictionary": False},
}
READ = ["timestamp", "history_item_ids", "name"]  # by row numbers
DAMAGE = ("flip", "flip", "flip", "overwrite", "overwrite", "truncate", "extend", "duplicate", "swap", "delete", "splice", "footer")
NO_PARQUET = "not a readable Parquet file"
TELLING = (
    rf": (missing or not the \d+ bytes|{NO_PARQUET}|sha256 differs from {MANIFEST}; ({NO_PARQUET}|row group \d+ cannot be|every row group))"
)


@dataclass(frozen=True)
class Original:
    """A file before it is damaged.

    Attributes:
        path, data, rows: where it lies, its bytes and what they hold.
        footer: the position where it begins.
        headers, others: int64, positions of the bytes of footer and page headers, and of all others.
        group: int8 [bytes], the row group of which a byte is in the body of a page, -1 for all others; for zstd alone.
    """

    path: Path
    data: bytes
    rows: pa.Table
    footer: int
    headers: np.ndarray
    others: np.ndarray
    group: np.ndarray

    @classmethod
    def of(cls, path: Path, rows: pa.Table) -> "Original":
        """A file that has at most two pages, of the dictionary and of the values, per column and row group."""
        data, metadata = path.read_bytes(), pq.read_metadata(path)
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        headers, group = [np.arange(footer, len(data))], np.full(len(data), -1, np.int8)
        for number in range(metadata.num_row_groups):
            for column in map(metadata.row_group(number).column, range(metadata.num_columns)):
                first = column.data_page_offset if column.dictionary_page_offset is None else column.dictionary_page_offset
                stops = sorted({first, column.data_page_offset, first + column.total_compressed_size})
                for start, stop in pairwise(stops):
                    headers.append(np.arange(start, min(start + HEADER, stop)))
                    group[stop if (body := data.find(ZSTD, start, stop)) < 0 else body : stop] = number
        found = np.unique(np.concatenate(headers))
        return cls(path, data, rows, footer, found, np.setdiff1d(np.arange(len(data)), found), group)

    def damaged(self, other: "Original", draw: np.random.Generator) -> bytes:
        """Its bytes with damage of a random kind, every other time in footer or page headers."""
        kind, data = DAMAGE[draw.integers(len(DAMAGE))], bytearray(self.data)
        places = self.headers if draw.random() < 0.5 else self.others
        first, second = np.sort(places[draw.integers(len(places), size=2)]).tolist()
        span = data[first : first + int(2 ** draw.uniform(0, 8))]
        if kind == "flip":
            for place in places[draw.integers(len(places), size=draw.integers(1, 9))]:
                data[place] ^= 1 << int(draw.integers(8))
        elif kind == "overwrite":
            data[first : first + len(span)] = (bytes(len(span)), b"\xff" * len(span), draw.bytes(len(span)))[draw.integers(3)]
        elif kind == "truncate":
            del data[first:]
        elif kind == "extend":
            data += draw.bytes(len(span)) if draw.random() < 0.5 else span
        elif kind == "duplicate":
            data[second:second] = span
        elif kind == "swap":
            span = span[: min(second - first, len(data) - second)]
            data[first : first + len(span)], data[second : second + len(span)] = data[second : second + len(span)], span
        elif kind == "delete":
            del data[first : first + len(span)]
        elif kind == "splice":
            data[first:] = other.data[first if draw.random() < 0.5 else first - len(data) :]
        else:
            data[self.footer :] = other.data[other.footer :]
        return bytes(data)

    def damaged_group(self, damaged: bytes) -> int | None:
        """The first damaged row group, where bodies of pages and nothing else are damaged."""
        if len(damaged) != len(self.data) or damaged == self.data:
            return None
        groups = self.group[np.frombuffer(self.data, np.uint8) != np.frombuffer(damaged, np.uint8)]
        return int(groups.min()) if groups.min() >= 0 else None


def write(workdir: Path) -> None:
    """Two data sets of ours, the same rows as others write them, and a store."""
    write_toy_log(workdir, rows=ROWS, items=30)
    rows = read_table(open_dataset(workdir / "impressions"))
    rows = rows.drop_columns(["past_impressions", "oracle_probability", "label_like", "context_country"])
    number = range(rows.num_rows)
    lists = [[i % 5, 7] * (i % 3) for i in number]
    further = {
        "context_tags": pa.array(lists, pa.list_(pa.int64())),
        "name": pa.array([None if i % 7 == 0 else f"title {i % 50}" for i in number]),
        "target_codes_image": pa.array([[i % 9, 2] for i in number], pa.list_(pa.uint16(), 2)),
        "history_codes_image": pa.array([None if i % 4 == 0 else lists[i] for i in number], pa.list_(pa.uint16())),
    }
    for name, column in further.items():
        rows = rows.append_column(name, column)
    with DatasetWriter(workdir / "logged", rows.schema, {}, rows_per_file=PART_ROWS, rows_per_group=GROUP_ROWS) as writer:
        writer.write(rows)
    enrich(workdir, workdir / "logged", workdir / "enriched")
    for part in (0, 1):
        for kind, options in WITHOUT_CHECKSUMS.items():
            pq.write_table(rows.slice(part * PART_ROWS, PART_ROWS), workdir / f"{kind}-{part}", row_group_size=GROUP_ROWS, **options)
        ids = np.unique(rows["item_id"].to_numpy())
        items = {"item_id": ids, "title": [f"title {i}" for i in ids], "text": [None if i % 5 == part else f"a text of {i}" for i in ids]}
        vectors = pa.array([[i / 3, part] for i in ids], pa.list_(pa.float32(), 2))
        pq.write_table(pa.table({**items, "vector_image": vectors}), workdir / f"items-{part}")
    (workdir / "raw" / "impressions").mkdir(parents=True)
    shutil.copy(workdir / "zstd-0", workdir / "raw" / "impressions" / "0.parquet")
    shutil.copy(workdir / "items-0", workdir / "raw" / "items.parquet")


def originals_of(workdir: Path) -> dict[str, list[Original]]:
    """What `write` has written, by data set or kind."""
    found = {}
    for name in ("logged", "enriched"):
        parts = [Path(open_dataset(workdir / name).part(part).path) for part in (0, 1)]
        found[name] = [Original.of(path, pq.read_table(path)) for path in parts]
    for kind in (*WITHOUT_CHECKSUMS, "items"):
        found[kind] = [Original.of(path, pq.read_table(path)) for path in (workdir / f"{kind}-0", workdir / f"{kind}-1")]
    return found


def enrich(workdir: Path, impressions: Path, output: Path) -> None:
    """The job on one process."""
    additions = Additions(("text",), (Representation("hashed", "random_hash", 97),))
    store = StoreVersion.current(workdir / "store")
    jobs.run(jobs.EnrichJob(open_dataset(impressions), Location.of(output), store, additions), run_parts, 1)


def check(workdir: Path, originals: dict[str, list[Original]], seed: int) -> Iterator[str]:
    """Damage files by a seed and read them; how each reading ended."""
    draw = np.random.default_rng(seed)
    name = "logged" if seed % JOBS == 0 or draw.random() < 0.5 else "enriched"
    part = int(draw.integers(2))
    original = originals[name][part]
    damaged = original.data if seed % UNTOUCHED == 0 else original.damaged(originals[name][1 - part], draw)
    with put(original.path, damaged), manifest_of(original, damaged, sized=draw.random() < 0.5):
        yield from (f"ours, {end}" for end in check_ours(originals[name], part, damaged))
        if seed % JOBS == 0:
            yield f"ours, by a job, {check_job(workdir, originals, original.path, harmless=damaged == original.data)}"
    impressions = workdir / "raw" / "impressions" / "0.parquet"
    with put(impressions, damaged):
        group, log = original.damaged_group(damaged), seed % 10 == 1
        yield from (f"with page checksums, {end}" for end in check_foreign(original, impressions, group, log=log))
    if seed % 2 == 0:
        kind = draw.choice([*WITHOUT_CHECKSUMS, "items"])
        place = workdir / "raw" / "items.parquet" if kind == "items" else impressions
        with put(place, originals[kind][0].damaged(originals[kind][1], draw)):
            yield from (f"without page checksums, {end}" for end in check_foreign(originals[kind][0], place, log=seed % 4 == 0))


@contextmanager
def put(path: Path, data: bytes) -> Iterator[None]:
    """Other bytes in a file, as long as the block lasts."""
    before = path.read_bytes()
    overwrite(path, data)
    try:
        yield
    finally:
        overwrite(path, before)


def overwrite(path: Path, data: bytes) -> None:
    """In place: a file system may wait for the disk where a file is first emptied."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def manifest_of(original: Original, damaged: bytes, *, sized: bool) -> AbstractContextManager[None]:
    """The manifest with the damaged file's size if `sized`; the sha256 stays."""
    manifest = original.path.parent / MANIFEST
    told = json.loads(manifest.read_text())
    for file in told["files"]:
        if sized and file["name"] == original.path.name:
            file["bytes"] = len(damaged)
    return put(manifest, json.dumps(told).encode())


def check_ours(parts: list[Original], part: int, damaged: bytes) -> Iterator[str]:
    """A data set with a damaged part: right rows, or an error that tells where the damage is."""
    path, harmless = parts[part].path, damaged == parts[part].data
    dataset = attempt(path, open_dataset, path.parent)
    whole = attempt(path, read_table, dataset)
    yield (end := verdict(whole, pa.concat_tables([each.rows for each in parts])))
    assert end == ("right" if harmless else "refused"), f"{end}: {whole}"
    assert harmless or re.search(TELLING, str(whole)), whole
    group = parts[part].damaged_group(damaged)
    if group is not None:
        assert f"row group {group} cannot be read" in str(whole), f"damaged in row group {group}: {whole}"
        yield "row group named"
    reader = attempt(path, RowReader, dataset, READ)
    for number, start, stop in ((0, 0, PART_ROWS), (1, PART_ROWS, ROWS)):
        end = verdict(attempt(path, RowReader.read, reader, start, stop), parts[number].rows.select(READ))
        yield f"{'the damaged' if number == part else 'another'} part by row numbers, {end}"
        allowed = ["right"] if harmless else ["refused"] if number == part else ["right", "refused"]
        assert end in allowed, f"part {number} by row numbers: {end}"


def check_job(workdir: Path, originals: dict[str, list[Original]], path: Path, *, harmless: bool) -> str:
    """A whole enrichment job over a data set of which the part in `path` may be damaged: the right output or none."""
    output = workdir / "output"
    try:
        told = attempt(path, enrich, workdir, path.parent, output)
        assert isinstance(told, InputError) != (output / MANIFEST).exists(), told
        end = verdict(told or read_table(open_dataset(output)), pa.concat_tables([each.rows for each in originals["enriched"]]))
        assert end == ("right" if harmless else "refused"), f"the output of a job: {end}"
        return end
    finally:
        shutil.rmtree(output, ignore_errors=True)


def check_foreign(original: Original, path: Path, group: int | None = None, *, log: bool) -> Iterator[str]:
    """A file without a manifest: an error of one line at worst, which names the row group where that is known and has checksums."""
    rows = attempt(path, row_groups, path)
    yield verdict(rows, original.rows)
    if group is not None:
        assert f"row group {group} cannot be read" in str(rows), f"damaged in row group {group}: {rows}"
        yield "row group named"
    if log:
        yield f"as a canonical log, {verdict(attempt(path, canonical_items, path), None)}"


def row_groups(path: Path) -> pa.Table:
    """All of a file, each row group with as many rows as the footer says."""
    file = open_parquet(path)
    groups = [read_row_group(file, path, group) for group in range(file.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [file.metadata.row_group(number).num_rows for number in range(len(groups))]
    return pa.concat_tables([file.schema_arrow.empty_table(), *groups])


def canonical_items(path: Path) -> pa.Table:
    """Items of a log whose impressions or items are in `path`, after its impressions were read; no row may get lost."""
    log = canonical.read(next(folder for folder in path.parents if folder.name == "raw"), history_length=3)
    accepted = log.items.num_rows + sum(table.num_rows for table in log.impressions)
    assert accepted + log.quarantine.table().num_rows == sum(count.read for count in log.quarantine.counts.values())
    return log.items


def attempt(path: Path, action: Callable[..., Any], source: Any, *options: Any) -> Any:
    """What comes of reading when the file in `path` is damaged: a result or an InputError of one line that names it.

    A `source` that has become an InputError already stays one. Any other exception goes through.
    """
    if isinstance(source, InputError):
        return source
    try:
        return action(source, *options)
    except InputError as error:
        assert str(error).startswith(f"{path}: "), error
        assert len(str(error).splitlines()) == 1, error
        return error


def verdict(found: pa.Table | InputError, expected: pa.Table | None) -> str:
    """Right, wrong or refused."""
    if isinstance(found, InputError):
        return "refused"
    return "right" if expected is None or same(found, expected) else "wrong"


def same(rows: pa.Table, expected: pa.Table) -> bool:
    """Equal to the last bit; nullability and metadata aside."""
    pairs = zip(rows.columns, expected.columns, strict=False)
    return rows.column_names == expected.column_names and all(bits(one).equals(bits(other)) for one, other in pairs)


def bits(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Floats as integers, so that 0 is not -0."""
    integer = {pa.float32(): pa.int32(), pa.float64(): pa.int64()}.get(column.type)
    return column if integer is None else pa.chunked_array([chunk.view(integer) for chunk in column.chunks], integer)


def try_cases(workdir: Path, first: int, stop: int, at: "Synchronized[int]", told: Connection) -> None:
    """Try seeds in a process that ends at the first one that hangs or takes much memory; `at` is always the latest."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    originals, ends, failures = originals_of(workdir), Counter[str](), []
    for seed in range(first, stop):
        at.value = seed
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # which ends the process
        try:
            ends.update(check(workdir, originals, seed))
        except Exception as error:
            failures.append(f"seed {seed}: {type(error).__name__}: {error}")
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        if resident > RESIDENT:
            sys.exit(f"seed {seed}: {resident} bytes of memory")
    signal.setitimer(signal.ITIMER_REAL, 0)
    told.send((ends, failures))


def try_in_process(whole: Path, first: int, stop: int) -> tuple[Counter[str], list[str]]:
    """How cases ended, and those that failed, among them one that took the process with it; `whole` is left as it is."""
    if first >= stop:
        return Counter(), []
    fork = get_context("fork")
    at, (told, tells) = fork.Value("q", first), fork.Pipe(duplex=False)
    with TemporaryDirectory(dir=whole.parent) as copy:
        shutil.copytree(whole, copy, dirs_exist_ok=True)
        process = fork.Process(target=try_cases, args=(Path(copy), first, stop, at, tells))
        process.start()
        tells.close()
        try:
            return told.recv()
        except EOFError:
            culprit = at.value
        finally:
            process.join()
    parts = [try_in_process(whole, first, culprit), try_in_process(whole, culprit + 1, stop)]
    failure = f"seed {culprit}: the process ended with {process.exitcode}"
    return parts[0][0] + parts[1][0], [*parts[0][1], failure, *parts[1][1]]


def main(workdir: Path, cases: int, first: int = 0) -> None:
    """Exit with 1 where a case failed."""
    whole = workdir / "whole"
    writer = get_context("fork").Process(target=write, args=(whole,))  # so that this process never starts a thread of Arrow's
    writer.start()
    writer.join()
    assert writer.exitcode == 0, "the files to damage could not be written"
    ends, failures = Counter[str](), []
    for start in range(first, first + cases, BATCH):
        told = try_in_process(whole, start, min(start + BATCH, first + cases))
        ends += told[0]
        failures += told[1]
    print("\n".join(failures))
    print(json.dumps(dict(sorted(ends.items()))))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
