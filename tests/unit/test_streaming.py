"""Following a folder: the rows of one batch job, each once and in order, however files and starts cut them; and what is told instead."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from features.dataset import MANIFEST, has_dataset, open_dataset, read_table
from features.dense_statistics import measure
from features.engines import local
from features.engines.job import EnrichJob, run
from features.engines.mapper import Enricher
from features.enrich import Additions
from features.errors import InputError
from features.location import Location
from features.representation import Representation
from features.store.broadcast import StoreVersion
from features.store.publish import publish
from features.streams.directory import Directory
from features.streams.follow import follow
from features.streams.sink import Sink
from pipeline import cli
from tests.toy_log import CONTRACT, toy_recipe, write_toy_log

ROWS = 300


@dataclass(frozen=True)
class Log:
    """A toy log, and what one batch job makes of it."""

    workdir: Path
    enricher: Enricher
    rows: pa.Table
    enriched: pa.Table


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    workdir = tmp_path_factory.mktemp("log")
    write_toy_log(workdir, rows=ROWS)
    impressions = open_dataset(workdir / "impressions")
    hashed = Representation("hashed", "random_hash", 97, hashes=2)
    additions = Additions(("text",), (hashed,), 50, measure(impressions, ["dense_past_count"]))
    job = EnrichJob(impressions, Location.of(workdir / "batch"), StoreVersion.current(workdir / "store"), additions)
    run(job, local.run_parts, 1)
    enriched = read_table(open_dataset(workdir / "batch"))
    return Log(workdir, Enricher(job.store, additions), read_table(impressions).combine_chunks(), enriched)


def put(folder: Path, name: str, rows: pa.Table, **options: int | str) -> None:
    """A finished file, renamed into place as a writer of such a folder must."""
    folder.mkdir(exist_ok=True)
    pq.write_table(rows, folder / f".{name}.writing", **options)
    (folder / f".{name}.writing").rename(folder / name)


def put_pieces(folder: Path, rows: pa.Table, cuts: Sequence[int], *, rows_per_group: int = 100) -> list[int]:
    """The rows as files, cut at `cuts`, and the end marker; the sizes of the files."""
    edges = [0, *sorted(cuts), rows.num_rows]
    sizes = [stop - start for start, stop in pairwise(edges)]
    for number, (start, size) in enumerate(zip(edges, sizes, strict=False)):
        put(folder, f"{number:03d}.parquet", rows.slice(start, size), row_group_size=rows_per_group)
    (folder / "_SUCCESS").touch()
    return sizes


def following(folder: Path, log: Log, output: Path, *, stopped: Callable[[], bool] = lambda: False, **options: Any) -> bool:
    """Follow a folder from the position in `output` on; every start knows nothing but what lies there."""
    source = Directory(Location.of(folder), poll_seconds=0.001)
    return follow(source, Sink(output, log.enricher, str(source), **{"max_seconds": 0.0, **options}), stopped=stopped)


def after(asked: int) -> Callable[[], bool]:
    """A wish to stop that comes when it is asked for the n-th time."""
    numbers = iter(range(1, 10**9))
    return lambda: next(numbers) == asked


def in_chunks(rows: int, rows_per_part: int) -> list[int]:
    return [min(rows_per_part, rows - start) for start in range(0, rows, rows_per_part)]


def expected_parts(files: Sequence[int], rows_per_part: int, each: bool, stops: Sequence[int]) -> list[int]:
    """Rows of the parts by a plain loop: what waits is cut when enough waits, when each file is published, at a stop and at the end."""
    parts: list[int] = []
    waiting, published, left = 0, False, list(stops)
    until_stop = left.pop(0) if left else 0
    for number, size in enumerate(files):
        waiting, until_stop = waiting + size, until_stop - 1
        if waiting >= rows_per_part or each or until_stop == 0 or number == len(files) - 1:
            parts += in_chunks(waiting, rows_per_part) or ([] if published else [0])
            waiting, published = 0, True
        if until_stop == 0:
            until_stop = left.pop(0) if left else 0
    return parts


@settings(max_examples=25)
@example(cuts=[0, 0, 7, 7], rows_per_part=100, rows_per_group=3, each=True, stops=[1, 1])
@example(cuts=[0, ROWS, ROWS], rows_per_part=41, rows_per_group=300, each=False, stops=[])
@given(
    cuts=st.lists(st.integers(0, ROWS), max_size=8),
    rows_per_part=st.integers(20, 400),
    rows_per_group=st.integers(20, 400),
    each=st.booleans(),
    stops=st.lists(st.integers(1, 4), max_size=3),
)
def test_the_rows_are_those_of_one_batch_job_in_parts_of_the_chosen_size(
    log: Log,
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    rows_per_part: int,
    rows_per_group: int,
    each: bool,
    stops: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("follow")
    sizes = put_pieces(folder / "in", log.rows, cuts, rows_per_group=rows_per_group)
    options: dict[str, Any] = {"rows_per_part": rows_per_part, "max_seconds": 0.0 if each else 3600.0}
    for stop in stops:
        following(folder / "in", log, folder / "out", stopped=after(stop), **options)
    assert following(folder / "in", log, folder / "out", **options)
    found = open_dataset(folder / "out", verify=True)
    assert read_table(found).equals(log.enriched)
    assert read_table(found, log.rows.column_names).equals(log.rows)
    assert [file.rows for file in found.files] == expected_parts(sizes, rows_per_part, each, stops)
    assert {path.name for path in (folder / "out").iterdir()} == {MANIFEST, *(file.name for file in found.files)}


def test_manifest_and_files_say_what_a_batch_job_says(log: Log, tmp_path: Path) -> None:
    put_pieces(tmp_path / "in", log.rows, [100])
    sink = Sink(tmp_path / "out", log.enricher, "here")
    assert follow(Directory(Location.of(tmp_path / "in")), sink)
    batch, stream = open_dataset(log.workdir / "batch"), open_dataset(tmp_path / "out")
    assert stream.schema.equals(batch.schema)
    for name in ("sid_contracts", "dense_statistics"):
        assert stream.metadata[name] == batch.metadata[name]
    assert stream.metadata["sid_contracts"] == [CONTRACT.to_json()]
    assert stream.metadata["position"] == ["000.parquet", "001.parquet"]
    told = [
        {key: value for key, value in each.open_part(0).metadata.metadata.items() if key != b"ARROW:schema"} for each in (batch, stream)
    ]
    assert told[0] == told[1]
    assert json.loads(told[1][b"semid.sid_contracts"]) == [CONTRACT.to_json()]
    assert (sink.rows, sink.parts, sink.totals.rows) == (ROWS, 1, ROWS)
    known = set(log.enricher.store.open().ids.tolist())
    ids = [item for row in log.rows.to_pylist() for item in (row["item_id"], *row["history_item_ids"])]
    assert (sink.totals.lookups, sink.totals.misses["text"]) == (len(ids), sum(item not in known for item in ids))


def test_rows_that_wait_are_published_in_time_though_nothing_more_comes(log: Log, tmp_path: Path) -> None:
    put(tmp_path / "in", "a.parquet", log.rows)
    assert not following(tmp_path / "in", log, tmp_path / "soon", max_seconds=0.05, stopped=lambda: has_dataset(tmp_path / "soon"))
    assert open_dataset(tmp_path / "soon").rows == ROWS
    there = []

    def stopped() -> bool:
        there.append(has_dataset(tmp_path / "late"))
        return len(there) == 20

    assert not following(tmp_path / "in", log, tmp_path / "late", max_seconds=3600.0, stopped=stopped)
    assert there == [False] * 20
    assert open_dataset(tmp_path / "late").rows == ROWS  # a stop publishes what was taken


def test_rows_that_keep_coming_do_not_keep_the_first_ones_waiting(log: Log, tmp_path: Path) -> None:
    folder, output, numbers = tmp_path / "in", tmp_path / "out", count()
    folder.mkdir()

    def stopped() -> bool:
        number = next(numbers)
        put(folder, f"{number:06d}.parquet", log.rows.slice(number % ROWS, 1))
        return has_dataset(output) or number == 3000

    assert not following(folder, log, output, max_seconds=0.3, stopped=stopped)
    assert next(numbers) <= 3000


def test_only_finished_files_are_looked_at_and_the_caller_names_the_end(log: Log, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    put(folder, "b.parquet", log.rows.slice(0, 10))
    for name in (".c.parquet", "_metadata", "_SUCCESS", "c.parquet.tmp", "done"):
        (folder / name).write_bytes(b"half a file")
    (folder / "c.parquet").mkdir()
    source = Directory(Location.of(folder), end_marker="done", poll_seconds=0.001)
    assert follow(source, Sink(tmp_path / "out", log.enricher, str(source)))
    assert open_dataset(tmp_path / "out").rows == 10


def test_taken_files_may_be_deleted(log: Log, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for number in range(6):
        put(folder, f"{number}.parquet", log.rows.slice(number * 50, 50))
        for stop in (1, 2):  # the second start sees the folder as it is, once more
            assert not following(folder, log, output, stopped=after(stop))
        if number % 2:
            for path in folder.iterdir():
                path.unlink()
    assert read_table(open_dataset(output)).equals(log.enriched)
    assert open_dataset(output).metadata["position"] == ["4.parquet", "5.parquet"]
    second = after(2)

    def too_late() -> bool:
        if second():
            put(folder, "2.parquet", log.rows)
        return False

    with pytest.raises(InputError, match=r"2\.parquet: came after 5\.parquet was taken"):
        following(folder, log, output, stopped=too_late)


@pytest.mark.parametrize("again", [False, True])
def test_a_file_that_comes_too_late_is_told(log: Log, tmp_path: Path, again: bool) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    put(folder, "b.parquet", log.rows.slice(0, 10))
    put(folder, "d.parquet", log.rows.slice(10, 10))
    second = after(2)

    def too_late() -> bool:
        now = second()
        if now:
            put(folder, "c.parquet", log.rows.slice(20, 10))
        return again and now

    if again:
        assert not following(folder, log, output, stopped=too_late)
    with pytest.raises(InputError, match=r"in/c\.parquet: came after d\.parquet was taken; .* ascending order of name"):
        following(folder, log, output, stopped=too_late)
    assert open_dataset(output).rows == 20


@dataclass(frozen=True)
class ChangingFolder(Location):
    """A folder that changes while it is listed."""

    meanwhile: Callable[[list[str]], list[str]]

    def files(self) -> list[str]:
        return self.meanwhile(super().files())


def test_no_file_is_missed_or_too_late_because_it_came_during_a_listing(log: Log, tmp_path: Path) -> None:
    folder, listings = tmp_path / "in", count(1)
    folder.mkdir()

    def meanwhile(listed: list[str]) -> list[str]:
        number = next(listings)
        if number == 1:  # a listing may miss a file and yet have one that came after it
            put(folder, "a.parquet", log.rows.slice(0, 100))
            put(folder, "b.parquet", log.rows.slice(100, 100))
            return ["b.parquet"]
        if number == 4:  # the last file and the marker come when the second look has listed the folder
            put(folder, "c.parquet", log.rows.slice(200))
            (folder / "_SUCCESS").touch()
        return listed

    where = Location.of(folder)
    source = Directory(ChangingFolder(where.filesystem, where.path, where.uri, meanwhile), poll_seconds=0.001)
    assert follow(source, Sink(tmp_path / "out", log.enricher, str(source)))
    assert read_table(open_dataset(tmp_path / "out")).equals(log.enriched)


def test_damage_is_told_by_file_and_row_group_and_mended_files_go_on(log: Log, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    put(folder, "a.parquet", log.rows.slice(0, 100))
    put(folder, "b.parquet", log.rows.slice(100), row_group_size=100, write_page_checksum=True, use_dictionary=False, compression="none")
    (folder / "_SUCCESS").touch()
    good = (folder / "b.parquet").read_bytes()
    column = pq.ParquetFile(folder / "b.parquet").metadata.row_group(1).column(1)
    damaged = bytearray(good)
    damaged[column.data_page_offset + column.total_compressed_size - 1] ^= 1  # in the last of its values
    (folder / "b.parquet").write_bytes(damaged)
    with pytest.raises(InputError, match=r"in/b\.parquet: row group 1 cannot be read"):
        following(folder, log, output)
    assert read_table(open_dataset(output)).equals(log.enriched.slice(0, 100))
    assert not list(output.glob(".*"))
    (folder / "b.parquet").write_bytes(good[:1000])
    with pytest.raises(InputError, match=r"in/b\.parquet: not a readable Parquet file"):
        following(folder, log, output)
    (folder / "b.parquet").write_bytes(good)
    assert following(folder, log, output)
    assert read_table(open_dataset(output)).equals(log.enriched)


def without_order(rows: pa.Table) -> pa.Table:
    return rows.select(rows.column_names[::-1])


def with_nulls_allowed(rows: pa.Table) -> pa.Table:
    return rows.cast(pa.schema([field.with_nullable(True) for field in rows.schema]))


def with_a_null(rows: pa.Table) -> pa.Table:
    schema = pa.schema([field.with_nullable(True) for field in rows.schema])
    ids = pa.array([None, *rows.column("item_id").to_pylist()[1:]])
    return rows.cast(schema).set_column(schema.get_field_index("item_id"), schema.field("item_id"), ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop_columns(["item_id"]), r"b\.parquet: column 'item_id' \(int64\) is missing"),
        (lambda rows: rows.drop_columns(["dense_past_count"]), r"b\.parquet: column 'dense_past_count' \(float\) is missing"),
        (lambda rows: rows.drop_columns(["user_id"]), r"b\.parquet: column 'user_id' \(int64\) is missing"),
        (lambda rows: rows.append_column("more", [[0] * len(rows)]), r"b\.parquet: has columns, .* that differ from the rows before it"),
        (without_order, r"b\.parquet: has columns, an order of them, .* that differ"),
        (with_nulls_allowed, r"b\.parquet: has columns, .* or nulls allowed that differ"),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_other_columns_than_before_are_told(
    log: Log, tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str, again: bool
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    put(folder, "a.parquet", log.rows.slice(0, 100))
    put(folder, "b.parquet", change(log.rows.slice(100)))
    if again:
        following(folder, log, output, stopped=after(1))
    with pytest.raises(InputError, match=message):
        following(folder, log, output)
    assert read_table(open_dataset(output)).equals(log.enriched.slice(0, 100))


def test_what_the_kernel_refuses_is_told_by_file(log: Log, tmp_path: Path) -> None:
    put(tmp_path / "in", "a.parquet", with_a_null(log.rows.slice(0, 9)))
    with pytest.raises(InputError, match=r"in/a\.parquet: impressions: item_id is null, first in number 1 of 9"):
        following(tmp_path / "in", log, tmp_path / "out")
    with pytest.raises(InputError, match="no data set here"):
        open_dataset(tmp_path / "out")


def test_a_stream_without_rows_has_its_columns_from_an_empty_file(log: Log, tmp_path: Path) -> None:
    put(tmp_path / "in", "a.parquet", log.rows.slice(0, 0))
    (tmp_path / "in" / "_SUCCESS").touch()
    assert following(tmp_path / "in", log, tmp_path / "out")
    assert read_table(open_dataset(tmp_path / "out")).equals(log.enriched.slice(0, 0))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "_SUCCESS").touch()
    with pytest.raises(InputError, match="nothing: ended before anything came"):
        following(tmp_path / "nothing", log, tmp_path / "other")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        following(tmp_path / "nowhere", log, tmp_path / "other")


def test_an_output_of_something_else_is_refused(log: Log, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    put_pieces(folder, log.rows, [100])
    assert not following(folder, log, output, stopped=after(1))
    other = tmp_path / "store"
    publish(other, [(np.array([1]), {"text": np.zeros((1, 3), np.uint16)})], [replace(CONTRACT, codebook_hash="another")])
    additions = log.enricher.additions
    for changed, message in (
        (Enricher.of(other, additions), r"codebook_hash is 'toy' in .*/out but 'another' in .*/store"),
        (replace(log.enricher, additions=replace(additions, context_rows=51)), "out: its rows have columns made with other settings"),
        (replace(log.enricher, additions=replace(additions, sources=())), "out: its rows have columns made with other settings"),
    ):
        with pytest.raises(InputError, match=message):
            Sink(output, changed, str(folder))
    with pytest.raises(InputError, match=r"out: follows .*/in, and cannot go on with .*/elsewhere"):
        Sink(output, log.enricher, str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="batch: this data set was written as a whole"):
        Sink(log.workdir / "batch", log.enricher, str(folder))
    assert following(folder, log, output)
    assert read_table(open_dataset(output)).equals(log.enriched)


def test_a_newer_version_of_the_store_with_the_same_contract_goes_on(log: Log, tmp_path: Path) -> None:
    folder, output, store = tmp_path / "in", tmp_path / "out", tmp_path / "store"
    put_pieces(folder, log.rows, [100])
    snapshot = log.enricher.store.open()
    for codes in (snapshot.codes["text"], np.full_like(snapshot.codes["text"], 5)):
        publish(store, [(snapshot.ids, {"text": codes})], [replace(CONTRACT, generation=1)])
        following(folder, replace(log, enricher=Enricher.of(store, log.enricher.additions)), output, stopped=after(1))
    codes = read_table(open_dataset(output), ["target_codes_text"]).column(0).to_pylist()
    assert codes[:100] == log.enriched.column("target_codes_text").to_pylist()[:100]
    assert {tuple(each) for each in codes[100:]} == {(5, 5, 5), (65535,) * 3}


@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.parametrize(("rows_per_part", "max_seconds"), [(1000, 0.0), (100, 0.0), (150, 3600.0)])
def test_a_second_writer_is_told(log: Log, tmp_path: Path, asked: int, rows_per_part: int, max_seconds: float) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    put_pieces(folder, log.rows, [100, 200])
    other = after(asked)

    def meanwhile() -> bool:
        if other():
            assert following(folder, log, output)
        return False

    with pytest.raises(InputError, match="out: another writer has published here meanwhile"):
        following(folder, log, output, stopped=meanwhile, rows_per_part=rows_per_part, max_seconds=max_seconds)
    assert read_table(open_dataset(output, verify=True)).equals(log.enriched)


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_an_interrupt_leaves_what_was_published(log: Log, tmp_path: Path, asked: int) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    put_pieces(folder, log.rows, [100, 200])

    def interrupt() -> bool:
        if stop():
            raise KeyboardInterrupt
        return False

    stop = after(asked)
    with pytest.raises(KeyboardInterrupt):
        following(folder, log, output, stopped=interrupt)
    published = 100 * (asked - 1)
    assert (open_dataset(output).rows if published else 0) == published
    assert not list(output.glob(".*"))
    assert following(folder, log, output)
    assert read_table(open_dataset(output)).equals(log.enriched)


def test_the_command_adds_the_columns_of_stage_enrich(log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_toy_log(tmp_path, rows=ROWS)
    put_pieces(tmp_path / "in", log.rows, [100])
    recipe = toy_recipe(tmp_path, **{"enrich.also": "[keys, context, dense]"})
    sets = [part for text in recipe for part in ("--set", text)]
    assert cli.main(["enrich", "simulated", *sets]) == 0
    output = tmp_path / "stream"
    command = ["follow", "simulated", "--from", str(tmp_path / "in"), "--rows-per-part", "70", *sets, "--set"]
    for told in ("300 rows in 5 parts, 300 of them since this start; ", ""):
        assert cli.main([*command, f"locations={{enriched: {output}}}"]) == 0
        assert told in capsys.readouterr().out
    found = open_dataset(output)
    assert read_table(found).equals(read_table(open_dataset(tmp_path / "enriched")))
    assert [file.rows for file in found.files] == [70, 30, 70, 70, 60]
    assert cli.main([*command, "enrich.also=[context]"]) == 2
    assert "enriched: this data set was written as a whole" in capsys.readouterr().err
    assert cli.main([*command[:-1], "--max-seconds", "0"]) == 2
    assert "--max-seconds 0.0: expected a positive number" in capsys.readouterr().err
