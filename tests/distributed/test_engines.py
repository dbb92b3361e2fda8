"""The three engines, for real: the same bytes from each at any parallelism, a job that died goes on, and S3 in place of folders."""

import hashlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from features.dataset import MANIFEST, DatasetWriter, open_dataset, read_table
from features.dataset import publish as publish_dataset
from features.dense_statistics import DenseStatistics
from features.engines import local
from features.engines.job import Engine, EnrichJob, Part, run, run_part
from features.engines.mapper import Enricher
from features.enrich import Additions, enrich
from features.errors import InputError
from features.location import Location
from features.parameterization import Ngrams
from features.part_file import DataFile
from features.representation import Representation
from features.semantic_id import SidContract
from features.store.broadcast import StoreVersion
from features.store.publish import publish
from features.store.versions import open_snapshot
from launch.chain import ROOT
from pipeline import cli
from pipeline import recipe as recipes
from pipeline.loader import BatchSource
from tests.toy_log import CONTRACT, IMAGE, toy_recipe, write_toy_log

FILES = 9
PREFIXES = Representation("prefixes", "semantic_id", 50, source="text", parameterization=Ngrams("prefix_ngram", 3, 16, 2))
ADDITIONS = Additions(("text", "vector_image"), (PREFIXES,), 7, {"dense_age_hours": DenseStatistics(0.5, 2.0)})


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    write_toy_log(folder, rows=850, further=(IMAGE,))
    whole = open_dataset(folder / "impressions")
    with DatasetWriter(folder / "impressions", whole.schema, whole.metadata, rows_per_file=100, rows_per_group=30) as writer:
        writer.write(read_table(whole))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _sessions() -> Iterator[None]:
    """The engines' sessions end with this file, whatever other files do."""
    yield
    ray = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()
    if "pyspark" in sys.modules:
        from pyspark import SparkContext
        from pyspark.sql import SparkSession

        active = SparkSession.getActiveSession()
        if active is not None:
            active.stop()
            gateway: Any = SparkContext._gateway  # the JVM, which keeps the working directory that it was started in
            gateway.shutdown()
            gateway.proc.stdin.close()
            SparkContext._gateway = SparkContext._jvm = None


@pytest.fixture(scope="module")
def expected(log: Path) -> dict[str, bytes]:
    """What one process writes, whose rows are those of the kernel over all rows at once."""
    run(job_of(log, "expected"), local.run_parts, 1)
    (batch,) = read_table(open_dataset(log / "impressions")).combine_chunks().to_batches()
    rows = read_table(open_dataset(log / "expected", verify=True))
    assert rows.equals(pa.Table.from_batches([enrich(batch, open_snapshot(log / "store"), ADDITIONS).batch]))
    assert min(map(len, rows.column("history_item_ids").to_pylist())) == 0, "some users have no history"
    return contents(log / "expected")


