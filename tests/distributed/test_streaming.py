"""Streams with real servers and processes: Redis, kills at every step of a publish, and readers while a data set grows."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from features.dataset import PartWriter, has_dataset, open_dataset, read_table
from features.engines.mapper import Enricher
from features.enrich import Additions
from features.errors import InputError
from features.location import Location
from features.streams.directory import Directory
from features.streams.follow import follow
from features.streams.micro_batch import Source
from features.streams.sink import Sink
from launch.chain import ROOT
from pipeline.preemption import RESUME_ME
from tests.toy_log import toy_recipe, write_enriched_toy_log

if TYPE_CHECKING:
    from features.streams.redis_stream import RedisStream

ROWS = 240
SERVER = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(SERVER is None, reason="no redis-server on the PATH")
redis = pytest.importorskip("redis")
numbers = count()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy log and what stage enrich makes of it."""
    workdir = tmp_path_factory.mktemp("log")
    write_enriched_toy_log(workdir, rows=ROWS)
    return workdir


@pytest.fixture(scope="module")
def impressions(log: Path) -> pa.Table:
    return read_table(open_dataset(log / "impressions")).combine_chunks()


@pytest.fixture(scope="module")
def enriched(log: Path) -> pa.Table:
    return read_table(open_dataset(log / "enriched")).combine_chunks()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server that ends with the module."""
    assert SERVER is not None
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = [SERVER, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--requirepass", "s3cret"]
        with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
            client = redis.Redis(port=port, password="s3cret")
            while process.poll() is None:  # else another program was quicker with the port
                with suppress(redis.ConnectionError):
                    client.ping()
                    yield f"redis://:s3cret@127.0.0.1:{port}"
                    process.terminate()
                    return
                time.sleep(0.01)


@pytest.fixture(scope="module")
def client(server: str) -> Any:
    return redis.Redis.from_url(server)


def opened(url: str, wait_seconds: float = 0.005) -> "RedisStream":
    from features.streams.redis_stream import RedisStream

    return RedisStream(url, wait_seconds=wait_seconds)


def sent(rows: pa.Table, rows_per_batch: int | None = None) -> bytes:
    """An entry's batch, as a producer makes it."""
    output = pa.BufferOutputStream()
    with pa.ipc.new_stream(output, rows.schema) as writer:
        writer.write_table(rows, rows_per_batch)
    return output.getvalue().to_pybytes()


def pieces(rows: pa.Table, cuts: Sequence[int]) -> list[pa.Table]:
    return [rows.slice(start, stop - start) for start, stop in pairwise([0, *sorted(cuts), rows.num_rows])]


def put(folder: Path, name: str, rows: pa.Table) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(rows, folder / f"{name}.tmp")
    (folder / f"{name}.tmp").rename(folder / name)


def follow_to(output: Path, log: Path, source: Source, *, stopped: Callable[[], bool] = lambda: False, **options: Any) -> bool:
    sink = Sink(output, Enricher.of(log / "store", Additions(("text",))), str(source), **{"max_seconds": 0.0, **options})
    return follow(source, sink, stopped=stopped)


def after(asked: int) -> Callable[[], bool]:
    """A wish to stop that comes when it is asked for the n-th time."""
    numbers = iter(range(1, 10**9))
    return lambda: next(numbers) == asked


@needs_redis
@settings(max_examples=25)
@example(cuts=[0, 0, 7, 7, ROWS], rows_per_part=100, rows_per_batch=3, stops=[1, 1])
@given(
    cuts=st.lists(st.integers(0, ROWS), max_size=20),
    rows_per_part=st.integers(20, 300),
    rows_per_batch=st.integers(5, 300),
    stops=st.lists(st.integers(1, 4), max_size=3),
)
def test_entries_make_the_rows_of_one_batch_job(
    server: str,
    client: Any,
    log: Path,
    impressions: pa.Table,
    enriched: pa.Table,
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    rows_per_part: int,
    rows_per_batch: int,
    stops: list[int],
) -> None:
    name, output = f"impressions:{next(numbers)}", tmp_path_factory.mktemp("redis") / "out"
    entries = [client.xadd(name, {"batch": sent(piece, rows_per_batch)}) for piece in pieces(impressions, cuts)]
    client.xadd(name, {"end": ""})
    client.xadd(name, {"batch": b"what comes after the end is not looked at"})
    for stop in stops:
        follow_to(output, log, opened(f"{server}/{name}"), stopped=after(stop), rows_per_part=rows_per_part)
    for _ in range(2):  # once more changes nothing
        assert follow_to(output, log, opened(f"{server}/{name}"), rows_per_part=rows_per_part)
        found = open_dataset(output, verify=True)
        assert read_table(found).equals(enriched)
        assert found.metadata["position"] == {"entry": entries[-1].decode(), "entries": len(entries)}
        assert found.metadata["sid_contracts"] == open_dataset(log / "enriched").metadata["sid_contracts"]
        assert "s3cret" not in (output / "manifest.json").read_text()


STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 20)),
    st.tuples(st.just("trim"), st.integers(0, 10)),
    st.tuples(st.just("delete"), st.integers(0, 40)),
    st.tuples(st.just("take"), st.integers(1, 20)),
)


@needs_redis
@settings(max_examples=60)
@example(steps=[("add", 3), ("take", 3), ("trim", 0)])
@example(steps=[("add", 3), ("take", 2), ("trim", 1), ("add", 1)])
@example(steps=[("add", 3), ("take", 2), ("trim", 0), ("add", 1)])
@example(steps=[("add", 3), ("take", 1), ("delete", 2), ("take", 2)])
@example(steps=[("add", 3), ("take", 2), ("delete", 0), ("delete", 0), ("add", 2)])
@given(steps=st.lists(STEPS, max_size=12))
def test_what_was_lost_before_it_was_taken_is_told_and_nothing_else(server: str, client: Any, steps: list[tuple[str, int]]) -> None:
    """Against a plain list of what is in the stream, and one of what was taken."""
    name = f"lost:{next(numbers)}"
    url, data, position = f"{server}/{name}", sent(pa.table({"x": [1]})), None
    there: list[str] = []
    added: list[str] = []
    taken: list[str] = []
    for kind, number in [*steps, ("take", 10**6)]:
        if kind == "add":
            new = [client.xadd(name, {"batch": data}).decode() for _ in range(number)]
            there, added = there + new, added + new
        elif kind == "trim" and there:
            client.xtrim(name, maxlen=number, approximate=False)
            there = there[max(len(there) - number, 0) :]
        elif kind == "delete" and number < len(there):
            client.xdel(name, there.pop(number))
        elif kind == "take":
            arrivals = opened(url).arrivals(position)
            if set(added[len(taken) :]) - set(there):
                with pytest.raises(InputError, match=rf"{name}: entries after [-\d]+ were trimmed away or deleted before they were taken"):
                    next(arrivals)
                return
            for arrived, _ in zip(arrivals, range(number), strict=False):
                if arrived is None:
                    break
                position = arrived.position
                taken.append(position["entry"])
            assert taken == added[: len(taken)]
            assert len(taken) == len(added) or number < 10**6


@needs_redis
def test_entries_trimmed_while_followed_are_told_and_what_was_published_stays(
    server: str, client: Any, log: Path, impressions: pa.Table, enriched: pa.Table, tmp_path: Path
) -> None:
    first, second, third = pieces(impressions, [100, 200])
    client.xadd("trimmed", {"batch": sent(first)})
    assert not follow_to(tmp_path / "out", log, opened(f"{server}/trimmed"), stopped=after(1))
    client.xadd("trimmed", {"batch": sent(second)}, maxlen=1, approximate=False)  # takes the first away, which was taken
    assert not follow_to(tmp_path / "out", log, opened(f"{server}/trimmed"), stopped=after(1))
    assert client.xlen("trimmed") == 1
    for piece in (third, third):
        client.xadd("trimmed", {"batch": sent(piece)}, maxlen=1, approximate=False)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:\d+/trimmed: entries after [-\d]+ were trimmed away or deleted"):
        follow_to(tmp_path / "out", log, opened(f"{server}/trimmed"))
    assert read_table(open_dataset(tmp_path / "out")).equals(enriched.slice(0, 200))


@needs_redis
@pytest.mark.parametrize("entries", [0, 1, 2, 3])
def test_a_stream_written_anew_is_told(server: str, client: Any, entries: int) -> None:
    name, data = f"anew:{next(numbers)}", sent(pa.table({"x": [1]}))
    for _ in range(2):
        client.xadd(name, {"batch": data})
    arrivals = opened(f"{server}/{name}").arrivals(None)
    position = [arrived.position for arrived, _ in zip(arrivals, range(2), strict=False) if arrived is not None][-1]
    client.delete(name)
    for _ in range(entries):
        client.xadd(name, {"batch": data})
    with pytest.raises(InputError, match=f"{name}: not the stream whose entries up to .* it was deleted or written anew"):
        next(opened(f"{server}/{name}").arrivals(position))
    assert next(opened(f"{server}/{name}").arrivals(None)) is not None or not entries


