"""The explorer's page in a real headless Chromium, from file://: search, keyboard, phone, colours, untrusted titles, and no network.

Every figure is compared with what plain dictionaries say of the store and the log (tests/toy_items.py).
"""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from features.prefix_ngram import exact_coarse_keys
from pipeline.cli import main
from tests.toy_items import EVIL, ToyItems, write_toy_items
from tests.toy_log import CONTRACT

CHROMIUM = shutil.which("chromium")
expect.set_options(timeout=60_000)  # ms; a machine may be busy
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

ROWS = 97
NONE = "\N{EN DASH}"
DESKTOP, PHONE = (1280, 900), (360, 740)
# Text whose contrast with what is behind it is below that of WCAG 2.1, AA.
TOO_FAINT = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const colour = channels(getComputedStyle(element).backgroundColor);
    return colour[3] === 0 && element.parentElement ? behind(element.parentElement) : colour;
  };
  const written = [...document.body.querySelectorAll("*")].filter((element) => element.checkVisibility()
    && [...element.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim()));
  return written.filter((element) => {
    const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  }).map((element) => element.outerHTML.slice(0, 200));
}"""

MATES = """() => [...document.querySelectorAll("#shown h3")].slice(1).map((heading) => heading.nextElementSibling).map((list) =>
  list?.matches("ol") ? [...list.querySelectorAll("a")].map((a) => a.textContent).sort() : [])"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def world(workdir: Path) -> ToyItems:
    written = write_toy_items(workdir)
    assert main(["explore", str(workdir), "--rows", str(ROWS)]) == 0
    return written


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # containers run as root
        yield browser
        browser.close()


@pytest.fixture
def page(workdir: Path, world: ToyItems, browser: Browser) -> Iterator[Page]:
    with opened(browser, workdir, DESKTOP) as page:
        yield page


