"""The command `semid reproduce` on a tiny simulated world: stopped, gone on, nothing done twice; and its page in a real Chromium."""

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from launch.chain import ROOT
from pipeline.cli import main
from pipeline.preemption import RESUME_ME
from pipeline.reproduce.results import summary
from tests.e2e.test_explore import DESKTOP, PHONE, TOO_FAINT

CHROMIUM = shutil.which("chromium")
ONLY = ("table_5", "importance")  # they need the core variants and one more
SIZES = {
    "simulate.items": 300,
    "simulate.users": 150,
    "ingest.history_length": 5,
    "embed.sources": "[vector_content]",  # else texts are encoded
    "quantize.codebook_size": 16,
    "quantize.epochs": 3,
    "model.rows": 100,
    "train.global_batch": 500,
}


class Made:
    """A reproduction that was stopped by SIGTERM, started again, and started once more when there was nothing left to do."""

    def __init__(self, out: Path) -> None:
        self.out = out
        stopped = subprocess.Popen(command(out), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not any(out.glob("*/runs/*/about.json")) and stopped.poll() is None:
            time.sleep(0.02)
        stopped.send_signal(signal.SIGTERM)
        self.stopped = subprocess.CompletedProcess([], stopped.wait(), *stopped.communicate())
        self.workers_left = [log.stem for log in (out / "logs").iterdir() if runs_still(log.stem)]
        self.kept = {path: path.stat().st_mtime_ns for path in out.glob("*/runs/*/about.json")}
        self.finished, self.told = self._again(), json.loads((out / "reproduction.json").read_text())
        self.idle, self.told_again = self._again(), json.loads((out / "reproduction.json").read_text())

    def _again(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(self.out), cwd=ROOT, capture_output=True, text=True, check=False)


def command(out: Path, *further: str, **changes: object) -> list[str]:
    sets = [part for key, value in {**SIZES, **changes}.items() for part in ("--set", f"{key}={value}")]
    sizes = ["--rows", "4000", "--seeds", "2", "--only", ",".join(ONLY), "--out", str(out)]
    return [sys.executable, "-m", "pipeline.cli", "reproduce", *sizes, *further, *sets]


def runs_still(number: str) -> bool:
    """Whether there is such a process; it may take a moment until the last of it is cleared away."""
    for _ in range(3000):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
                continue
        return False
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("reproduction"))


def test_sigterm_stops_it_and_the_same_command_goes_on(made: Made) -> None:
    assert made.stopped.returncode == RESUME_ME, made.stopped.stderr
    assert made.stopped.stderr == "semid reproduce: stopped; the same command goes on from here\n"
    assert made.workers_left == []
    assert made.finished.returncode == 0, made.finished.stderr
    assert made.finished.stderr == ""
    assert len(made.kept) >= 1
    assert {path: path.stat().st_mtime_ns for path in made.kept} == made.kept
    assert len(list(made.out.glob("*/runs/*/about.json"))) == made.told["trainings"] == 2 * 7
    assert not list(made.out.glob("*/runs/.*.tmp"))


def test_what_it_prints_ends_with_the_summary_and_where_the_page_is(made: Made) -> None:
    *_, last = made.finished.stdout.splitlines()
    assert summary(made.told) in " ".join(made.finished.stdout.split())
    assert last.startswith(f"reproduction: {made.out / 'reproduction.html'}, and .json and .md beside it, in ")
    titles = [finding["title"] for finding in made.told["findings"]]
    assert len(titles) == len(ONLY)
    assert all(title in made.finished.stdout for title in titles)


def test_a_second_run_does_nothing_twice_and_finds_the_same(made: Made) -> None:
    assert made.idle.returncode == 0, made.idle.stderr
    assert made.idle.stdout.splitlines()[:2] == ["world: up to date", "rankers: up to date"]
    for told in (made.told, made.told_again):
        assert told.pop("seconds")["trainings"] > 0
    assert made.told_again == made.told


def test_other_worlds_are_made_only_for_findings_that_ask(made: Made) -> None:
    assert made.told["worlds"] == ["simulated_80"]
    assert [path.name for path in sorted(made.out.glob("simulated_*"))] == ["simulated_80"]


