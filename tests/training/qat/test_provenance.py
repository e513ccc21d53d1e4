"""A saved model in training is loaded where graph, target and package are those that it was trained with."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from tests.training.checking import quantized

import featherweight as fw
from featherweight.errors import FormatError, RecipeError
from featherweight.version import package_version

TARGET = 'extends = "litert"\nname = "mine"\ndescription = "its own"\nprofile = "{}"\n'


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Writes a copy of a `.keras` file with other settings of its model."""
    copy = path.with_name("edited.keras")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                settings = json.loads(content)
                change(settings["config"])
                content = json.dumps(settings).encode()
            target.writestr(name, content)
    return copy


def saved(tmp_path: Path, **options: Any) -> Path:
    path = tmp_path / "model.keras"
    quantized("dense", **options).save(path)
    return path


@pytest.mark.parametrize("part", ["graph", "integer", "plan", "target"])
def test_what_was_edited_in_the_file_is_named_with_both_digests(part: str, tmp_path: Path) -> None:
    path, other = saved(tmp_path), quantized("dense", "int16x8", target="tflm").get_config()
    known = quantized("dense").get_config()["digests"][part]
    found = other["digests"][part]
    if part == "graph":  # the same for both recipes
        other["graph"] = quantized("convnet").get_config()["graph"]
        found = quantized("convnet").get_config()["digests"]["graph"]
    copy = edited(path, lambda config: config.update({part: other[part]}))
    with pytest.raises(
        FormatError, match=f"saved with a {part} of the digest {known}; the file now holds one of {found}"
    ):
        keras.saving.load_model(copy)


def test_another_version_of_the_package_is_named_with_this_one(tmp_path: Path) -> None:
    copy = edited(saved(tmp_path), lambda config: config.update(version="0.0.1"))
    message = rf"saved by featherweight 0\.0\.1; this is {package_version()}, .*finalize it there"
    with pytest.raises(RecipeError, match=message):
        keras.saving.load_model(copy)


def test_a_target_whose_file_has_changed_is_named_with_both_contents(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(TARGET.format("tflite_opt"))
    path = saved(tmp_path, target=file)
    assert keras.saving.load_model(path).blueprint.origin.target.profile == "tflite_opt"
    file.write_text(TARGET.format("xnnpack") + '[ops]\nADD = ["int16"]\n')
    message = (
        rf"made for target '{file}', which is another one now: profile was tflite_opt and is xnnpack, "
        r"forms of ADD was \('int8', 'int16'\) and is \('int16',\)\. Put the target back"
    )
    with pytest.raises(RecipeError, match=message):
        keras.saving.load_model(path)


def test_a_shipped_target_that_has_changed_is_named_with_both_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, target="tflm")
    real = fw.Target.__init__

    def newer(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        if len(args) > 1:  # as it comes from its file
            object.__setattr__(self, "softmax_limit", 7)

    monkeypatch.setattr(fw.Target, "__init__", newer)
    with pytest.raises(RecipeError, match=r"target 'tflm', which is another one now: softmax_limit was \w+ and is 7\."):
        keras.saving.load_model(path)


def test_a_loaded_model_is_checked_against_its_own_target_when_its_file_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    limits = '[[constraint]]\ncheck = "rank"\nmax = 1\ntext = "Tensors have one dimension."\n'
    file.write_text(TARGET.format("tflite_opt") + limits)
    path = saved(tmp_path, target=file)
    file.unlink()
    finished = fw.finalize(keras.saving.load_model(path))
    assert "Tensors have one dimension." in str(finished.report)