@contextmanager
def opened(browser: Browser, workdir: Path, size: tuple[int, int], *, dark: bool = False, address: str = "") -> Iterator[Page]:
    """The page in a window of its own; in the end, nothing was asked of the network and nothing went wrong."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", offline=True, reduced_motion="reduce"
    )
    file, asked, wrong = (workdir / "explorer_text.html").as_uri(), list[str](), list[str]()
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(file + address)
    expect(page.locator("body[data-ready]")).to_be_visible()
    yield page
    context.close()
    assert {url.partition("#")[0] for url in asked} == {file}
    assert wrong == []


def facts(page: Page) -> dict[str, str]:
    """Terms and values of what is chosen."""
    terms = page.locator("#shown dl dt, #shown dl dd").all_inner_texts()
    return dict(zip(terms[::2], terms[1::2], strict=True))


def prefix_facts(world: ToyItems, prefix: tuple[int, ...]) -> dict[str, str]:
    items = world.with_prefix(prefix)
    impressions, clicks = world.shown(items)
    return {
        "Items": f"{len(items)}, {100 * len(items) / len(world.codes):.2f}% of all",
        "Impressions": f"{impressions:,}",
        "Clicks": f"{clicks:,}",
        "Click rate": f"{100 * clicks / impressions:.2f}%" if impressions else NONE,
    }


def search(page: Page, query: str) -> None:
    page.keyboard.press("/")
    expect(page.locator("#query")).to_be_focused()
    page.keyboard.type(query)
    expect(page.locator("#results a").first).to_be_visible()


def test_the_first_view_is_of_all_items(page: Page, world: ToyItems) -> None:
    shown = facts(page)
    assert shown.items() >= prefix_facts(world, ()).items()
    assert float(shown["Cosine of two of its items"]) == pytest.approx(world.cosine(list(world.codes)), abs=0.006)
    codes = {codes[0] for codes in world.codes.values()}
    assert shown["Codes of the next level in use"] == f"{len(codes)} of {CONTRACT.codebook_size}"
    most = sorted(world.codes, key=lambda item: -world.impressions[item])[:50]
    listed = page.locator("#shown ol.items a").all_inner_texts()
    assert [world.impressions[item] for item in most] == [world.impressions[named(world, name)] for name in listed]


def named(world: ToyItems, name: str) -> int:
    (item,) = (item for item, other in world.names.items() if other == name)
    return item


def test_the_tree_is_walked_by_keyboard(page: Page, world: ToyItems) -> None:
    page.locator("#order").focus()
    page.locator("#order").select_option("code")
    page.keyboard.press("Tab")
    focused = page.locator("[role=treeitem]:focus")
    expect(focused).to_have_attribute("aria-level", "1")
    first = sorted(codes[0] for codes in world.codes.values())[0]
    page.keyboard.press("ArrowRight")
    expect(focused).to_have_attribute("aria-label", row_label(world, (first,)))
    expect(focused).to_have_attribute("aria-expanded", "false")
    assert facts(page).items() >= prefix_facts(world, (first,)).items()
    page.keyboard.press("Enter")
    expect(focused).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    second = min(codes[:2] for codes in world.codes.values())
    expect(focused).to_have_attribute("aria-label", row_label(world, second))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    third = min(world.codes.values())
    expect(focused).to_have_attribute("aria-label", row_label(world, third))
    expect(focused).to_have_attribute("aria-selected", "true")
    assert not focused.get_attribute("aria-expanded")
    assert facts(page).items() >= prefix_facts(world, third).items()
    assert page.evaluate("location.hash") == "#" + "-".join(map(str, third))
    for _ in range(4):  # to its parent, close that, to its parent, close that
        page.keyboard.press("ArrowLeft")
    expect(focused).to_have_attribute("aria-label", row_label(world, (first,)))
    expect(focused).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("End")
    expect(focused).to_have_attribute("aria-label", row_label(world, (max(codes[0] for codes in world.codes.values()),)))
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    expect(focused).to_have_attribute("aria-level", "1")
    assert page.locator("[role=treeitem][tabindex='0']").count() == 1


def row_label(world: ToyItems, prefix: tuple[int, ...]) -> str:
    items = world.with_prefix(prefix)
    impressions, clicks = world.shown(items)
    rate = f"{100 * clicks / impressions:.1f}%" if impressions else NONE
    cosine = f"{world.cosine(items):.2f}" if len(items) > 1 else NONE
    return f"prefix {'-'.join(map(str, prefix))}, {len(items)} item{'s' * (len(items) != 1)}, click rate {rate}, cosine {cosine}"


@pytest.mark.parametrize("place", [0, 60, 133, 269])
def test_an_item_found_by_id_has_the_codes_mates_and_table_rows_of_the_store(page: Page, world: ToyItems, place: int) -> None:
    item = list(world.codes)[place]
    search(page, str(item))
    page.keyboard.press("Enter")
    expect(page.locator("#shown h2")).to_have_text(world.names[item])
    expect(page.locator("#shown h2")).to_be_focused()
    codes = world.codes[item]
    shown = facts(page)
    assert shown["Item id"] == str(item)
    assert shown["Semantic ID"] == "-".join(map(str, codes))
    assert shown["Impressions"] == str(world.impressions[item])
    rows = exact_coarse_keys(np.array([codes]), depth=3, codebook_size=CONTRACT.codebook_size, rows=ROWS)[0].tolist()
    table = [row.locator("th, td").all_inner_texts() for row in page.locator("#prefixes tbody tr").all()]
    for length, (row, cells) in enumerate(zip(rows, table, strict=True), start=1):
        mates = world.with_prefix(codes[:length])
        impressions, clicks = world.shown(mates)
        assert cells[:4] == ["-".join(map(str, codes[:length])), str(row), str(len(mates)), f"{impressions:,}"]
        assert cells[4] == (f"{100 * clicks / impressions:.1f}%" if impressions else NONE)
    assert told_mates(page) == [mates_of(world, item, length) for length in (3, 2, 1)]


def told_mates(page: Page) -> list[list[str]]:
    """Names below each heading about mates, after all were asked for."""
    while (more := page.locator("#shown button:visible")).count():
        more.first.click()
    found: list[list[str]] = page.evaluate(MATES)
    return found


def mates_of(world: ToyItems, item: int, length: int) -> list[str]:
    """Names of the items that share just so many codes with it."""
    codes = world.codes[item]
    nearer = set(world.with_prefix(codes[: length + 1])) if length < CONTRACT.levels else {item}
    return sorted(world.names[mate] for mate in set(world.with_prefix(codes[:length])) - nearer)


def test_items_are_found_by_any_part_of_their_text_most_shown_first(page: Page, world: ToyItems) -> None:
    search(page, "kIND 7")
    wanted = [item for item, name in world.names.items() if "Kind 7" in name]
    expect(page.locator("#searched")).to_have_text(f"{len(wanted)} items")
    listed = [named(world, name) for name in page.locator("#results a").all_inner_texts()]
    assert sorted(listed) == sorted(wanted)
    shown = [world.impressions[item] for item in listed]
    assert shown == sorted(shown, reverse=True)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#shown h2")).to_have_text(world.names[listed[1]])
    expect(page.locator("#results a")).to_have_count(0)


def test_a_prefix_is_found_and_what_is_not_there_is_not(page: Page, world: ToyItems) -> None:
    prefix = max(codes[:2] for codes in world.codes.values())
    search(page, "-".join(map(str, prefix)))
    page.keyboard.press("Enter")
    expect(page.locator("#shown h2")).to_have_text(f"Prefix {'-'.join(map(str, prefix))}")
    assert facts(page).items() >= prefix_facts(world, prefix).items()
    expect(page.locator("[aria-selected=true]")).to_have_attribute("aria-label", row_label(world, prefix))
    page.locator("#query").fill("no such thing")
    expect(page.locator("#searched")).to_have_text("nothing found")
    page.locator("#query").press("Escape")
    expect(page.locator("#searched")).to_have_text("")
    page.go_back()
    expect(page.locator("#shown h2")).to_have_text("All items")


def test_an_item_without_a_semantic_id_takes_the_unknown_row(browser: Browser, workdir: Path, world: ToyItems) -> None:
    item = next(item for item in world.names if item not in world.codes)
    with opened(browser, workdir, DESKTOP, address=f"#item={item}") as page:
        expect(page.locator("#shown h2")).to_have_text(world.names[item])
        expect(page.locator("#shown p")).to_have_text(f"It has no Semantic ID, and takes the table row of all such items, {ROWS}.")


def test_a_malicious_title_is_text(page: Page, world: ToyItems) -> None:
    search(page, "onerror")
    expect(page.locator("#results a")).to_have_text(EVIL)
    page.keyboard.press("Enter")
    expect(page.locator("#shown h2")).to_have_text(EVIL)
    assert page.locator("img").count() == 0
    assert page.title() == "Semantic IDs of text"


def test_orders_of_the_tree(page: Page, world: ToyItems) -> None:
    level = [(codes,) for codes in {codes[0] for codes in world.codes.values()}]
    ranks = {
        "items": lambda prefix: -len(world.with_prefix(prefix)),
        "impressions": lambda prefix: -world.shown(world.with_prefix(prefix))[0],
        "rate": lambda prefix: -np.divide(*world.shown(world.with_prefix(prefix))[::-1]),
        "cosine": lambda prefix: round(world.cosine(world.with_prefix(prefix)), 2),
        "code": lambda prefix: prefix,
    }
    for order, rank in ranks.items():
        page.locator("#order").select_option(order)
        codes = page.locator("[role=treeitem][aria-level='2'] > .line .code").all_inner_texts()
        assert sorted(codes) == sorted(str(code) for (code,) in level)
        found = [rank((int(code),)) for code in codes]
        assert found == sorted(found), order


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_it_is_readable_everywhere(browser: Browser, workdir: Path, world: ToyItems, size: tuple[int, int], dark: bool) -> None:
    item = list(world.codes)[7]
    with opened(browser, workdir, size, dark=dark) as page:
        for address in ("#all", "#item=" + str(item), "#" + "-".join(map(str, world.codes[item]))):
            page.evaluate("address => { location.hash = address }", address)
            expect(page.locator("#shown h2")).to_have_text(
                "All items" if address == "#all" else EVIL if "item" in address else f"Prefix {address[1:]}"
            )
            assert page.evaluate("document.documentElement.scrollWidth") == size[0]
            assert page.evaluate(TOO_FAINT) == []
        page.locator("[role=treeitem] .line").nth(2).click()
        expect(page.locator("[role=treeitem][aria-selected=true]")).to_have_attribute("aria-expanded", "true")
        picture = image.imread(io.BytesIO(page.screenshot()))[:, :, :3]
        assert picture.shape[:2] == (size[1], size[0])
        corner = picture[2, 2].mean()
        assert corner < 0.2 if dark else corner > 0.9
        assert 0.02 < (np.abs(picture.mean(axis=2) - corner) > 0.3).mean() < 0.5
