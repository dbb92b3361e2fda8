"""The outputs of a reproduction against the rows that went in: every figure and verdict, strict JSON, escaping, no outside reference."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from pipeline.reproduce.finding import Estimate, Finding, Row
from pipeline.reproduce.markdown import as_markdown, plain
from pipeline.reproduce.page import MARGIN, SCALE, drawn_intervals, render, write
from pipeline.reproduce.results import SCHEMA, VERDICTS, Made, Results, _row, results, summary
from pipeline.reproduce.study import Study
from pipeline.reproduce.terminal import findings_tables
from tests.unit import made_up_findings
from tests.unit.made_up_findings import EVIL, NAN
from tests.unit.test_report import Page, tidy
from tests.unit.toy_study import toy_study, toy_world

MADE = Made("semid reproduce --data toy --set 'a.b=<c>'", 200.4, 2)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("page")
    return toy_study(folder, made_up_findings.variants(toy_world(folder / "first")))


@pytest.fixture(scope="module")
def findings(study: Study) -> list[Finding]:
    return [made_up_findings.find(study), made_up_findings.evil()]


@pytest.fixture(scope="module")
def told(study: Study, findings: list[Finding]) -> Results:
    return results(study, findings, MADE)


@pytest.fixture(scope="module")
def page(study: Study, findings: list[Finding], tmp_path_factory: pytest.TempPathFactory) -> Page:
    out = tmp_path_factory.mktemp("out")
    written = write(out, study, findings, MADE)
    assert json.loads((out / "reproduction.json").read_text()) == written
    assert (out / "reproduction.md").read_text() == as_markdown(written)
    return Page((out / "reproduction.html").read_text())


def digits(text: str) -> list[float]:
    """The figures in a text."""
    return [float(found) for found in re.findall(r"[-+]?\d[\d,]*\.?\d*", text.replace("\N{MINUS SIGN}", "-").replace(",", ""))]


def test_every_row_is_there_with_its_figures_verdict_and_reason(page: Page, findings: list[Finding]) -> None:
    head, *table = page.tables["rows-1"]
    assert tidy(head) == ["what", "paper", "here 95% interval", "shuffled control", "sign claimed", "verdict"]
    assert len(table) == len(findings[0].rows)
    for cells, row in zip(map(tidy, table), findings[0].rows, strict=True):
        what, paper, here, control, sign, verdict = cells
        assert what == row.what
        assert paper == (row.paper or "-")
        assert_told(here, row.ours, row.unit)
        assert_told(control, row.control, row.unit)
        assert sign.partition(" ")[0] == (row.expected or "-")
        assert verdict.startswith(f"{VERDICTS[row.verdict]} {row.verdict}")
        reason = verdict.removeprefix(f"{VERDICTS[row.verdict]} {row.verdict}").strip()
        assert row.words.lower().replace(",", "").endswith(reason.lower().replace(",", ""))


def assert_told(cell: str, estimate: Estimate | None, unit: str) -> None:
    """To the digits that are printed, which must be enough to tell its bounds from each other."""
    if estimate is None or estimate.mean != estimate.mean:
        assert cell == "-"
        return
    mean, *bounds = digits(cell)
    assert mean == pytest.approx(estimate.mean, abs=0.51 * 10.0**-estimate.digits)
    assert unit in cell
    if not estimate.is_known:
        assert bounds == []
        return
    assert bounds == pytest.approx([estimate.low, estimate.high], abs=0.51 * 10.0**-estimate.digits)
    assert estimate.low == estimate.high or bounds[0] < bounds[1]


def test_the_overview_counts_every_finding(page: Page, findings: list[Finding]) -> None:
    for cells, finding in zip(map(tidy, page.tables["overview"][1:]), findings, strict=True):
        verdicts = [row.verdict for row in finding.rows]
        assert cells[0] == " ".join(finding.title.split())
        assert "".join(cells[1].split()).replace("\u200b", "") == "".join(VERDICTS[verdict] for verdict in verdicts)
        assert cells[2] == ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts)


def test_the_summary_counts_claims(told: Results, page: Page) -> None:
    rows = [row for finding in told["findings"] for row in finding["rows"]]
    confirmed, refuted, untold, shown = (sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS)
    assert min(confirmed, refuted, untold, shown) > 1
    expected = (
        f"{len(rows) - shown} claims were looked at: {confirmed} are confirmed here, {refuted} are not, and {untold} cannot be tested on "
        f"this data. {shown} more figures are shown, of which nothing is claimed."
    )
    assert summary(told) == expected
    assert expected in " ".join(page.text.split())
    one = {"verdicts": {"confirmed": 1, "not confirmed": 0, "not testable": 0, "shown": 0}}
    assert summary(one) == "1 claim was looked at: 1 is confirmed here, 0 are not, and 0 cannot be tested on this data."
    assert summary({"verdicts": dict.fromkeys(VERDICTS, 0)}) == "No claim was looked at."


def test_json_is_strict_and_its_keys_are_those_promised(told: Results, study: Study, findings: list[Finding], tmp_path: Path) -> None:
    write(tmp_path, study, findings, MADE)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    read = json.loads((tmp_path / "reproduction.json").read_text(), parse_constant=refuse)
    assert read == told
    assert read["schema"] == SCHEMA == 1
    assert set(read) == {
        "schema", "name", "command", "processes", "seconds", "trainings", "seeds", "draws", "data", "sizes", "worlds", "verdicts",
        "findings", "variants", "settings",
    }  # fmt: skip
    row = {"what", "paper", "ours", "unit", "expected", "found", "control", "verdict", "words", "why_not"}
    for finding in read["findings"]:
        assert set(finding) == {"number", "title", "question", "verdicts", "rows", "notes"}
        assert all(set(each) == row for each in finding["rows"])
    by_what = {each["what"]: each for each in read["findings"][0]["rows"]}
    assert by_what["too few for an interval"]["ours"] == {"mean": -1.234, "low": None, "high": None}
    assert by_what["too few for an interval"]["found"] is None
    assert by_what["not here"]["ours"] is None
    assert by_what["lost by the control"]["control"] == {"mean": 0.4, "low": 0.06, "high": 0.74}
    assert by_what["on the other side"]["found"] == "negative"
    assert read["sizes"] == {
        "rows": 3000, "train_rows": 2304, "evaluation_rows": 696, "stream_rows": 1500, "users": 100, "items": 222, "impressed_items": 222,
        "table_rows": 3300,
    }  # fmt: skip
    assert read["seconds"] == {"command": 200.4, "trainings": 8 * 3 * 1.5}


def test_the_variants_are_told_with_what_they_override_and_how_often_they_were_trained(page: Page, told: Results, study: Study) -> None:
    table = {row[0]: row for row in map(tidy, page.tables["trained"][1:])}
    assert list(table) == [variant.name for variant in study.variants] == [variant["name"] for variant in told["variants"]]
    own = table["semantic_id_of_the_target"]
    assert own[1:3] == ["98", "3 times"]
    assert own[3] == "target: Semantic ID prefixes 1 to 2, exact coarse rows, 3,300 rows (target only)"
    assert own[4] == "train.id_dropout: 0.0"
    assert table["of_a_view"][4] == 'embed.sources: ["text", "vector_view_2"]quantize.levels: 2'
    assert table["shuffled_semantic_id"][4] == "train.store: store_shuffled"
    assert "negative control" in table["shuffled_semantic_id"][3]
    assert "8 variants were trained with 3 seeds each, 24 trainings." in " ".join(page.text.split())
    assert "The trainings take 36 s of one core in all. This call took 3 min 20 s on 2 processes" in " ".join(page.text.split())
    assert MADE.command in page.text


def test_what_data_it_is_comes_first(study: Study, told: Results) -> None:
    told = json.loads(json.dumps(told))
    plain_page = " ".join(Page(render(told, [[], []])).text.split())
    assert "3,000 impressions of 222 items by 100 users (toy)" in plain_page
    assert "constructed" not in plain_page
    assert "simulated." not in plain_page
    assert "One seed only." not in plain_page
    told["data"] |= {"negatives": "constructed: 4 per play, of <the same> quarter", "positive": "a play", "credit": "someone"}
    told["seeds"] = [0]
    text = " ".join(Page(render(told, [[], []])).text.split())
    first = text[: text.index("What came out")]
    assert (
        "These negatives were constructed; this is not an impression log. Negatives are constructed: 4 per play, of <the same> quarter."
        in first
    )
    assert "A positive is a play." in first
    assert "One seed only." in first
    assert "Credit" in text
    told["data"] = {"source": "simulated"}
    told["worlds"] = ["simulated_80", "simulated_40"]
    text = " ".join(Page(render(told, [[], []])).text.split())
    assert "This world is simulated." in text
    assert "simulated_80, simulated_40" in text


def test_nothing_is_loaded_from_anywhere_and_every_link_leads_somewhere(page: Page, study: Study, findings: list[Finding]) -> None:
    assert not set(page.tags) & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    references = [value for _, name, value in page.attributes if name in ("href", "src", "srcset", "data", "action", "poster")]
    assert {"#finding-1", "#finding-2"} <= set(references)
    assert all(value.startswith("#") and value[1:] in page.ids for value in references)
    assert len(set(page.ids)) == len(page.ids)
    assert not [value for _, name, value in page.attributes if "://" in value and name not in ("aria-label",)]
    text = render(results(study, findings, MADE), [finding.plots for finding in findings])
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "@import" not in text


def test_text_is_text(page: Page) -> None:
    for place in (page.tables["overview"][2][0], page.tables["rows-2"][1][0]):
        assert " ".join(place.split()) == " ".join(EVIL.split())
    assert page.text.count(EVIL) >= 5
    assert page.text.count("<script>") == page.text.count("alert(")


def test_tables_say_what_they_are_where_style_takes_that_from_them(page: Page) -> None:
    """Rows become cards on a phone, and then only roles still say that they are rows."""
    roles = [value for _, name, value in page.attributes if name == "role"]
    assert roles.count("table") == len([name for name in page.tables if name != "counts"]) == 4
    assert roles.count("row") == sum(len(rows) for rows in page.tables.values())
    assert roles.count("cell") + roles.count("rowheader") + roles.count("columnheader") == sum(
        len(row) for rows in page.tables.values() for row in rows
    )


def claimed(**estimates: Estimate) -> list[dict[str, Any]]:
    return [_row(Row(name, "", estimate, expected="negative")) for name, estimate in estimates.items()]


def test_intervals_are_drawn_to_one_scale_that_holds_zero() -> None:
    drawn = drawn_intervals(claimed(a=Estimate(-2.0, -4.0, 0.0), b=Estimate(1.0, 0.5, 4.0)))
    a, b = (each["ours"] for each in drawn)
    inner = SCALE - 2 * MARGIN
    assert [a.low, a.mean, a.high] == pytest.approx([MARGIN, MARGIN + inner / 4, MARGIN + inner / 2])
    assert [b.low, b.mean, b.high] == pytest.approx([MARGIN + inner * 4.5 / 8, MARGIN + inner * 5 / 8, SCALE - MARGIN], abs=0.06)
    assert {each["zero"] for each in drawn} == {MARGIN + inner / 2}
    assert not any((a.cut_low, a.cut_high, b.cut_low, b.cut_high))


def test_a_few_far_wider_intervals_are_cut_and_say_so() -> None:
    narrow = {name: Estimate(-1.0, -2.0, -0.5) for name in "abc"}
    *others, wide = drawn_intervals(claimed(**narrow, wide=Estimate(-100.0, -300.0, 100.0)))
    assert (wide["ours"].low, wide["ours"].high, wide["ours"].cut_low, wide["ours"].cut_high) == (MARGIN, SCALE - MARGIN, True, True)
    assert all(each["ours"].high - each["ours"].low > 5 and not each["ours"].cut_low for each in others)


def test_what_has_no_interval_or_no_claim_is_not_drawn() -> None:
    rows = [
        *claimed(a=Estimate(-2.0, NAN, NAN), b=Estimate(0.0, 0.0, 0.0)), _row(Row("c", "", None, expected="zero", why_not="none")),
        _row(Row("d", "", Estimate(1.0, 0.5, 1.5))), _row(replace(made_up_findings.every_verdict()[0], control=Estimate(1.0, NAN, NAN))),
    ]  # fmt: skip
    drawn = drawn_intervals(rows)
    assert [bool(each) for each in drawn] == [False, True, False, False, True]
    assert drawn[4]["control"] is None
    assert drawn_intervals([]) == []


def test_markdown_says_the_same_to_another_parser(told: Results) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(as_markdown(told))
    kinds = {token.type for token in tokens} | {child.type for token in tokens for child in token.children or []}
    assert not kinds & {"html_block", "html_inline", "link_open", "code_inline", "strong_close_", "image", "em_open"}
    cells = ["".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"]
    rows = [row for finding in told["findings"] for row in finding["rows"]]
    for row in rows:
        assert " ".join(row["what"].split()) in cells
        assert any(cell.startswith(VERDICTS[row["verdict"]]) and " ".join(row["words"].split()) in cell for cell in cells)
    assert sum(token.type == "tr_open" for token in tokens) == len(rows) + len(told["findings"])
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == [plain(told["name"]), *(plain(finding["title"]) for finding in told["findings"])]
    (command,) = [token.content for token in tokens if token.type == "fence"]
    assert command.strip() == MADE.command


def test_the_terminal_shows_every_row_in_its_width(told: Results) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*findings_tables(told))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 120
    for row in told["findings"][0]["rows"]:
        assert row["what"][:20] in text
        assert f"{VERDICTS[row['verdict']]} {row['verdict']}" in text
    assert text.count("✗ not confirmed") == told["findings"][0]["verdicts"]["not confirmed"]


def test_a_study_of_several_worlds_tells_of_all_their_variants(study: Study, findings: list[Finding]) -> None:
    study = Study(study.world, study.variants, study.seeds, (Study(study.world, study.variants[:2], study.seeds),))
    told = results(study, findings, MADE)
    assert told["worlds"] == ["toy", "toy"]
    assert len(told["variants"]) == len(study.variants) + 2
    assert told["seconds"]["trainings"] == (len(study.variants) + 2) * 3 * 1.5
