"""The plan of the house: what CONTRIBUTING says of it is what the contract holds, and rooms stay small."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "featherweight"
MOST_MODULES, MOST_LOOSE_MODULES = 16, 4
ROOMS = sorted(path.parent for path in SOURCES.rglob("__init__.py"))


def layers() -> list[str]:
    """The layers of the contract of the whole package, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (contract,) = (c for c in contracts if c.get("containers") == ["featherweight"])
    assert contract["exhaustive"]
    return contract["layers"]


def test_contributing_draws_the_layers_of_the_contract() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    drawing = re.search(r"```text\n(cli.*?)```", text, re.DOTALL)
    assert drawing is not None
    assert [layer.strip() for layer in " ".join(drawing[1].split()).split(">")] == layers()


def test_contributing_says_what_every_room_holds() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    described = {
        name
        for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
        for name in re.findall(r"\w+", row)
    }
    assert described == {path.name for path in ROOMS if path.parent == SOURCES}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(SOURCES)))
def test_a_room_can_be_taken_in_at_a_glance(room: Path) -> None:
    modules = [path for path in room.glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(modules) <= (MOST_LOOSE_MODULES - 1 if room == SOURCES else MOST_MODULES)


def test_places_that_contributing_names_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    table = text[text.index("## One place to touch") : text.index("## Rules")]
    for name in re.findall(r"`([a-z_]+/[\w/]*(?:\.py)?)`", table):
        assert (SOURCES / name).exists() or (ROOT / name).exists(), name
