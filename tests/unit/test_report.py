"""The report against the results that it shows: every figure, dashes for nulls, escaping, no outside reference."""

import html
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from features.dataset import DatasetWriter, open_dataset, read_table
from features.errors import InputError
from features.schema import ITEMS
from features.segments import STREAM
from pipeline import recipe as recipes
from pipeline import report
from pipeline.config import RunConfig
from pipeline.findings import Cell
from pipeline.recipe import with_overrides
from tests.toy_log import toy_recipe, write_toy_log

FROZEN = {"training_impressions": ("head", "torso", "tail", "seen", "new")}
PROGRESSIVE = {segmentation.column: segmentation.names for segmentation in STREAM}
NEGATIVES = "constructed: 4 per play, of <the same> quarter"
EVIL = "<script>alert('$x$')</script>&amp;"
VOID = {"meta", "br", "wbr", "path", "use", "rect"}


class Page(HTMLParser):
    """What a browser would see: text, tables by id, attributes, and whether the tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.text, self.tags, self.ids, self.attributes = "", Counter[str](), list[str](), list[tuple[str, str, str]]()
        self._open: list[str] = []
        self._table: list[list[str]] | None = None
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        given = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in given.items()]
        self.ids += [given["id"]] if "id" in given else []
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = self.tables[given["id"]] = []
        elif self._table is not None and tag == "tr":
            self._table.append([])
        elif self._table is not None and tag in ("td", "th"):
            self._table[-1].append("")
        elif self._table and tag == "span" and self._table[-1]:
            self._table[-1][-1] += " "

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._table and self._table[-1] and {"td", "th"} & set(self._open):
            self._table[-1][-1] += data


def results_of(names: list[str], **data: Any) -> dict[str, Any]:
    """Made-up results in evaluate's shape, no two figures alike."""
    figure = itertools.count(1)

    def cell(*, compared: bool) -> Cell:
        step = next(figure)
        gain = -5 + 0.1 * step
        changes = {"gain": gain, "low": gain - 1.005, "high": gain + 1.005} if compared else dict.fromkeys(("gain", "low", "high"))
        return {"ne": 0.5 + 0.0011 * step, "auc": 0.6 + 0.0013 * step, "calibration": 1 + 0.0017 * step, **changes}

    def judged(partings: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        segments = {"all": None, **{name: by for by, names in partings.items() for name in names}}
        table = {
            name: {segment: cell(compared=name not in ("random_hash", "oracle")) for segment in segments} for name in [*names, "oracle"]
        }
        about = [{"name": name, "rows": 1000 + place, "by": by} for place, (name, by) in enumerate(segments.items())]
        return {"segments": about, "variants": table}

    sizes = {"rows": 3000, "train_rows": 2400, "evaluation_rows": 600, "stream_rows": 1500}
    return {
        "name": "toy", "baseline": "random_hash", "seeds": [0, 1, 2], "data": {"source": "toy", "negatives": None, **data, **sizes},
        "table_rows": {name: 3301 + place for place, name in enumerate(names)},
        "frozen": judged(FROZEN), "progressive": judged(PROGRESSIVE),
        "curve": {name: [None, *np.linspace(0.9, 0.8, 23)] for name in names},
    }  # fmt: skip


QUALITY = {
    "items": 290, "reconstruction_error": 0.1234, "usage": [1.0, 0.875, 0.5], "entropy_bits": [3.9, 3.4, 2.2], "unique_share": 0.333,
    "prefix_cosine": [0.01, 0.41, 0.68, None],
}  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_toy_log(folder, rows=3000, items=300)
    ids = pa.table(
        {field.name: pa.array(range(300), field.type) if field.name == "item_id" else pa.nulls(300, field.type) for field in ITEMS}
    )
    with DatasetWriter(folder / "items", ITEMS, {"source": "toy"}) as writer:
        writer.write(ids.cast(ITEMS))
    contract = {"levels": 3, "codebook_size": 16, "codebook_hash": "feed" * 16, "source": "text", "generation": 1}
    (folder / "codebook" / "text").mkdir(parents=True)
    (folder / "codebook" / "text" / "codebook.json").write_text(json.dumps({"contract": contract, "quality": QUALITY}))
    return folder


@pytest.fixture
def config(workdir: Path) -> RunConfig:
    return recipes.load("simulated", toy_recipe(workdir))


def written(config: RunConfig, results: dict[str, Any]) -> str:
    config.path("evaluate").mkdir(exist_ok=True)
    (config.path("evaluate") / "results.json").write_text(json.dumps(results))
    report.run(config)
    return (config.path("report") / "report.html").read_text()


def test_every_figure_of_the_tables_is_that_of_the_results(config: RunConfig) -> None:
    results = results_of(list(config.evaluate.variants))
    page = Page(written(config, results))
    for part, by in [("frozen", by) for by in FROZEN] + [("progressive", by) for by in PROGRESSIVE]:
        segments = [segment for segment in results[part]["segments"] if segment["by"] in (None, by)]
        assert len(segments) == 6
        heading = ["variant", *(f"{segment['name']} {segment['rows']:,} rows" for segment in segments)]
        gains, metrics = page.tables[f"{by}-gain"], page.tables[f"{by}-metrics"]
        assert [tidy(row) for row in (gains[0], metrics[0])] == [heading, heading]
        variants = results[part]["variants"]
        assert [tidy(row) for row in gains[1:]] == [
            [name, *(gain_text(cells[segment["name"]]) for segment in segments)]
            for name, cells in variants.items()
            if name not in ("random_hash", "oracle")
        ]
        assert [tidy(row) for row in metrics[1:]] == [
            [
                f"{name} baseline" if name == "random_hash" else name,
                *(f"{cell['ne']:.4f} {cell['auc']:.4f} · {cell['calibration']:.3f}" for cell in (cells[one["name"]] for one in segments)),
            ]
            for name, cells in variants.items()
        ]
    assert [row[:2] for row in map(tidy, page.tables["sizes"][1:])] == [[name, f"{rows:,}"] for name, rows in results["table_rows"].items()]
    assert [tidy(row) for row in page.tables["codebook-levels"][1:]] == [
        ["1", "100.0", "3.90", "0.41"], ["2", "87.5", "3.40", "0.68"], ["3", "50.0", "2.20", "-"],
    ]  # fmt: skip


def tidy(row: list[str]) -> list[str]:
    return [" ".join(cell.replace("\N{MINUS SIGN}", "-").split()) for cell in row]


def gain_text(cell: dict[str, float]) -> str:
    star = "*" if cell["low"] > 0 or cell["high"] < 0 else ""
    return f"{cell['gain']:+.2f}{star} {cell['low']:+.2f} … {cell['high']:+.2f}"


def test_nulls_are_dashes(config: RunConfig) -> None:
    results = results_of(list(config.evaluate.variants))
    results["frozen"]["variants"]["semantic_id"]["new"] = dict.fromkeys(("ne", "auc", "calibration", "gain", "low", "high"))
    results["frozen"]["variants"]["semantic_id"]["head"] |= {"low": None, "high": None, "auc": None}
    page = Page(written(config, results))
    gains, metrics = (
        {row[0]: row for row in map(tidy, page.tables[name])}["semantic_id"]
        for name in ("training_impressions-gain", "training_impressions-metrics")
    )
    assert gains[-1] == "-"
    assert re.fullmatch(r"[+-]\d\.\d\d - … -", gains[2])
    assert metrics[-1] == "- - · -"
    assert re.fullmatch(r"\d\.\d{4} - · \d\.\d{3}", metrics[2])
    assert "not defined" in page.text


def test_nothing_is_loaded_from_anywhere(config: RunConfig) -> None:
    text = written(config, results_of(list(config.evaluate.variants), credit="see https://example.org"))
    page = Page(text)
    assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    references = [value for _, name, value in page.attributes if name in ("href", "src", "srcset", "data", "action", "poster")]
    assert all(value.startswith("#") for value in references)
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "@import" not in text
    assert not [value for _, _, value in page.attributes if "://" in value]
    assert "see https://example.org" in page.text
    assert len(page.ids) == len(set(page.ids))
    assert {value[1:] for value in references} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert page.tags["svg"] == 6


def test_names_are_escaped_everywhere(config: RunConfig) -> None:
    variants = {EVIL if name == "semantic_id" else name: changes for name, changes in config.evaluate.variants.items()}
    config = with_overrides(config, {"evaluate.variants": variants})
    text = written(config, results_of(list(variants), negatives=NEGATIVES, further=EVIL))
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert [cell for table in page.tables.values() for row in table for cell in row].count(EVIL) == 7
    assert [html.unescape(words) for words in re.findall(r"<text[^>]*>([^<]*)</text>", text)].count(EVIL) == 4  # legends
    assert page.text.split("What came out")[1].count(EVIL) > 8
    assert NEGATIVES in page.text


def test_constructed_negatives_and_a_single_seed_are_told_before_the_findings(config: RunConfig) -> None:
    constructed = results_of(list(config.evaluate.variants), negatives=NEGATIVES) | {"seeds": [7]}
    before, findings_on = Page(written(config, constructed)).text.split("What came out")
    assert "not an impression log" in before
    assert NEGATIVES in before
    assert "One seed only" in before
    assert "3,000" in before
    assert "2,400" in before
    assert NEGATIVES in findings_on  # again among the facts
    plain = Page(written(config, results_of(list(config.evaluate.variants)))).text
    assert "impression log" not in plain
    assert "One seed" not in plain


def test_the_same_results_give_the_same_bytes(config: RunConfig) -> None:
    results = results_of(list(config.evaluate.variants))
    assert written(config, results) == written(config, results)


def test_item_counts_over_row_groups(workdir: Path) -> None:
    dataset = open_dataset(workdir / "impressions")
    expected = Counter(read_table(dataset).column("item_id").to_pylist())
    assert report.item_counts(dataset).tolist() == sorted(expected.values(), reverse=True)


def test_what_is_missing_damaged_or_of_another_recipe_is_refused(config: RunConfig, tmp_path: Path) -> None:
    for results, problem in ((None, "no such file"), ("{", "not JSON"), ("{}", "key 'baseline' is missing")):
        elsewhere = with_overrides(config, {"workdir": str(tmp_path)})
        if results is not None:
            elsewhere.path("evaluate").mkdir(exist_ok=True)
            (elsewhere.path("evaluate") / "results.json").write_text(results)
        with pytest.raises(InputError, match=rf"results\.json: {problem}"):
            report.run(elsewhere)
    with pytest.raises(InputError, match="its variants are not the recipe's"):
        written(config, results_of(["random_hash", "semantic_id"]))
