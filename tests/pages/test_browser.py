"""Pages in a real browser, without a network."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.browser import NAMES, Tab, find_browser, tab

from featherweight.pages import (
    Bars,
    Card,
    Column,
    Distribution,
    Distributions,
    Listing,
    Network,
    Page,
    Place,
    Point,
    Scatter,
    Share,
    Shares,
    Table,
)

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason=f"no browser is installed: {', '.join(NAMES)} (Debian: chromium-headless-shell)"
)
AXE = Path(os.environ.get("AXE_JS", "axe.min.js"))
LONG = "encoder.layers.0/" + "torch.nn.modules.linear.Linear_" * 4 + "out"
HOSTILE = "<script>alert(1)</script> & \"'"


@pytest.fixture(scope="module")
def page() -> Page:
    columns = (Column("name", "name"), Column("dB", "level", "help"), Column("bytes", "bytes"), Column("why"))
    levels = [float("inf"), None, 9.5, *(10.0 + i for i in range(37))]
    rows = tuple(
        (f"layer_{i}" if i else LONG, level, 1000 * i, "odd" if i % 2 else "even") for i, level in enumerate(levels)
    )
    points = (Point("float32", 100, 0.9), Point("int8", 27.5, 0.89, 0.002, is_marked=True), Point(HOSTILE, 60, 0.7))
    histogram = Distribution("a", -1, 3, -0.5, 2, -1, 0.5, (1, 5, 9, 4, 2, 1, 1, 1), 0.1, "ADD")
    return Page(
        f"A page {HOSTILE}",
        "With everything that a page can have.",
        (Card("Accuracy", "0.89 ± 0.01", "0.90", "of 1,000", "good"), Card("Violations", "3", tone="bad")),
        (
            Scatter("Sizes", "kB", "accuracy", points),
            Network("Error along the network", tuple(Place(f"n{i}", 20.0 + i % 30, 30.0) for i in range(600))),
            Shares("Worst first", ("own", "clipping", "inherited"), (Share(LONG, "3 dB", (0.5, 0.25, 0.25)),)),
            Distributions("Values", (histogram,)),
            Bars("Zeros", (("conv", 0.5, "CONV_2D"),)),
            Table("Rows", columns, rows),
            Listing("Notes", (HOSTILE, LONG)),
        ),
        {"python": "3"},
    )


@pytest.fixture(scope="module")
def file(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "page.html"
    path.write_text(page.html(), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Generator[Tab]:
    with tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


COLUMN = "[...document.querySelectorAll('table tbody tr')].map(r => r.cells[{}].textContent)"
VISIBLE = "[...document.querySelectorAll('table tbody tr')].filter(r => r.offsetParent !== null).length"


def click(browser: Tab, header: str) -> None:
    browser.run(f"[...document.querySelectorAll('th button')].find(b => b.textContent === '{header}').click()")


def test_a_page_asks_for_nothing_and_complains_of_nothing(browser: Tab, file: Path) -> None:
    browser.open(file)
    assert browser.requests == []
    assert browser.complaints == []
    assert browser.run("document.title") == f"A page {HOSTILE}"
    assert browser.run("document.scripts.length") == 1


def test_columns_sort_as_numbers_both_ways_and_unknown_values_stay_last(browser: Tab, file: Path) -> None:
    browser.open(file)
    click(browser, "dB")
    found = browser.run(COLUMN.format(1))
    assert (found[:2], found[-2:]) == (["9.5", "10.0"], ["exact", "-"])
    assert browser.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    click(browser, "dB")
    found = browser.run(COLUMN.format(1))
    assert (found[:2], found[-1]) == (["exact", "46.0"], "-")
    click(browser, "bytes")
    assert browser.run(COLUMN.format(2))[:3] == ["0", "1,000", "2,000"]
    click(browser, "name")
    assert browser.run(COLUMN.format(0))[1:4] == ["layer_1", "layer_2", "layer_3"]  # as people count


def test_a_long_table_is_folded_searched_and_unfolded(browser: Tab, file: Path) -> None:
    browser.open(file)
    assert browser.run(VISIBLE) == 25
    search = (
        "(() => {{ const i = document.querySelector('input'); i.value = '{}'; "
        "i.dispatchEvent(new Event('input')); }})()"
    )
    browser.run(search.format("layer_3 ODD"))
    assert browser.run(VISIBLE) == 6  # layer_3, 31, 33, 35, 37, 39
    assert "6 of 6 matching" in browser.run("document.querySelector('[role=status]').textContent")
    browser.run(search.format("Linear_torch"))  # a name is found by what its shortened form hides
    assert browser.run(VISIBLE) == 1
    browser.run(search.format(""))
    browser.run("document.querySelector('button.more').click()")
    assert browser.run(VISIBLE) == 40


@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_fits_a_phone_and_a_desk(browser: Tab, file: Path, width: int) -> None:
    browser.open(file, width, 800)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_what_goes_on_to_the_right_fades_there_until_it_is_reached(browser: Tab, file: Path) -> None:
    browser.open(file, 360, 800)
    figure = "document.querySelector('.figure')"
    faded = f"getComputedStyle({figure}).maskImage !== 'none'"
    assert browser.run(faded)
    browser.run(f"{figure}.scrollLeft = 1e6; {figure}.dispatchEvent(new Event('scroll'))")
    assert not browser.run(faded)
    browser.open(file, 1280, 800)
    assert not browser.run(faded)


def test_long_names_break_behind_separators_and_stay_as_they_are(browser: Tab, file: Path) -> None:
    browser.open(file)
    name = "[...document.querySelectorAll('td.w')].find(c => c.title)"
    assert browser.run(f"{name}.querySelectorAll('wbr').length") >= 3
    assert browser.run(f"{name}.title") == LONG


def test_dark_is_dark_and_paper_is_light(browser: Tab, file: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    browser.open(file, scheme="dark")
    assert max(map(int, browser.run(colour)[4:-1].split(","))) < 64
    browser.open(file, scheme="light")
    assert browser.run(colour) == "rgb(255, 255, 255)"
    browser.call(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert browser.run(colour) == "rgb(255, 255, 255)"
    assert browser.run(VISIBLE) == 40  # nothing is folded on paper
    browser.call("Emulation.setEmulatedMedia", media="", features=[])


def test_pictures_say_what_they_show_and_all_is_reached_by_keyboard(browser: Tab, file: Path) -> None:
    browser.open(file)
    texts = browser.run("[...document.querySelectorAll('svg')].map(s => s.getAttribute('aria-label'))")
    assert len(texts) == 3
    assert "Least kB: int8, 27.5 and 0.89." in texts[0]
    assert "Worst: n0, 20.0 dB" in texts[1]
    assert "10 % clipped" in texts[2]
    assert browser.run("[...document.querySelectorAll('.figure, .region')].every(e => e.tabIndex === 0)")
    assert browser.run("[...document.querySelectorAll('th button')].every(b => b.tabIndex === 0)")


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not here: AXE_JS=path of axe.min.js from npm")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_serious(browser: Tab, file: Path, scheme: str, width: int) -> None:
    browser.open(file, width, 900, scheme)
    browser.run(AXE.read_text("utf-8") + "; null")
    found = browser.run("axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes[0].html]))")
    assert [row for row in found if row[0] in ("serious", "critical")] == []
