"""The page: figures that follow from the cells, and reasons where there are none."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.leaderboard import page
from benchmarks.leaderboard.cells import Cell
from benchmarks.leaderboard.judging import bits, compared, decibels
from benchmarks.leaderboard.record import Net, Way
from benchmarks.leaderboard.summary import rows_of


def cell(way: str, right: list[int], draw: int = 0, **more: object) -> Cell:
    given = {
        "key": "k",
        "given": f"files of draw {draw}",
        "date": f"2026-01-0{draw + 1}",
        "versions": {"tool": "1.0"},
        "cpu_seconds": 1.5,
        "notes": [],
    }
    figures = {"sqnr_db": [30.0, 20.0 + draw], "bytes": 1000, "agrees": 0.75, "examples": len(right)}
    head = {"net": "tiny", "way": way, "draw": draw, "status": "measured"}
    return {**head, **given, **figures, "right": bits(np.array(right, bool)), **more}


@pytest.fixture
def cells() -> list[Cell]:
    return [
        cell("float", [1, 1, 1, 0], sqnr_db=[None, None]),
        cell("own", [1, 1, 0, 1], exact={"what": "integers", "differing": 0, "of": 12, "largest": 0}),
        cell("float", [1, 1, 1, 0], 1, sqnr_db=[None, None]),
        cell("own", [1, 0, 0, 0], 1, exact={"what": "integers", "differing": 2, "of": 12, "largest": 3}),
    ]


def test_differences_are_paired_and_an_example_of_two_draws_counts_once(
    cells: list[Cell], net: Net, ways: dict[str, Way]
) -> None:
    _, own = rows_of(cells, {"tiny": net}, ways)
    by_example = np.array([0, -0.5, -1, 0.5])  # means over draws
    assert own.points == pytest.approx(100 * by_example.mean())
    assert own.points_error == pytest.approx(100 * by_example.std(ddof=1) / 2)
    assert (own.draws, own.sqnr_db, own.draws_db) == (2, 20.5, (20.0, 21.0))
    assert own.exact == {"what": "integers", "differing": 2, "of": 24, "largest": 3}


def test_examples_of_one_photograph_count_as_one(cells: list[Cell], net: Net, ways: dict[str, Way]) -> None:
    grouped = [one | {"groups": [[5, 2], [9, 2]]} for one in cells[:2]]
    _, own = rows_of(grouped, {"tiny": net}, ways)
    assert (own.points, own.points_error) == (0.0, 0.0)  # 0 in each photograph


def test_cells_of_other_files_are_not_paired(cells: list[Cell], net: Net, ways: dict[str, Way]) -> None:
    _, own = rows_of([cells[0] | {"given": "other files"}, *cells[1:]], {"tiny": net}, ways)
    assert own.points == pytest.approx(100 * (0 - 1 - 1 + 0) / 4)  # the second draw alone


def test_where_nothing_was_measured_the_reason_is_shown(cells: list[Cell], net: Net, ways: dict[str, Way]) -> None:
    ways["peer"] = replace(ways["own"], name="peer", peer="Peer", settings="a|b")
    said = "making it: ValueError: <b>&x</b> | y"
    failed = {
        "net": "tiny",
        "way": "peer",
        "draw": 0,
        "key": "k",
        "status": "failed",
        "reason": said,
        "date": "2026-01-01",
    }
    made = page.page_of([*cells, failed], {"tiny": net}, ways)
    text = page.markdown(made)
    assert "| Peer: a\\|b | int8 | Tiny net | making it: ValueError: \\<b\\>&x\\</b\\> \\| y |" in text
    assert "<b>&x" not in made.html()


def test_the_page_says_what_the_cells_say(cells: list[Cell], net: Net, ways: dict[str, Way]) -> None:
    text = page.markdown(page.page_of(cells, {"tiny": net}, ways))
    assert "4 cells, measured from 2026-01-01 to 2026-01-02" in text
    assert "| featherweight | int8 | 20.5 | -25.00 ± 32.27 |" in text
    assert "2 of 24 integers" in text
    assert "tool 1.0" in text


def test_the_picture_is_a_file_of_its_own(cells: list[Cell], net: Net, ways: dict[str, Way]) -> None:
    made = page.page_of(cells, {"tiny": net}, ways)
    drawn = ElementTree.fromstring(page.picture(made, "Tiny net"))
    assert drawn.tag.endswith("svg")
    assert "featherweight" in "".join(drawn.itertext())
    with pytest.raises(KeyError, match="Other"):
        page.picture(made, "Other")


def test_no_cells_make_a_page_that_says_so(net: Net, ways: dict[str, Way]) -> None:
    assert "Nothing is measured yet" in page.page_of([], {"tiny": net}, ways).html()


def test_integers_are_compared_on_the_grid_of_the_file() -> None:
    ran = np.array([[0.0, 0.5, 1.0]])
    assert compared(np.array([[0.01, 0.5, 0.5]]), ran, (0.25, 3)) == {
        "what": "integers",
        "differing": 1,
        "of": 3,
        "largest": 2,
    }
    assert compared(np.array([[0.01, 0.5, 1.0]]), ran, None)["differing"] == 1


def test_outputs_that_are_no_numbers_are_an_error() -> None:
    assert decibels(np.array([1.0]), np.array([1.0])) is None
    assert decibels(np.array([1.0]), np.array([0.9])) == pytest.approx(20)
    with pytest.raises(ValueError, match="1 values that are no finite numbers"):
        decibels(np.array([1.0, 1.0]), np.array([np.nan, 1.0]))
