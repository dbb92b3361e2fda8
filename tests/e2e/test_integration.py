"""docs/integration.md: every block of the page is run as it stands there, and its rows are those of the pure kernel."""

import contextlib
import datetime
import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from features.dataset import Dataset, DatasetWriter, open_dataset, read_table
from features.dense_ids import DenseIdMap
from launch.chain import ROOT
from tests.e2e.integration_page import BIN, PAGE, Page, blocks
from tests.toy_log import CONTRACT, write_toy_log

AIRFLOW = ROOT / ".venv" / "airflow" / "bin" / "python"
ROWS = 2500
ENRICHED = f"enriched {ROWS:,} rows"
DENSE = ("dense_past_count", "dense_age_hours")
DAYS = {"2026-01-01": slice(0, 1400), "2026-01-02": slice(1400, ROWS)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A log in three files, with unknown items and empty histories, and a store."""
    folder = tmp_path_factory.mktemp("integration")
    write_toy_log(folder / "runs/mylog", rows=ROWS)
    rows = read_table(open_dataset(folder / "runs/mylog/impressions")).append_column("row", pa.array(range(ROWS)))
    shutil.rmtree(folder / "runs/mylog/impressions")
    (folder / "log").mkdir()
    for number in range(3):
        pq.write_table(rows.slice(number * 1000, 1000), folder / f"log/{number}.parquet", row_group_size=300)
    with contextlib.chdir(folder), mock.patch.dict(os.environ, {"SEMID_CACHE": str(folder / "cache")}):
        page = Page(folder, {})
        page.names.update(page.python("additions"))
        yield page


@pytest.fixture(scope="module")
def ray_address(page: Page) -> Iterator[str]:
    """Of the Ray that the page's own block has started."""
    ray = page.python("ray")["ray"]
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="module")
def java() -> None:
    """What Spark runs on."""
    if shutil.which("java") is None:
        pytest.fail("Spark needs java on the PATH: apt-get install openjdk-17-jre-headless")


@pytest.fixture(scope="module")
def spark(page: Page, java: None) -> Iterator[Any]:
    """The session that the page's own block has started."""
    session = page.python("spark")["spark"]
    yield session
    session.stop()


@pytest.fixture(scope="module")
def job(page: Page) -> Dataset:
    """The whole job on one machine, with the page's data set and recipe."""
    page.python("dataset")
    page.file("mylog.yaml")
    assert ENRICHED in page.bash("local")
    return open_dataset("runs/mylog/enriched", verify=True)


@pytest.fixture(scope="module")
def s3_options() -> Iterator[str]:
    """Options of a URI on a server of S3, which has the bucket mylog; credentials are in the environment."""
    environment = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
    command = [str(BIN / "moto_server"), "--port", "0"]
    with mock.patch.dict(os.environ, environment), subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = next(filter(None, (re.search(r"Running on http://(\S+)", line) for line in server.stderr)))[1]
        threading.Thread(target=server.stderr.read, daemon=True).start()  # it tells of each request
        fs.S3FileSystem(endpoint_override=address, scheme="http", allow_bucket_creation=True).create_dir("mylog")
        yield f"endpoint_override={address}&scheme=http&region=us-east-1"
        server.terminate()


def test_every_block_has_a_test() -> None:
    tested = ["additions", "arrow", "ray", "spark", "dataset", "mylog.yaml", "local", "ray_job", "spark_job", "send", "s3"]
    assert list(blocks()) == [*tested, "dags/semid_daily.py", "histories"]


def test_what_a_worker_needs(page: Page) -> None:
    """A Python that finds nothing but this repository, pyarrow, NumPy and Numba enriches."""
    packages = page.folder / "packages"
    packages.mkdir()
    for package in ("numpy", "pyarrow", "numba", "llvmlite"):
        (home,) = map(Path, importlib.import_module(package).__path__)
        for part in (home, home.with_name(f"{home.name}.libs")):
            if part.exists():
                (packages / part.name).symlink_to(part)
    paths = f"import sys\nsys.path += {[str(packages), str(ROOT)]}\n"
    used = "\nfor batch in enricher.batches(log.to_batches()):\n    print(batch.num_rows, batch.num_columns)"
    command = [sys.executable, "-I", "-S", "-c", paths + blocks()["additions"].text + used]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert sum(rows for rows, _ in told) == ROWS
    assert {columns for _, columns in told} == {page.expected(page.log).num_columns}
    assert len(pickle.dumps(page.names["enricher"])) < 1000


