"""The results tables: what a reader of a plain log must find in them, and that they fit 120 columns."""

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from features.segments import STREAM
from pipeline.tables import WIDTH, print_results, results_table

FROZEN = {"training_impressions": ("head", "torso", "tail", "seen", "new")}
PROGRESSIVE = {segmentation.column: segmentation.names for segmentation in STREAM}
VARIANTS = ("no_item", "random_hash", "individual", "semantic_id", "semantic_id_and_random_hash", "shuffled_semantic_id", "oracle")


def cell(ne: float | None, gain: float | None = None, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    return {"ne": ne, "auc": 0.7, "calibration": 1.0, "gain": gain, "low": low, "high": high}


def judged(partings: Mapping[str, tuple[str, ...]], rows: int) -> dict[str, Any]:
    by = {"all": None, **{name: by for by, names in partings.items() for name in names}}
    segments = tuple(by)
    variants = {name: {segment: cell(0.91234, -12.345, -13.4, -11.3) for segment in segments} for name in VARIANTS}
    for name in ("random_hash", "oracle"):
        variants[name] = {segment: cell(0.87654) for segment in segments}
    return {"segments": [{"name": name, "rows": rows, "by": by[name]} for name in segments], "variants": variants}


@pytest.fixture
def results() -> dict[str, Any]:
    data = {"source": "ifdb", "negatives": "4 per positive, by popularity", "rows": 1000, "train_rows": 800, "evaluation_rows": 200}
    sizes = dict.fromkeys(VARIANTS[:-1], 1_234_567)
    frozen, progressive = judged(FROZEN, 123_456_789), judged(PROGRESSIVE, 123_456_789)
    return {
        "name": "ifdb", "baseline": "random_hash", "seeds": [0, 1, 2], "data": data, "table_rows": sizes,
        "frozen": frozen, "progressive": progressive, "curve": {},
    }  # fmt: skip


def text(results: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=WIDTH)
    console.print(results_table(results))
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_wide_figures_still_fit_and_none_is_cut(results: dict[str, Any]) -> None:
    printed = text(results)
    assert max(map(len, printed.splitlines())) <= WIDTH
    assert "…\n" not in printed
    assert printed.count("-12.3*") == 5 * 18
    assert printed.count("-13.4…-11.3") == 5 * 18
    assert printed.count("NE 0.8765") == 2 * 18
    assert printed.count("123,456,789") == 18


def test_each_table_has_its_segments_and_the_variants_in_the_files_order(results: dict[str, Any]) -> None:
    parts = text(results).split("As a stream")
    assert [part.splitlines()[0].partition("; by ")[2].strip() for part in parts[1:]] == ["the item's impressions so far", "the item's age"]
    for part, names_of in zip(parts, (*FROZEN.values(), *PROGRESSIVE.values()), strict=True):
        segments = ("all", *names_of)
        header = next(line for line in part.splitlines() if all(f" {name} " in f"{line} " for name in segments))
        assert sorted(segments, key=lambda name: header.index(f" {name}")) == list(segments)
        names = [line.split()[0] for line in part.splitlines() if line.startswith(" ") and "0." in line]
        assert names == [name.replace("_and_random_hash", "_") for name in VARIANTS]


def test_only_an_interval_clear_of_zero_is_marked(results: dict[str, Any]) -> None:
    row = results["frozen"]["variants"]["semantic_id"]
    row["head"], row["torso"], row["tail"] = cell(0.9, -0.5, -1.0, 0.1), cell(0.9, 0.5, 0.1, 1.0), cell(0.9, -0.7, -1.0, -0.1)
    printed = text(results)
    assert "-0.50 " in printed
    assert "+0.50*" in printed
    assert "-0.70*" in printed
    assert "-1.00…+0.10" in printed


def test_a_segment_without_both_classes_shows_no_figure(results: dict[str, Any]) -> None:
    results["frozen"]["variants"] = {"random_hash": {name: cell(None) for name in ("all", *FROZEN["training_impressions"])}}
    lines = [line for line in text(results).splitlines() if line.strip().startswith("random_hash")]
    assert lines[0].split() == ["random_hash", "1,234,567", *"-------"]


def test_the_data_and_how_its_negatives_came_about_stand_above(results: dict[str, Any]) -> None:
    head = " ".join(text(results).split())
    assert "ifdb (ifdb): 1,000 impressions, 800 of them for training, 200 after it; negatives: 4 per positive, by popularity" in head
    assert "against random_hash" in head
    assert "seeds 0, 1, 2" in head
    results["data"]["negatives"] = None
    assert "negatives:" not in text(results)


def test_output_that_is_no_terminal_is_plain(results: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_results(results)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= WIDTH
