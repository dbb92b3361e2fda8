"""`semid explore`: what it gathers against dictionaries, what the page holds, what it refuses, and what it takes from a run's folder."""

import base64
import gzip
import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.store.publish import publish
from features.store.versions import open_snapshot
from pipeline.cli import main
from pipeline.explore import Inputs, _table, gather
from pipeline.explore_inputs import Places, Shown, most_shown, placed
from pipeline.explore_page import Explored, as_html, levels, ranges, sections
from tests.toy_items import EVIL, ToyItems, write_toy_items
from tests.toy_log import CONTRACT, IMAGE


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def world(workdir: Path) -> ToyItems:
    return write_toy_items(workdir)


@pytest.fixture(scope="module")
def found(workdir: Path, world: ToyItems) -> Explored:
    inputs = Inputs(*(str(workdir / name) for name in ("items", "impressions", "content/text")))
    return gather(open_snapshot(workdir / "store"), inputs, _table(CONTRACT, 97, None, None))


def test_items_stand_in_the_order_of_their_codes_with_their_own_counts(found: Explored, world: ToyItems) -> None:
    assert found.shown is not None
    assert found.names is not None
    ids = found.ids_N.tolist()
    coded = sorted(world.codes, key=lambda item: (world.codes[item], item))
    assert ids == [*coded, *sorted(set(world.names) - set(coded))]
    assert [tuple(codes) for codes in found.codes_SL.tolist()] == [world.codes[item] for item in coded]
    assert found.shown.impressions.tolist() == [world.impressions[item] for item in ids]
    assert found.shown.clicks.tolist() == [world.clicks[item] for item in ids]
    assert found.names.values.to_pylist() == [world.names[item] for item in ids]
    assert found.shown.strangers == 0


def test_levels_are_counted(found: Explored, world: ToyItems) -> None:
    users = Counter(row for rows in found.rows for row in rows.tolist())
    for length, level in enumerate(levels(found), start=1):
        sizes = Counter(codes[:length] for codes in world.codes.values())
        pairs = [world.cosine(world.with_prefix(prefix)) * n * (n - 1) for prefix, n in sizes.items() if n > 1]
        assert (level.length, level.prefixes, level.largest) == (length, len(sizes), max(sizes.values()))
        assert level.alone == sum(n == 1 for n in sizes.values())
        assert level.unused.tolist() == [c for c in range(16) if c not in {codes[length - 1] for codes in world.codes.values()}]
        assert level.rows == len(set(found.rows[length - 1].tolist()))
        assert level.crowded == sum(users[row] > 1 for row in found.rows[length - 1].tolist())
        assert level.cosine == pytest.approx(sum(pairs) / sum(n * (n - 1) for n in sizes.values()), abs=2e-3)


def test_the_page_holds_the_arrays(found: Explored, world: ToyItems) -> None:
    page = as_html(found)
    packed = re.findall(r'id="data-([\w-]+)" data-kind="(\w+)">([A-Za-z0-9+/=]+)</script>', page)
    kinds = {"Uint16Array": "<u2", "Uint32Array": "<u4", "Int16Array": "<i2", "Float64Array": "<f8", "BigInt64Array": "<i8"}
    raw = {name: (kind, gzip.decompress(base64.b64decode(text))) for name, kind, text in packed}
    assert list(raw) == [section.name for section in sections(found)]
    arrays = {name: np.frombuffer(data, kinds[kind]) for name, (kind, data) in raw.items() if kind != "text"}
    names = raw["names"][1].decode().split("\n")
    assert dict(zip(arrays["ids"].tolist(), names, strict=True)) == world.names
    for length in range(1, 4):
        sizes = Counter(codes[:length] for codes in world.codes.values())
        assert arrays[f"codes-{length}"].tolist() == [prefix[-1] for prefix in sorted(sizes)]
        assert arrays[f"sizes-{length}"].tolist() == [sizes[prefix] for prefix in sorted(sizes)]
        for prefix, cosine in zip(sorted(sizes), arrays[f"cosines-{length}"].tolist(), strict=True):
            wanted = world.cosine(world.with_prefix(prefix)) if sizes[prefix] > 1 else None
            assert (None if cosine == -32768 else cosine / 10_000) == (wanted if wanted is None else pytest.approx(wanted, abs=2e-3))


def test_the_page_lets_nothing_else_in(found: Explored) -> None:
    page = as_html(found)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)
    assert policy is not None
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy[1] == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert EVIL not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "http://" not in page
    assert "https://" not in page


def test_of_too_many_texts_those_of_the_most_shown_items_are_kept() -> None:
    ids, texts = np.arange(6), pa.array(["aaaa", "bb", "", "cccc", None, "dd"])
    shown = Shown(np.array([1, 9, 0, 9, 5, 2]), np.zeros(6, np.int64), 0)
    kept = placed(texts, np.arange(6), most_shown(ids, shown), budget=8)
    assert kept is not None
    assert kept.values.to_pylist() == ["", "bb", "", "cccc", "", "dd"]
    assert kept.cut == 1
    order = most_shown(ids, None)
    assert sorted(order.tolist()) == list(range(6))
    assert order.tolist() == most_shown(ids, None).tolist()


def test_places_of_ids() -> None:
    ids = np.array([5, -3, 9])
    assert Places(ids).of(np.array([9, 5, 4, -3, 100, -100])).tolist() == [2, 0, -1, 1, -1, -1]