def test_the_log_has_what_the_page_speaks_of(page: Page) -> None:
    rows = page.expected(page.log).to_pylist()
    assert any(row["target_codes_text"] == [65535] * 3 for row in rows)
    assert any(row["target_keys_sid"] == [1000] * 3 for row in rows)
    assert any(not row["history_item_ids"] for row in rows)


def test_arrow(page: Page) -> None:
    page.python("arrow")
    assert pq.read_table("by_arrow.parquet").equals(page.expected(page.log))
    told = json.loads(pq.read_schema("by_arrow.parquet").metadata[b"semid.sid_contracts"])
    assert told == [CONTRACT.to_json()]


def test_the_table_of_columns(page: Page) -> None:
    """What it says is there, and right."""
    columns = {
        "target_codes_SOURCE": ("target_codes_text", "`fixed_size_list<uint16>[L]`", pa.list_(pa.uint16(), 3)),
        "history_codes_SOURCE": ("history_codes_text", "`list<uint16>`", pa.list_(pa.uint16())),
        "target_keys_NAME": ("target_keys_sid", "`fixed_size_list<int64>[G]`", pa.list_(pa.int64(), 3)),
        "history_keys_NAME": ("history_keys_sid", "`list<int64>`", pa.list_(pa.int64())),
        "hashed_context_NAME": ("hashed_context_country", "the column's own", page.log.schema.field("context_country").type),
        "normalized_dense_NAME": ("normalized_dense_past_count", "`float`", pa.float32()),
    }
    told = re.findall(r"^\| `(\w+)` \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    assert dict(told) == {pattern: kind for pattern, (_, kind, _) in columns.items()}
    schema = page.expected(page.log).schema
    for name, _, kind in columns.values():
        assert schema.field(name).type == kind


def test_ray(page: Page, ray_address: str) -> None:
    written = pq.read_table("by_ray").sort_by("row")
    assert written.equals(page.expected(page.log))


def test_spark(page: Page, spark: Any) -> None:
    expected = page.expected(page.log)
    written = pq.read_table("by_spark").sort_by("row")
    assert written.column_names == expected.column_names
    for name in ("target_codes_text", "history_codes_text"):
        assert written[name].type.value_type == pa.int32()
    for name in ("target_keys_sid", "history_keys_sid"):
        assert written[name].type.value_type == pa.int64()
    assert written.cast(expected.schema).equals(expected)


def test_a_whole_job(page: Page, job: Dataset) -> None:
    assert len(job.files) == len(open_dataset("runs/mylog/impressions").files) > 1
    assert job.metadata["sid_contracts"] == [CONTRACT.to_json()]
    assert_statistics(job, page.log)
    assert read_table(job).equals(page.expected(page.log, job))
    assert "enrich: up to date" in page.bash("local")


def test_a_whole_job_on_ray(page: Page, job: Dataset, ray_address: str) -> None:
    told = page.bash("ray_job", RAY_ADDRESS=ray_address)
    assert f"Connecting to existing Ray cluster at address: {ray_address}" in told
    assert ENRICHED in told
    assert open_dataset("runs/mylog/enriched", verify=True).files == job.files


def test_a_whole_job_in_the_session_of_spark(page: Page, job: Dataset, spark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = len(spark.sparkContext.statusTracker().getJobIdsForGroup())
    page.python("spark_job")
    assert ENRICHED in capsys.readouterr().out
    assert len(spark.sparkContext.statusTracker().getJobIdsForGroup()) > before
    assert open_dataset("runs/mylog/enriched", verify=True).files == job.files


def test_a_whole_job_on_s3(page: Page, job: Dataset, java: None, s3_options: str) -> None:
    shutil.rmtree("cache", ignore_errors=True)
    with mock.patch.dict(os.environ, {"S3_OPTIONS": s3_options}):
        page.python("send")
        assert ENRICHED in page.bash("s3")
    written = open_dataset(f"s3://mylog/enriched?{s3_options}", verify=True)
    assert read_table(written).equals(read_table(job))
    assert len(list(Path("cache").glob("*/*/meta.json"))) == 1


def test_airflow(page: Page) -> None:
    if not AIRFLOW.exists():
        pytest.fail(f"{AIRFLOW} is not there: make airflow")
    page.file("mylog.yaml")
    page.file("dags/semid_daily.py")
    for day, rows in DAYS.items():
        with DatasetWriter(f"impressions/{day}", page.log.schema, {}, rows_per_file=300) as writer:
            writer.write(page.log[rows])
    second = open_dataset("impressions/2026-01-02")
    damaged = Path(second.part(len(second.files) - 1).path)
    whole = Path(shutil.copy(damaged, "whole"))
    damaged.write_bytes(bytes(whole.stat().st_size))
    told = run_airflow(page, damaged, whole)
    # At once; at the second attempt; and once more with nothing to do.
    assert told["runs"] == [["success", 1], ["success", 2], ["success", 1]]
    # A day is worked on when it is over, and the days since the first one are caught up with.
    assert told["interval"] == ["2026-01-01 00:00:00+00:00", "2026-01-02 00:00:00+00:00"]
    one, two = (open_dataset(f"runs/{day}/enriched", verify=True) for day in DAYS)
    assert len(told["kept"]) == len(two.files) - 1 > 1
    assert told["kept"].items() < told["second"].items()
    assert told["rerun"] == told["second"]
    assert_statistics(one, page.log[DAYS["2026-01-01"]])
    assert two.metadata["dense_statistics"] == one.metadata["dense_statistics"]
    for dataset, rows in zip((one, two), DAYS.values(), strict=True):
        assert read_table(dataset).equals(page.expected(page.log[rows], dataset))
    assert_extends(DenseIdMap.load(Path("runs/2026-01-01/dense_ids")), DenseIdMap.load(Path("runs/2026-01-02/dense_ids")), page.log)


def run_airflow(page: Page, damaged: Path, whole: Path) -> dict[str, Any]:
    """What integration_airflow.py tells. On one CPU, so that a job works on one part after the other, and the damaged one is the last."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(page.folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(page.folder / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "SEMID": str(BIN / "semid"),
        "SEMID_FOLDER": str(page.folder),
    }
    one_cpu = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    command = [*one_cpu, str(AIRFLOW), str(Path(__file__).with_name("integration_airflow.py")), "told.json", str(damaged), str(whole)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(Path("told.json").read_text())


def assert_statistics(job: Dataset, rows: pa.Table) -> None:
    for name in DENSE:
        logarithms = np.log1p(rows[name].to_numpy().astype(np.float64))
        told = job.metadata["dense_statistics"][name]
        assert told == pytest.approx({"mean": logarithms.mean(), "std": logarithms.std()})


def assert_extends(older: DenseIdMap, newer: DenseIdMap, log: pa.Table) -> None:
    before, after = (dict(zip(each.ids.tolist(), each.table_rows.tolist(), strict=True)) for each in (older, newer))
    assert set(before) == set(log[DAYS["2026-01-01"]]["item_id"].to_pylist())
    assert set(after) == set(log["item_id"].to_pylist()) > set(before)
    assert {item: after[item] for item in before} == before
    assert sorted(after.values()) == list(range(len(after)))


def test_histories(page: Page) -> None:
    log = page.log
    users = pa.array(log["user_id"].to_numpy() % 4)
    events = log.drop_columns(["history_item_ids", "history_timestamps"]).set_column(1, "user_id", users)
    events = events.take(np.random.default_rng(0).permutation(ROWS))
    Path("events").mkdir()
    pq.write_table(events, "events/0.parquet", row_group_size=100)
    page.python("histories")
    rows = pa.concat_tables([pq.read_table(part) for part in sorted(Path("by_histories").iterdir())])
    times = rows["timestamp"].to_pylist()
    assert times == sorted(times)
    columns = (rows[name].to_pylist() for name in ("row", "history_item_ids", "history_timestamps"))
    found = {row: list(zip(items, times, strict=True)) for row, items, times in zip(*columns, strict=True)}
    assert found == plain_histories(events.to_pylist(), length=20, delay=datetime.timedelta(hours=1))
    assert rows.equals(page.expected(rows.select([*events.column_names, "history_item_ids", "history_timestamps"])))


def plain_histories(events: list[dict[str, Any]], length: int, delay: datetime.timedelta) -> dict[int, list[tuple[int, datetime.datetime]]]:
    """Row to its history, event by event."""
    by_user: dict[int, list[dict[str, Any]]] = {}
    for event in sorted(events, key=lambda event: event["timestamp"]):
        by_user.setdefault(event["user_id"], []).append(event)
    histories = {}
    for own in by_user.values():
        for event in own:
            known = [past for past in own if past["label_click"] and past["timestamp"] + delay < event["timestamp"]]
            histories[event["row"]] = [(past["item_id"], past["timestamp"]) for past in known[::-1][:length]]
    return histories