@pytest.fixture(scope="module", params=["local", "ray", "spark"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "ray":
        from features.engines import ray_data

        return ray_data.run_parts
    if request.param == "spark":
        from features.engines import spark

        return spark.run_parts
    return local.run_parts


def job_of(log: Path, output: str) -> EnrichJob:
    return EnrichJob(open_dataset(log / "impressions"), Location.of(log / output), StoreVersion.current(log / "store"), ADDITIONS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_same_bytes_at_any_parallelism(log: Path, expected: dict[str, bytes], engine: Engine, processes: int, tmp_path: Path) -> None:
    job = replace(job_of(log, ""), output=Location.of(tmp_path / "out"))
    done = []
    totals = run(job, engine, processes, advance=lambda: done.append(1))
    assert contents(tmp_path / "out") == expected
    assert len(expected) == FILES + 1
    assert (totals.rows, len(done)) == (850, FILES)
    rows = read_table(open_dataset(tmp_path / "out"))
    ids = 850 + sum(map(len, rows.column("history_item_ids").to_pylist()))
    misses = {name: sum(codes[0] == 65535 for codes in flat(rows, name)) for name in ("text", "vector_image")}
    assert (totals.lookups, dict(totals.misses)) == (ids, misses)


def flat(rows: pa.Table, source: str) -> list[list[int]]:
    """Codes of all targets and history items."""
    levels = {"text": 3, "vector_image": 2}[source]
    history = np.concatenate([np.array(each, int) for each in rows.column(f"history_codes_{source}").to_pylist()])
    return rows.column(f"target_codes_{source}").to_pylist() + history.reshape(-1, levels).tolist()


def test_files_carry_contracts_statistics_and_page_checksums(log: Path, expected: dict[str, bytes]) -> None:
    dataset = open_dataset(log / "expected")
    assert dataset.metadata["sid_contracts"] == [CONTRACT.to_json(), IMAGE.to_json()]
    assert dataset.metadata["dense_statistics"] == {"dense_age_hours": {"mean": 0.5, "std": 2.0}}
    assert dataset.metadata["source"] == "toy"
    for index in range(FILES):
        path = Path(dataset.part(index).path)
        told = pq.read_schema(path).metadata[b"semid.sid_contracts"].decode()
        assert '"codebook_hash": "toy"' in told
        first = pq.ParquetFile(path).metadata.row_group(0).column(0)
        damaged = bytearray(path.read_bytes())
        damaged[first.dictionary_page_offset + first.total_compressed_size - 1] ^= 1
        with pytest.raises(OSError, match="CRC"):
            pq.ParquetFile(pa.BufferReader(bytes(damaged)), page_checksum_verification=True).read()


def test_the_inputs_own_columns_are_the_bytes_that_they_were(log: Path, expected: dict[str, bytes]) -> None:
    before, after = open_dataset(log / "impressions"), open_dataset(log / "expected")
    for index in range(FILES):
        old, new = (Path(dataset.part(index).path).read_bytes() for dataset in (before, after))
        assert new.startswith(old[: -8 - int.from_bytes(old[-8:-4], "little")])
        groups = [pq.read_metadata(pa.BufferReader(data)) for data in (old, new)]
        rows = [[each.row_group(number).num_rows for number in range(each.num_row_groups)] for each in groups]
        assert rows[0] == rows[1] == [30, 30, 30, 10] if index < FILES - 1 else [30, 20]


def write_set(folder: Path, parts: list[bytes], rows: list[int]) -> None:
    """A data set whose parts were not written by us."""
    files = []
    for index, (data, count) in enumerate(zip(parts, rows, strict=True)):
        files.append(DataFile(f"part-{index:05d}-foreign.parquet", count, len(data), hashlib.sha256(data).hexdigest()))
        Location.of(folder / files[-1].name).write(data)
    publish_dataset(Location.of(folder), files, {"source": "foreign"})


def parquet(rows: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, **options)
    return bytes(sink.getvalue())


def test_parts_of_other_writers_without_rows_and_with_empty_row_groups(log: Path, tmp_path: Path) -> None:
    rows = read_table(open_dataset(log / "impressions")).slice(0, 100)
    empty_groups = pa.BufferOutputStream()
    with pq.ParquetWriter(empty_groups, rows.schema, compression="gzip") as writer:
        for piece in (rows.slice(0, 0), rows.slice(0, 40), rows.slice(0, 0), rows.slice(40)):
            writer.write_table(piece)
    no_groups = pa.BufferOutputStream()
    pq.ParquetWriter(no_groups, rows.schema).close()
    parts = [bytes(empty_groups.getvalue()), bytes(no_groups.getvalue()), parquet(rows, data_page_version="2.0", use_dictionary=False)]
    write_set(tmp_path / "in", parts, [100, 0, 100])
    job = replace(job_of(log, ""), impressions=open_dataset(tmp_path / "in"), output=Location.of(tmp_path / "out"))
    totals = run(job, local.run_parts, 1)
    done = open_dataset(tmp_path / "out", verify=True)
    (batch,) = rows.combine_chunks().to_batches()
    enriched = enrich(batch, open_snapshot(log / "store"), ADDITIONS)
    whole = pa.Table.from_batches([enriched.batch])
    assert read_table(done).equals(pa.concat_tables([whole, whole]))
    assert [file.rows for file in done.files] == [100, 0, 100]
    groups = [pq.read_metadata(done.part(index).path) for index in range(3)]
    assert [[each.row_group(i).num_rows for i in range(each.num_row_groups)] for each in groups] == [[0, 40, 0, 60], [], [100]]
    assert (totals.lookups, totals.misses) == (2 * enriched.lookups, Counter({name: 2 * n for name, n in enriched.misses.items()}))


def test_only_the_columns_that_the_additions_come_from_are_decoded(log: Path, tmp_path: Path) -> None:
    rows = read_table(open_dataset(log / "impressions"))
    data = bytearray(parquet(rows, compression="none", use_dictionary=False, write_page_checksum=True))
    metadata = pq.read_metadata(pa.BufferReader(bytes(data)))
    chunks = {metadata.schema.column(place).path: metadata.row_group(0).column(place) for place in range(metadata.num_columns)}
    needed = {"item_id", "history_item_ids.list.element", "context_country", "dense_age_hours"}
    for name, chunk in chunks.items():
        if name not in needed:
            data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    write_set(tmp_path / "in", [bytes(data)], [rows.num_rows])  # whose sha256 says that they are as they should be
    job = replace(job_of(log, ""), impressions=open_dataset(tmp_path / "in"), output=Location.of(tmp_path / "out"))
    run(job, local.run_parts, 1)
    file = pq.ParquetFile(open_dataset(tmp_path / "out", verify=True).part(0).path, page_checksum_verification=True)
    (batch,) = rows.combine_chunks().to_batches()
    columns = ["item_id", "history_item_ids", "context_country", "dense_age_hours", *file.schema_arrow.names[rows.num_columns :]]
    assert file.read(columns).equals(pa.Table.from_batches([enrich(batch, open_snapshot(log / "store"), ADDITIONS).batch]).select(columns))
    with pytest.raises(OSError, match="CRC"):
        file.read(["timestamp"])


def test_a_worker_imports_no_more_than_it_needs(log: Path, tmp_path: Path) -> None:
    (tmp_path / "job").write_bytes(pickle.dumps(replace(job_of(log, ""), output=Location.of(tmp_path / "out"))))
    # SciPy is missing here: Numba takes its BLAS along where it is installed.
    heavy = ["pandas", "torch", "pydantic", "pyarrow.compute", "pyarrow.dataset", "lmdb", "ray", "pyspark", "pipeline"]
    program = (
        "import pickle, sys; job = pickle.load(open(sys.argv[1], 'rb'))\n"
        f"from features.engines.job import run_part; run_part(job, 0); print([name for name in {heavy} if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "job")]
    told = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_a_job_travels_by_names(log: Path, bucket: str) -> None:
    job = job_of(log, "out")
    assert pickle.loads(pickle.dumps(job)) == job
    assert len(pickle.dumps(job)) < 5000
    where = Location.of(bucket.format("folder"))
    travelled = pickle.dumps(where)
    assert pickle.loads(travelled) == where
    assert b"secret" not in travelled, "credentials are the machine's own"
    odd = Location.of(log / "a?b") / "c"
    assert (odd.path, odd.uri) == (str(log / "a?b" / "c"),) * 2


class Died(Exception):
    """What an engine raises here when it dies."""


def dies_after(parts: int) -> Engine:
    def engine(job: EnrichJob, left: Sequence[int], processes: int) -> Iterator[Part]:
        yield from (run_part(job, index) for index in left[-parts:])
        raise Died

    return engine


def test_a_job_that_died_goes_on_where_it_stopped(log: Path, expected: dict[str, bytes], engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = replace(job_of(log, ""), output=Location.of(out))
    with pytest.raises(Died):
        run(job, dies_after(4), 1)
    assert not (out / MANIFEST).exists()
    finished = {path: path.stat().st_ino for path in out.glob("part-*")}
    assert len(finished) == 4
    (out / ".part-00007.feed.tmp").write_bytes(b"left by a worker that was killed")
    asked: list[int] = []

    def told(job: EnrichJob, left: Sequence[int], processes: int) -> Iterator[Part]:
        asked.extend(left)
        return engine(job, left, processes)

    run(job, told, 2)
    assert asked == [0, 1, 2, 3, 4]
    assert contents(out) == expected
    assert all(path.stat().st_ino == inode for path, inode in finished.items())


@pytest.mark.parametrize("change", ["store", "additions", "input", "part"])
def test_parts_of_another_job_are_not_taken_over(log: Path, tmp_path: Path, change: str) -> None:
    job = replace(job_of(log, ""), output=Location.of(tmp_path / "out"))
    with pytest.raises(Died):
        run(job, dies_after(3), 1)
    if change == "store":
        publish(
            tmp_path / "store", [(np.array([1]), {"text": np.zeros((1, 3), int), "vector_image": np.zeros((1, 2), int)})], [CONTRACT, IMAGE]
        )
        job = replace(job, store=StoreVersion.current(tmp_path / "store"))
    elif change == "additions":
        job = replace(job, additions=Additions(("text",)))
    elif change == "input":
        whole = open_dataset(log / "impressions")
        with DatasetWriter(tmp_path / "in", whole.schema, {}, rows_per_file=100) as writer:
            writer.write(read_table(whole).slice(1))
        job = replace(job, impressions=open_dataset(tmp_path / "in"))
    else:
        min((tmp_path / "out").glob("part-*")).unlink()
    asked: list[int] = []

    def told(job: EnrichJob, left: Sequence[int], processes: int) -> Iterator[Part]:
        asked.extend(left)
        return local.run_parts(job, left, 1)

    run(job, told, 1)
    assert len(asked) == (FILES - 2 if change == "part" else FILES)
    fresh = replace(job, output=Location.of(tmp_path / "fresh"))
    run(fresh, local.run_parts, 1)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_killed_job_leaves_the_old_data_set_and_goes_on(log: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with DatasetWriter(out, pa.schema([("x", pa.int64())]), {}) as writer:
        writer.write(pa.table({"x": [1]}))
    (tmp_path / "job").write_bytes(pickle.dumps(replace(job_of(log, ""), output=Location.of(out))))
    program = tmp_path / "program.py"
    program.write_text(
        "import pickle, sys; from features.engines import job, local\n"
        "if __name__ == '__main__': job.run(pickle.load(open(sys.argv[1], 'rb')), local.run_parts, 2)\n"
    )
    command, environment = [sys.executable, str(program), str(tmp_path / "job")], {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    while len(list(out.glob("progress-*"))) < 3:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert read_table(open_dataset(out, verify=True)).to_pydict() == {"x": [1]}
    subprocess.run(command, env=environment, check=True)
    assert contents(out) == expected


def test_a_damaged_input_is_told_by_name_whoever_meets_it(log: Path, engine: Engine, tmp_path: Path) -> None:
    whole = open_dataset(log / "impressions")
    with DatasetWriter(tmp_path / "in", whole.schema, {}, rows_per_file=400) as writer:
        writer.write(read_table(whole))
    path = Path(open_dataset(tmp_path / "in").part(1).path)
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    job = replace(job_of(log, ""), impressions=open_dataset(tmp_path / "in"), output=Location.of(tmp_path / "out"))
    with pytest.raises(InputError, match=f"^{path}: sha256 differs"):
        run(job, engine, 2)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_the_kernel_in_a_ray_job_of_ones_own(log: Path, expected: dict[str, bytes]) -> None:
    import ray

    rows = ray.data.read_parquet([str(path) for path in sorted((log / "impressions").glob("part-*"))])
    mapped = rows.map_batches(Enricher.of(log / "store", ADDITIONS), batch_format="pyarrow", batch_size=64)
    found = pa.concat_tables([ray.get(each) for each in mapped.to_arrow_refs()])
    assert same_rows(found, read_table(open_dataset(log / "expected")))


def test_the_kernel_in_a_spark_job_of_ones_own(log: Path, expected: dict[str, bytes]) -> None:
    from features.engines import spark

    frame = spark.spark_session(2).read.parquet(*[str(path) for path in sorted((log / "impressions").glob("part-*"))])
    result = spark.enriched(frame, Enricher.of(log / "store", ADDITIONS))
    assert "Exchange" not in result._jdf.queryExecution().executedPlan().toString(), "no shuffle"
    assert same_rows(result.toArrow(), read_table(open_dataset(log / "expected")))


def same_rows(found: pa.Table, expected: pa.Table) -> bool:
    """Equal rows, whatever their order and the nearest types that an engine has."""
    assert found.column_names == expected.column_names

    def rows(table: pa.Table) -> list[str]:
        return sorted(
            repr([row[name] if name != "timestamp" else row[name].timestamp() for name in table.column_names[:8]])
            + repr([row[name] for name in table.column_names[8:] if name != "history_timestamps"])
            for row in table.to_pylist()
        )

    return rows(found) == rows(expected)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a real S3 server, as a URI with a place for what comes below it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    credentials = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in credentials}
    os.environ |= credentials
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        s3 = fs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True)
        while True:
            assert server.poll() is None
            try:
                s3.create_dir("bucket")
                break
            except OSError:
                time.sleep(0.1)
        yield f"s3://bucket/{{}}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def test_a_data_set_on_s3_is_whole_or_absent(bucket: str) -> None:
    where = Location.of(bucket.format("written"))
    assert str(where) == "s3://bucket/written"
    with pytest.raises(InputError, match="s3://bucket/written: no data set here"):
        open_dataset(where)
    schema = pa.schema([("x", pa.int64())])
    with DatasetWriter(where, schema, {"n": 1}, rows_per_file=10) as writer:
        writer.write(pa.table({"x": range(35)}))
    assert read_table(open_dataset(where, verify=True)).column("x").to_pylist() == list(range(35))
    assert Location.of((where / MANIFEST).uri).read() == (where / MANIFEST).read(), "a place below it can be named to others"
    with pytest.raises(Died), DatasetWriter(where, schema, {}, rows_per_file=10) as writer:
        writer.write(pa.table({"x": range(100, 125)}))
        raise Died
    assert len(where.files()) == 5
    old = open_dataset(where, verify=True)
    assert old.metadata == {"n": 1}
    with DatasetWriter(where, schema, {"n": 2}) as writer:
        writer.write(pa.table({"x": [7]}))
    assert where.files() == [MANIFEST, open_dataset(where).files[0].name]
    (where / open_dataset(where).files[0].name).write(b"something else")
    with pytest.raises(InputError, match=r"s3://bucket/written/part-00000-\w{8}.parquet: missing or not the"):
        open_dataset(where)


def test_the_stages_read_and_write_s3(log: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMID_CACHE", str(tmp_path / "cache"))
    workdir = tmp_path / "work"
    for name in ("impressions", "store"):
        where = Location.of(bucket.format(name))
        fs.copy_files(str(log / name), where.path, destination_filesystem=where.filesystem)
    locations = {name: bucket.format(name) for name in ("impressions", "store", "enriched")}
    sets = [*toy_recipe(workdir, **{"embed.sources": "[text, vector_image]"}), f"locations={locations}"]
    arguments = ["enrich", "simulated", *(part for text in sets for part in ("--set", text))]
    assert cli.main(arguments) == 0
    enriched = open_dataset(locations["enriched"], verify=True)
    run(replace(job_of(log, ""), output=Location.of(tmp_path / "local"), additions=Additions(("text", "vector_image"))), local.run_parts, 1)
    assert read_table(enriched).equals(read_table(open_dataset(tmp_path / "local")))
    assert [file.sha256 for file in enriched.files] == [file.sha256 for file in open_dataset(tmp_path / "local").files]
    source = BatchSource(recipes.load("simulated", sets))
    assert source.rows(95, 205).equals(read_table(open_dataset(tmp_path / "local")).slice(95, 110).select(source.builder.columns))
    assert list(source.contracts) == ["text"]
    assert [path.name for path in (tmp_path / "cache").glob("*/*")] == [StoreVersion.current(log / "store").fingerprint]


def test_a_second_run_on_s3_has_nothing_to_do(log: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [
        *toy_recipe(tmp_path),
        f"locations={{impressions: {log / 'impressions'}, store: {log / 'store'}, enriched: '{bucket.format('again')}'}}",
    ]
    arguments = ["enrich", "simulated", *(part for text in sets for part in ("--set", text))]
    for told in ("enriched 850 rows", "up to date"):
        assert cli.main(arguments) == 0
        assert told in capsys.readouterr().out
    assert cli.main([*arguments, "--set", "enrich.also=[context]"]) == 0
    assert "hashed_context_country" in open_dataset(bucket.format("again")).schema.names


def test_a_store_that_was_damaged_on_its_way_is_refused(log: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMID_CACHE", str(tmp_path))
    other = SidContract(levels=2, codebook_size=9, codebook_hash="other", source="text", generation=1)
    publish(tmp_path / "store", [(np.arange(100), {"text": np.ones((100, 2), int)})], [other])
    where = Location.of(bucket.format("damaged"))
    fs.copy_files(str(tmp_path / "store"), where.path, destination_filesystem=where.filesystem)
    codes = where / "v000001" / "codes-text.npy"
    data = bytearray(codes.read().to_pybytes())
    data[-1] ^= 1
    codes.write(bytes(data))
    with pytest.raises(InputError, match=r"codes-text.npy: sha256 differs"):
        StoreVersion.current(where)