def without_end(data: bytes) -> bytes:
    return data[:-8]


@needs_redis
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (lambda data: {"rows": data}, "has the fields rows, not 'batch' or 'end' alone"),
        (lambda data: {"batch": data, "end": ""}, "has the fields batch, end, not 'batch' or 'end' alone"),
        (lambda data: {"batch": b""}, "the Arrow IPC stream has no end"),
        (lambda data: {"batch": without_end(data)}, "the Arrow IPC stream has no end"),
        (lambda data: {"batch": b"nonsense" + data}, "not an Arrow IPC stream"),
        (lambda data: {"batch": data[:1000] + data[-8:]}, "not an Arrow IPC stream"),
        (lambda data: {"batch": sent(pa.table({"x": [1]}))}, "column 'item_id' .* is missing"),
    ],
)
def test_a_malformed_entry_is_told_by_its_id(
    server: str, client: Any, log: Path, impressions: pa.Table, tmp_path: Path, fields: Callable[[bytes], dict[str, Any]], message: str
) -> None:
    name = f"malformed:{next(numbers)}"
    client.xadd(name, {"batch": sent(impressions.slice(0, 10))})
    entry = client.xadd(name, fields(sent(impressions.slice(10, 50)))).decode()
    with pytest.raises(InputError, match=f"{name}, entry {entry}: {message}"):
        follow_to(tmp_path / "out", log, opened(f"{server}/{name}"))
    assert open_dataset(tmp_path / "out").rows == 10


@needs_redis
def test_no_changed_byte_of_an_entry_does_worse_than_an_error(
    server: str, client: Any, log: Path, impressions: pa.Table, tmp_path: Path
) -> None:
    good, random = sent(impressions.slice(0, 20)), np.random.default_rng(0)
    enricher, told = Enricher.of(log / "store", Additions(("text",))), 0
    schema = len(pa.ipc.read_message(good).serialize())
    for position in [*random.integers(0, len(good) - 8, 200), *random.integers(0, schema, 400)]:
        damaged = bytearray(good)
        damaged[position] ^= 1 << int(random.integers(8))
        client.delete("damaged")
        client.xadd("damaged", {"batch": bytes(damaged)})
        try:
            arrived = next(opened(f"{server}/damaged").arrivals(None))
            assert arrived is not None
            with Sink(tmp_path / "out", enricher, "damaged") as sink:
                sink.take(arrived)
        except InputError as error:
            assert "\n" not in str(error)
            told += 1
    assert told > 50


