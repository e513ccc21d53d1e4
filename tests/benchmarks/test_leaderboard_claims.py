"""What the README claims of other tools is what the leaderboard's cells say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.leaderboard.cells import published
from benchmarks.leaderboard.nets import NETS
from benchmarks.leaderboard.roster import WAYS
from benchmarks.leaderboard.summary import Row, rows_of

ROOT = Path(__file__).parents[2]
CLAIMS = {
    "int8 after training, plain": ("own-int8", "tensorflow-int8", "ai-edge-int8"),
    "… repaired": ("own-int8-auto", None, None),
}


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], Row]:
    found = rows_of(published(ROOT / "benchmarks" / "leaderboard.json"), NETS, WAYS)
    return {(row.net.name, row.way.name): row for row in found}


@pytest.mark.parametrize(("claim", "ways"), CLAIMS.items())
def test_decibels_of_the_readme_are_those_of_the_cells(
    claim: str, ways: tuple[str | None, ...], rows: dict[tuple[str, str], Row]
) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith(f"| {claim}"))
    _, *said = [cell.strip() for cell in line.strip("| ").split("|")]
    assert len(said) == len(ways)
    for cell, way in zip(said, ways, strict=True):
        number = re.fullmatch(r"(\d+\.\d) dB", cell)
        assert (number is None) == (way is None)
        if number is not None and way is not None:
            measured = rows["efficientnet_lite0", way].sqnr_db
            assert measured == pytest.approx(float(number[1]), abs=0.051)


def test_every_cell_is_of_the_roster_and_has_its_reason_or_figures() -> None:
    cells = published(ROOT / "benchmarks" / "leaderboard.json")
    assert cells
    for cell in cells:
        assert cell["net"] in NETS
        assert cell["way"].split("-")[0] == "latency" or cell["way"] in WAYS
        assert cell["status"] in ("measured", "failed", "absent", "none")
        assert cell["status"] == "measured" or cell["reason"]