def test_every_row_has_a_verdict_and_a_figure_or_a_reason(made: Made) -> None:
    rows: list[dict[str, Any]] = [row for finding in made.told["findings"] for row in finding["rows"]]
    assert rows
    assert sum(made.told["verdicts"].values()) == len(rows)
    for row in rows:
        assert row["verdict"] in made.told["verdicts"]
        assert (row["ours"] is None) == bool(row["why_not"])
        assert row["words"]
    assert made.told["sizes"]["rows"] == 4000
    assert made.told["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("further", "changes", "told"),
    [
        (["--only", "table_99"], {}, "--only: there is no finding 'table_99'; there are "),
        (["--seeds", "0"], {}, "--seeds 0: at least 1"),
        (["--rows", "-5"], {}, "--rows -5: at least 1"),
        (["--data", "ifdb"], {}, "--data-dir is missing: the folder of the raw files of ifdb, or its parent"),
        (["--data-dir", "."], {}, "--data-dir: the simulated world has no raw files"),
        (["--data", "nowhere"], {}, "recipe 'nowhere' is neither a file nor one of "),
        ([], {"workdir": "x"}, "--set workdir=x: not here, --out is the folder"),
        ([], {"train.seed": 3}, "--set train.seed=3: not here, --seeds is how many there are"),
        ([], {"evaluate.bootstrap": 3}, "--set evaluate.bootstrap=3: not here, findings choose what is compared"),
        ([], {"model.rowz": 3}, "simulated: 'model.rowz': unknown key; did you mean 'model.rows'?"),
    ],
)
def test_what_the_user_got_wrong_is_told_in_one_line_before_anything_starts(
    tmp_path: Path, further: list[str], changes: dict[str, object], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, *further, **changes)[3:]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"semid reproduce: {told}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_less_than_a_batch_are_refused_before_anything_is_trained(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made.out / "simulated_80", tmp_path / "simulated_80", symlinks=True)
    assert main(command(tmp_path, **{"train.global_batch": 3500})[3:]) == 2
    printed = capsys.readouterr()
    assert printed.out == "world: up to date\n"
    assert printed.err == (
        "semid reproduce: simulated_80: 80% of its 4,000 rows are to be trained on, in whole batches of 3500, and the others judged: that "
        "leaves none to train on\n"
    )


# The page.

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # containers run as root
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, made: Made, size: tuple[int, int], scheme: str = "light") -> Iterator[Page]:
    """The page in a window of its own; on the way out, nothing was asked of the network and nothing went wrong."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if scheme == "dark" else "light", offline=True
    )
    address, asked, wrong = (made.out / "reproduction.html").as_uri(), list[str](), list[str]()
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    assert {url.partition("#")[0] for url in asked} == {address}
    assert wrong == []


@in_a_browser
def test_the_page_has_what_the_json_has(browser: Browser, made: Made) -> None:
    with opened(browser, made, DESKTOP) as page:
        for number, finding in enumerate(made.told["findings"], start=1):
            section = page.locator(f"#finding-{number}")
            expect(section.locator("h2")).to_have_text(finding["title"])
            assert section.get_by_role("rowheader").all_inner_texts() == [row["what"] for row in finding["rows"]]
            verdicts = section.locator(".verdict").all_inner_texts()
            assert [verdict.split(maxsplit=1)[1] for verdict in verdicts] == [row["verdict"] for row in finding["rows"]]
        page.get_by_role("link", name=made.told["findings"][1]["title"]).click()
        expect(page.locator("#finding-2 h2")).to_be_in_viewport()


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_page_is_readable_everywhere(browser: Browser, made: Made, size: tuple[int, int], scheme: str) -> None:
    with opened(browser, made, size, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert page.evaluate(TOO_FAINT) == []
        for place in ("#summary", "#finding-1", "#variants"):
            page.locator(place).scroll_into_view_if_needed()
            page.evaluate("place => document.querySelector(place).scrollIntoView()", place)
            picture = image.imread(io.BytesIO(page.screenshot()))[:, :, :3]
            assert picture.shape[:2] == (size[1], size[0])
            corner = picture[2, 2].mean()
            assert corner < 0.2 if scheme == "dark" else corner > 0.9
            assert 0.01 < (np.abs(picture.mean(axis=2) - corner) > 0.3).mean() < 0.5


@in_a_browser
def test_the_page_prints_on_white_paper_whatever_the_screen(browser: Browser, made: Made) -> None:
    with opened(browser, made, DESKTOP, "dark") as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate(TOO_FAINT) == []
        assert page.pdf(format="A4").startswith(b"%PDF")
