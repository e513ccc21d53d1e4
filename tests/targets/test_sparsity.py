from __future__ import annotations

from pathlib import Path

import pytest

from featherweight.errors import RecipeError
from featherweight.sparsity import patterns
from featherweight.targets import target

HEAD = 'extends = "litert"\nname = "mine"\n[sparsity]\n'


@pytest.mark.parametrize("name", target.available())
def test_patterns_of_shipped_targets_exist(name: str) -> None:
    loaded = target.load(name)
    assert set(loaded.sparsity) <= set(loaded.forms)
    for pattern in loaded.sparsity.values():
        assert patterns.parse(pattern).name == pattern


def test_a_target_names_a_pattern_by_operator(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + 'CONV_2D = "4x1"\n')
    assert target.load(path).sparsity == {"FULLY_CONNECTED": "1x16", "CONV_2D": "4x1"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('CONV = "1x4"', r"sparsity: operator 'CONV' is unknown"),
        ('CONV_2D = "4"', "Sparsity pattern '4' is unknown"),
        ("CONV_2D = 4", r"lacks or misuses the key 'CONV_2D': found 4 \(allowed: text in quotes\)"),
    ],
)
def test_rows_that_are_not_understood(row: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + row + "\n")
    with pytest.raises(RecipeError, match=message):
        target.load(path)