@pytest.mark.parametrize(
    ("codes", "told"), [([], "none"), ([4], "4"), ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10"), ([0, 2, 4, 6, 8], "0, 2, 4 and 2 more")]
)
def test_codes_in_words(codes: list[int], told: str) -> None:
    assert ranges(np.array(codes, np.int64), most=3) == told


def test_a_run_has_everything_at_its_place(workdir: Path, world: ToyItems, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", str(workdir), "--rows", "97"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sizes = [len({codes[:length] for codes in world.codes.values()}) for length in (1, 2, 3)]
    assert lines[0].startswith(
        f"explore: text: {len(world.codes)} items with {sizes[0]} / {sizes[1]} / {sizes[2]} prefixes of 1 / 2 / 3 codes; "
    )
    assert lines[1] == f"explore: {len(world.names) - len(world.codes)} items have no Semantic ID"
    assert lines[2] == f"explorer: {workdir / 'explorer_text.html'}, {(workdir / 'explorer_text.html').stat().st_size / 2**20:.1f} MiB"
    assert len(lines) == 3


def test_what_is_not_given_is_left_out_and_said(workdir: Path, world: ToyItems, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = list(world.codes)[:100]
    pq.write_table(pa.table({"item_id": some}), tmp_path / "items.parquet")
    pq.write_table(pa.table({"item_id": [some[0], -1, -1], "label_click": pa.array([1, 0, 1], pa.int8())}), tmp_path / "log.parquet")
    base = ["explore", str(workdir / "store"), "--items", str(tmp_path / "items.parquet"), "--out", str(tmp_path / "page.html")]
    assert main(base) == 0
    out = capsys.readouterr().out
    assert "no impressions given" in out
    assert "no content vectors given" in out
    assert "neither titles nor texts" in out
    assert f"the table shown has {16 + 16**2 + 16**3:,} rows, one for every prefix" in out
    assert f"{len(world.codes) - 100} items of the store are not among the items given" in out
    page = (tmp_path / "page.html").read_text()
    assert "no impressions given, hence no click rates (--impressions)" in page
    assert not re.search(r'id="data-(impressions|names|originals|cosines-1)"', page)
    assert main([*base, "--impressions", str(tmp_path / "log.parquet"), "--depth", "2"]) == 0
    out = capsys.readouterr().out
    assert "no impressions given" not in out
    assert "2 impressions are of items that are neither in the store nor among the items given" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--items", "items.parquet"], "nowhere: no entity store here (CURRENT is missing)"),
        (["store"], "--items is missing"),
        (["store", "--items", "nowhere.parquet"], "nowhere.parquet: no data set here"),
        (["store", "--items", "double.parquet"], "double.parquet: item_id 4 stands there 2 times"),
        (["store", "--items", "bytes.parquet"], "bytes.parquet: its texts cannot be read"),
        (["store", "--items", "named.parquet"], "column 'item_id' (int64) is missing"),
        (["store", "--items", "items.parquet", "--impressions", "items.parquet"], "column 'label_click' (int8) is missing"),
        (["store", "--items", "items.parquet", "--impressions", "null.parquet"], "null.parquet: column 'label_click' has nulls"),
        (["store", "--items", "items.parquet", "--content", "items.parquet"], "column 'vector' must be fixed_size_list<float32>"),
        (["store", "--items", "items.parquet", "--source", "image"], "there is no source 'image'; it has text"),
        (["two", "--items", "items.parquet"], "say which source is meant; it has text, vector_image"),
        (["store", "--items", "items.parquet", "--rows", "0"], "--rows 0: expected a positive number"),
        (["store", "--items", "items.parquet", "--rows", "9"], "9 rows are too few for depth 3"),
        (["store", "--items", "items.parquet", "--depth", "4"], "depth 4 is not in 1..3"),
        (["store", "--items", "items.parquet", "--out", "no/page.html"], "--out no/page.html: no such folder as no"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    workdir: Path,
    world: ToyItems,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").symlink_to(workdir / "store")
    pq.write_table(pa.table({"item_id": [4, 5]}), "items.parquet")
    pq.write_table(pa.table({"item_id": [4, 5, 4]}), "double.parquet")
    pq.write_table(pa.table({"id": ["a"]}), "named.parquet")
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"item_id": [4], "title": text}), "bytes.parquet")
    pq.write_table(pa.table({"item_id": [4], "label_click": pa.array([None], pa.int8())}), "null.parquet")
    if arguments[0] == "two":
        ids = np.array([1, 2])
        publish(
            tmp_path / "two",
            [(ids, {"text": np.zeros((2, 3), np.uint16)}), (ids, {"vector_image": np.ones((2, 2), np.uint16)})],
            [CONTRACT, IMAGE],
        )
    assert main(["explore", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("semid explore: ")
    assert error.count("\n") == 1
    assert told in error


def test_a_source_of_two_levels_has_rows_for_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = np.array([1, 2, 3])
    publish(tmp_path / "store", [(ids, {"vector_image": np.array([[1, 2], [1, 2], [8, 0]], np.uint16)})], [IMAGE])
    pq.write_table(pa.table({"item_id": ids, "original_id": ["x\ny", None, "z"]}), tmp_path / "items.parquet")
    assert main(["explore", str(tmp_path / "store"), "--items", str(tmp_path / "items.parquet")]) == 0
    assert "3 items with 2 / 2 prefixes of 1 / 2 codes; 33.3% have" in capsys.readouterr().out
    page = (tmp_path / "explorer_vector_image.html").read_text()
    assert "prefixes of 1 to 2 codes into 90 rows" in page
    assert "Unused codes of level 2: 7</summary><p>1, 3-8</p>" in page
    originals = re.search(r'id="data-originals" data-kind="text">([A-Za-z0-9+/=]+)<', page)
    assert originals is not None
    assert gzip.decompress(base64.b64decode(originals[1])).decode() == "x y\n\nz"
