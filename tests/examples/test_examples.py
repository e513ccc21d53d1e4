"""The examples run at small size, in a folder of their own, as they stand."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
NEED_TORCH = {"pytorch_model"}


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.frameworks] if path.stem in NEED_TORCH else [])
        for path in EXAMPLES
    ],
)
def test_example_runs(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example), "--small"])
    runpy.run_path(str(example), run_name="__main__")
    assert any(tmp_path.rglob("*"))


def test_readme_lists_every_example() -> None:
    text = (EXAMPLES[0].parent / "README.md").read_text("utf-8")
    assert [path.name for path in EXAMPLES if f"]({path.name})" not in text] == []
