"""The Redis store against a real server that the tests start: look-ups, appends, versions, damage, and errors that keep the password."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from features.entity_store import EntityStore, open_store
from features.errors import InputError
from features.semantic_id import UNKNOWN_CODE, SidContract

if TYPE_CHECKING:
    from features.store.redis_store import RedisStore

SERVER = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(SERVER is None, reason="no redis-server on the PATH")
redis = pytest.importorskip("redis")

CONTRACT = SidContract(levels=3, codebook_size=256, codebook_hash="c0de", source="text", generation=1)
REFRESHED = SidContract(levels=3, codebook_size=256, codebook_hash="beef", source="text", generation=2)
IDS = np.random.default_rng(0).permutation(np.arange(-1500, 1500)) * 7_000_000_000_000
CODES = np.random.default_rng(1).integers(0, 256, (3000, 3)).astype(np.uint16)


def opened(url: str) -> "RedisStore":
    store = open_store(url)
    assert not isinstance(store, EntityStore)
    return store


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server's socket; the server ends with the module."""
    path = tmp_path_factory.mktemp("redis") / "socket"
    assert SERVER is not None
    arguments = [SERVER, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--requirepass", "s3cret"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as server:
        while not path.exists():
            assert server.poll() is None
            time.sleep(0.01)
        yield path
        server.terminate()


@pytest.fixture
def url(socket: Path, request: pytest.FixtureRequest) -> str:
    """A store of the test's own."""
    name = "".join(letter for letter in request.node.name if letter.isalnum())
    return f"unix://{socket}?name={name}&password=s3cret"


def test_look_ups_appends_and_publishes_agree_with_a_dictionary(url: str) -> None:
    store = opened(url)
    assert store.publish([(IDS[:1000], {"text": CODES[:1000]})], [CONTRACT]) == "v000001"
    store.append(IDS[900:2000], {"text": CODES[900:2000]}, [CONTRACT])
    answer = store.lookup(np.concatenate([IDS, IDS[::-1]]))
    expected = np.where(np.arange(3000)[:, None] < 2000, CODES, UNKNOWN_CODE)
    assert np.array_equal(answer.codes, np.concatenate([expected, expected[::-1]]))
    assert answer.misses == 2000
    assert store.get(int(IDS[1500])) == tuple(CODES[1500].tolist())
    assert store.get(5) is None
    for prefix in ([3], [3, int(CODES[:2000][CODES[:2000, 0] == 3][0, 1])]):
        has = (CODES[:2000, : len(prefix)] == prefix).all(axis=1)
        assert has.any()
        assert store.items_with_prefix(prefix).tolist() == sorted(IDS[:2000][has].tolist())
    # What was appended outlives a publish that does not name it.
    assert store.publish([(IDS[:1000], {"text": CODES[:1000]})], [CONTRACT]) == "v000002"
    assert np.array_equal(opened(url).lookup(IDS).codes, expected)


def test_a_published_semantic_id_is_never_changed(url: str) -> None:
    store = opened(url)
    store.publish([(IDS[:10], {"text": CODES[:10]})], [CONTRACT])
    store.append(IDS[10:20], {"text": CODES[10:20]}, [CONTRACT])
    store.append(IDS[5:15], {"text": CODES[5:15]}, [CONTRACT])
    for item in (3, 13):
        with pytest.raises(InputError, match=rf"item id {IDS[item]} has Semantic ID \({CODES[item, 0]}, .* of 'text' .*never recomputed"):
            store.append(IDS[item : item + 1], {"text": CODES[item : item + 1] ^ 1}, [CONTRACT])
    with pytest.raises(InputError, match=rf"item id {IDS[13]} has Semantic ID .* in the version to publish"):
        store.publish([(IDS[:20], {"text": CODES[:20] ^ (np.arange(20) == 13)[:, None]})], [CONTRACT])
    with pytest.raises(InputError, match=r"codebook_hash is 'c0de' in .* but 'beef' in the items to append"):
        store.append(IDS[20:30], {"text": CODES[20:30]}, [REFRESHED])
    with pytest.raises(InputError, match=rf"3 appended items, the first {IDS[17:20].min()}, are not in the version to publish"):
        store.publish([(IDS[:17], {"text": CODES[:17]})], [REFRESHED])
    assert store.version == "v000001"
    assert np.array_equal(store.lookup(IDS[:20]).codes, CODES[:20])
    store.publish([(IDS[:20], {"text": CODES[:20] ^ 1})], [REFRESHED])
    assert np.array_equal(store.lookup(IDS[:20]).codes, CODES[:20] ^ 1)


def test_sources_are_published_apart(url: str) -> None:
    store, image = opened(url), SidContract(2, 256, "1mg", "image", 1)
    store.publish([(IDS[:20], {"text": CODES[:20]})], [CONTRACT])
    store.publish([(IDS[10:30], {"image": CODES[10:30, :2]})], [image])
    assert (store.lookup(IDS[:30], "text").misses, store.lookup(IDS[:30], "image").misses) == (10, 10)
    assert np.array_equal(store.lookup(IDS[10:30], "image").codes, CODES[10:30, :2])
    with pytest.raises(InputError, match="say which source is meant; it has image, text"):
        store.lookup(IDS[:1])


def test_every_batch_is_of_one_version_while_versions_are_published_and_removed(url: str) -> None:
    store, ids = opened(url), np.arange(500)

    def publish(number: int) -> None:
        contract = SidContract(3, 256, "c0de", "text", number)
        store.publish([(ids, {"text": np.full((500, 3), number, np.uint16)})], [contract], grace_seconds=0)

    publish(1)
    done = threading.Event()

    def publish_all() -> None:
        for number in range(2, 16):
            publish(number)
        done.set()

    publisher = threading.Thread(target=publish_all)
    publisher.start()
    seen = [1]
    while not done.is_set():
        codes = opened(url).lookup(ids).codes if len(seen) % 5 == 0 else store.lookup(ids).codes
        assert (codes == codes[0, 0]).all()
        assert codes[0, 0] >= seen[-1]
        seen.append(int(codes[0, 0]))
    publisher.join()
    assert len(set(seen)) > 3
    assert store.lookup(ids).codes[0, 0] == 15


def test_a_changed_bit_is_told_by_item(url: str, socket: Path) -> None:
    store = opened(url)
    store.publish([(IDS[:10], {"text": CODES[:10]})], [CONTRACT])
    client = redis.Redis(unix_socket_path=str(socket), password="s3cret")
    key = next(key for key in client.scan_iter() if key.startswith(b"testachangedbitistoldbyitem:v1:"))
    item = int.from_bytes(key[-8:], "big") - 2**63
    for bit in range(80):
        client.setbit(key, bit, not client.getbit(key, bit))
        with pytest.raises(InputError, match=f"the record of item {item} is damaged"):
            store.lookup(IDS[:10])
        client.setbit(key, bit, not client.getbit(key, bit))
    assert store.lookup(IDS[:10]).misses == 0


def test_unfit_items_are_refused_and_the_version_stays(url: str) -> None:
    store = opened(url)
    with pytest.raises(InputError, match="nothing was published here"):
        store.lookup(IDS)
    store.publish([(IDS[:10], {"text": CODES[:10]})], [CONTRACT])
    for batches, message in (
        ([], "no items"),
        ([(IDS[:2], {"text": CODES[:2, :2]})], "do not fit levels 3"),
        ([(IDS[:2], {"text": np.full((2, 3), 256)})], "do not fit codebook_size 256"),
        ([(IDS[:2], {"text": CODES[:2]}), (IDS[:2], {"text": CODES[2:4]})], "two Semantic IDs"),
    ):
        with pytest.raises(InputError, match=message):
            store.publish(batches, [CONTRACT])
    assert store.version == "v000001"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://:s3cret@localhost:1/0?name=items", "redis://localhost:1: the Redis server cannot be reached"),
        ("redis://:s3cret@localhost:1", "NAME is letters"),
        ("redis://:s3cret@localhost:1?name=items&colour=s3cret", "there is no option 'colour'"),
        ("redis://:word#s3cret@localhost:1?name=items", "not of the form"),
        ("redis://:word/s3cret@localhost:port?name=items", "not of the form"),
        ("unix:///nowhere/socket?name=items&password=s3cret", "unix:///nowhere/socket: the Redis server cannot be reached"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_the_password(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        open_store(url)
    assert "s3cret" not in str(raised.value)


def test_a_wrong_password_is_told_but_not_repeated(socket: Path) -> None:
    with pytest.raises(InputError, match=f"{socket}: the Redis server refuses user or password") as raised:
        open_store(f"unix://{socket}?name=items&password=guess")
    assert "guess" not in str(raised.value)


def test_without_the_package_the_extra_is_named() -> None:
    code = "import sys; sys.modules['redis'] = None; from features.entity_store import open_store; open_store('redis://localhost?name=a')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "InputError: an entity store on a Redis server needs the package redis: pip install 'semid[redis]'" in done.stderr
