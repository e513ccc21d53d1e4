"""TOML files of one's own that refer to each other, and what a table says of wrong values."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.single_ops import FACTORIES

from featherweight import calibration
from featherweight.errors import RecipeError
from featherweight.recipes import recipe
from featherweight.targets import target


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_base_is_found_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "team" / "base.toml", '[[rule]]\nweight = "int8"\n')
    mine = written(tmp_path / "mine" / "recipe.toml", 'base = "../team/base.toml"\n[[rule]]\nop = "ADD"\n')
    monkeypatch.chdir("/")
    assert [rule.op for rule in recipe.load(mine).rules] == ["ADD", None]


def test_two_recipes_that_stand_on_each_other(tmp_path: Path) -> None:
    first = written(tmp_path / "a.toml", 'base = "b.toml"\n')
    written(tmp_path / "b.toml", 'base = "a.toml"\n')
    with pytest.raises(RecipeError, match=r"a\.toml"):
        recipe.load(first)


def test_the_range_methods_of_recipes_are_the_registered_ones() -> None:
    assert set(recipe.RANGE_METHODS) == set(calibration.RANGE_METHODS)


def test_a_block_beside_integer_activations_has_no_effect_and_is_refused(tmp_path: Path) -> None:
    text = '[[rule]]\nweight = { dtype = "int4", block_size = 32 }\nactivation = "int8"\n'
    with pytest.raises(RecipeError, match="block_size"):
        recipe.load(written(tmp_path / "mine.toml", text))


def test_a_constraint_with_an_unknown_limit(tmp_path: Path) -> None:
    text = 'extends = "litert"\n[[constraint]]\ncheck = "stride"\nmax = 3\nmaximum = 4\ntext = "t"\n'
    with pytest.raises(RecipeError, match="maximum"):
        target.load(written(tmp_path / "mine.toml", text))


def test_a_constraint_passes_operators_that_lack_what_it_measures(tmp_path: Path) -> None:
    text = 'extends = "litert"\n[[constraint]]\ncheck = "stride"\nmax = 1\ntext = "Strides must be 1."\n'
    mine = target.load(written(tmp_path / "mine.toml", text))
    assert target.check(FACTORIES["ADD"](), mine) == ()
    (found,) = target.check(FACTORIES["MAX_POOL_2D"](), mine)
    assert "its stride is 2×2. Strides must be 1." in found.message
