"""Pictures of values that nobody hopes for."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from featherweight.pages import Card, Distribution, Network, Page, Place, Point, Scatter, Table
from featherweight.pages.figures import distribution, network, scatter
from featherweight.pages.formats import ticks

NAN, INF = math.nan, math.inf
EVIL = "a<b & \"c\" 'd'\n\u202eאב"


def checked(svg: str) -> str:
    """The picture, once it is well-formed and has no coordinate that is no number."""
    ElementTree.fromstring(svg)
    paths = re.findall(r' (?:d|points|x|y|cx|cy)="([^"]*)"', svg)
    assert not any("nan" in path or "inf" in path for path in paths)
    return svg


@pytest.mark.parametrize(
    "points",
    [
        [Point(EVIL, 1.0, 2.0)],
        [Point("a", 0.0, 0.0), Point("b", 0.0, 0.0)],
        [Point("a", 1.0, 2.0, NAN), Point("b", 2.0, NAN), Point("c", INF, 1.0)],
        [Point("a", 1.0, -3.0, INF), Point("b", 1e9, 5.0, 0.5, is_marked=True)],
        [Point("a", 1e-20, 1e-30), Point("b", 2e-20, 3e-30)],
        [Point(f"p{i}", i % 7, i % 5, group=f"g{i % 9}") for i in range(400)],
    ],
)
@pytest.mark.parametrize("is_joined", [False, True])
def test_a_scatter_takes_any_points(points: list[Point], is_joined: bool) -> None:
    picture = Scatter("t", EVIL, "y", tuple(points), is_joined=is_joined)
    assert "points" in checked(scatter(picture))
    assert "<svg" in Page("t", sections=(picture,)).html()


def test_a_scatter_of_nothing_is_no_picture() -> None:
    assert scatter(Scatter("t", "x", "y", (Point("a", NAN, 1.0),))) == ""
    assert "<h2" in Page("t", sections=(Scatter("t", "x", "y", ()),)).html()


@pytest.mark.parametrize("levels", [[INF], [NAN, 3.0], [-INF, 20.0], [-40.0, 90.0], [5.0] * 1000])
def test_a_network_takes_any_levels(levels: list[float]) -> None:
    checked(network(Network("t", tuple(Place(EVIL, level, level) for level in levels))))


@pytest.mark.parametrize(
    "row",
    [
        Distribution(EVIL, 0.0, 0.0, None, None, 0.0, 0.0, (7,)),
        Distribution("a", -3e38, 3e38, -1.0, 1.0, -3e38, 1.5e37, tuple(range(40)), 0.9),
        Distribution("a", 0.0, 1.0, 0.0, 1.0, 0.0, 0.025, (0,) * 40),
        Distribution("a", 1e-40, 2e-40, 0.0, 1e-38, 1e-40, 2.5e-42, (1,) * 40),
    ],
)
def test_a_histogram_takes_any_values(row: Distribution) -> None:
    checked(distribution(row))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-20), (-3e38, 3e38), (1e9, 1e9 + 1), (-0.3, 0.7)])
def test_ticks_are_within_and_differ(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 < len(set(found)) == len(found) <= 7
    assert low - 1e-6 * (high - low) <= found[0] < found[-1] <= high + 1e-6 * (high - low)


def test_an_empty_page_and_one_of_empty_sections_are_whole() -> None:
    for page in (Page(EVIL), Page("", "", (Card("", ""),), (Table("t", (), ()), Table("t", (), ())))):
        assert page.html().endswith("</html>\n")
        assert isinstance(page.text(), str)
    ids = re.findall(r' id="([^"]*)"', Page("a", sections=(Table("T", (), ()), Table("t", (), ()))).html())
    assert len(ids) == len(set(ids))