@needs_redis
def test_what_is_wrong_with_server_or_url_is_told_without_the_password(server: str, client: Any) -> None:
    client.set("text", "no stream")
    with pytest.raises(InputError, match=r"redis://127\.0\.0\.1:\d+: the Redis server answers with an error \(WRONGTYPE"):
        next(opened(f"{server}/text").arrivals(None))
    for url, message in (
        (server, "not of the form redis://"),
        (f"{server}/", "not of the form redis://"),
        (f"{server}/name?db=1", "not of the form redis://"),
        ("redis://:s3cret@localhost:port/name", "not of the form redis://"),
        ("http://:s3cret@localhost/name", "not of the form redis://"),
        ("redis://:s3cret@localhost:1/name", "redis://localhost:1: the Redis server cannot be reached"),
        (f"{server.replace('s3cret', 's3cret-not')}/name", "the Redis server refuses user or password"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            opened(url)
        assert "s3cret" not in str(raised.value)


def test_without_the_package_the_extra_is_named() -> None:
    code = "import sys; sys.modules['redis'] = None; import features.streams.redis_stream"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "InputError: following a Redis stream needs the package redis: pip install 'semid[redis]'" in done.stderr


def follow_until_killed(output: Path, log: Path, make_source: Callable[[], Source], deadly: int) -> None:
    """In a process of its own: it kills itself right before the `deadly`-th write, fsync, rename or removal."""
    left = iter(range(deadly, 0, -1))

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return call

    for owner, name in ((os, "fsync"), (os, "rename"), (PartWriter, "write"), (Location, "remove")):
        setattr(owner, name, dying(getattr(owner, name)))
    assert follow_to(output, log, make_source(), rows_per_part=5)


@pytest.mark.parametrize("kind", ["directory", pytest.param("redis", marks=needs_redis)])
def test_kills_at_each_step_lose_nothing_and_repeat_nothing(
    request: pytest.FixtureRequest, log: Path, impressions: pa.Table, enriched: pa.Table, tmp_path: Path, kind: str
) -> None:
    output, name = tmp_path / "out", f"kills:{next(numbers)}"
    parts = pieces(impressions, [0, 60, 60, *range(5, ROWS, 9)])
    if kind == "redis":
        server, client = request.getfixturevalue("server"), request.getfixturevalue("client")
        for piece in parts:
            client.xadd(name, {"batch": sent(piece)})
        client.xadd(name, {"end": ""})
        make_source: Callable[[], Source] = partial(opened, f"{server}/{name}")
    else:
        for number, piece in enumerate(parts):
            put(tmp_path / "in", f"{number:03d}.parquet", piece)
        (tmp_path / "in" / "_SUCCESS").touch()
        make_source = partial(Directory, Location.of(tmp_path / "in"))
    rows, kills = [0], 0
    for deadly in count(1):
        process = get_context("fork").Process(target=follow_until_killed, args=(output, log, make_source, deadly))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        if has_dataset(output):
            found = open_dataset(output, verify=True)
            assert read_table(found).equals(enriched.slice(0, found.rows))
            rows.append(found.rows)
    print(f"{kills} kills, after {rows}")
    assert rows == sorted(rows)
    assert kills > 12, "a publish has as many steps"
    found = open_dataset(output, verify=True)
    assert read_table(found).equals(enriched)
    assert {path.name for path in output.iterdir()} == {"manifest.json", *(file.name for file in found.files)}


def test_a_reader_always_sees_whole_micro_batches(log: Path, impressions: pa.Table, enriched: pa.Table, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    source, edges = Directory(Location.of(folder), poll_seconds=0.001), [*range(0, ROWS, 15), ROWS]
    process = get_context("fork").Process(target=follow_to, args=(output, log, source), kwargs={"rows_per_part": 5})
    process.start()
    seen, fed = [0], 0
    while seen[-1] < ROWS:
        assert process.is_alive()
        if edges[fed] == seen[-1]:  # all that was fed is there: the next file
            put(folder, f"{fed:03d}.parquet", impressions.slice(seen[-1], edges[fed + 1] - seen[-1]))
            fed += 1
        if has_dataset(output):
            found = open_dataset(output, verify=True)
            assert read_table(found).equals(enriched.slice(0, found.rows))
            assert seen[-1] <= found.rows
            seen.append(found.rows)
    (folder / "_SUCCESS").touch()
    process.join()
    assert process.exitcode == 0
    assert sorted(set(seen)) == edges


def wait_for_rows(output: Path, rows: int, process: "subprocess.Popen[str]") -> None:
    while not has_dataset(output) or open_dataset(output).rows < rows:
        assert process.poll() is None
        time.sleep(0.01)


@needs_redis
def test_the_command_goes_on_after_kill_and_after_sigterm(
    server: str, client: Any, log: Path, impressions: pa.Table, enriched: pa.Table, tmp_path: Path
) -> None:
    name, output = "command", tmp_path / "out"
    sets = [*toy_recipe(log), f"locations={{enriched: {output}}}"]
    command = [sys.executable, "-m", "pipeline.follow", "simulated", "--from", f"{server}/{name}", "--max-seconds", "0.01"]
    command += [part for text in sets for part in ("--set", text)]

    def started() -> "subprocess.Popen[str]":
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    client.xadd(name, {"batch": sent(impressions.slice(0, 100))})
    killed = started()
    wait_for_rows(output, 100, killed)
    killed.kill()
    killed.communicate()
    client.xadd(name, {"batch": sent(impressions.slice(100, 100))})
    stopped = started()
    wait_for_rows(output, 200, stopped)
    stopped.terminate()
    told, error = stopped.communicate()
    assert stopped.returncode == RESUME_ME, error
    assert error == "semid follow: stopped by SIGTERM after 200 rows; the same command goes on from there\n"
    assert "200 rows in 2 parts, 100 of them since this start; " in told
    assert "s3cret" not in told
    client.xadd(name, {"batch": sent(impressions.slice(200))})
    client.xadd(name, {"end": ""})
    ended = started()
    told, error = ended.communicate()
    assert ended.returncode == 0, error
    assert "240 rows in 3 parts, 40 of them since this start; " in told
    assert read_table(open_dataset(output, verify=True)).equals(enriched)
