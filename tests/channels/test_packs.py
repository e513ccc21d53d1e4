"""Packs of channels: of the target and the type, asked for, or measured."""

from __future__ import annotations

import numpy as np
import pytest
from tests import building, models

import featherweight as fw
from featherweight.channels import packs
from featherweight.tasks import remove_channels as task


def two_convolutions(channels: int) -> fw.Model:
    """A convolution of that many channels, and one that reads them."""
    shape = (1, 8, 8, channels)
    layers = [building.conv("x", "w", "", "h", shape), building.conv("h", "v", "", "y", (1, 8, 8, 4))]
    weights = {"w": building.weights(channels, 3, 3, 3), "v": building.weights(4, 3, 3, channels)}
    return building.net({"x": (1, 8, 8, 3)}, weights, layers, ("y",))


def left(model, share, **options):
    return fw.remove_channels(model, share, exclude="v", **options).groups[0].after


@pytest.mark.parametrize(
    ("target", "form", "channels", "after"),
    [
        ("litert", "int8", 40, 32),
        ("litert", "float32", 40, 32),
        ("litert-arm", "float32", 40, 24),
        ("litert-arm", "int8", 40, 32),
        ("litert", "int8", 16, 8),
        ("tflm", "int8", 40, 20),
        ("tflm", "int8", 4, 2),
        ("ethos-u65", "int8", 40, 32),
        ("int8-per-tensor", "int8", 40, 32),
    ],
)
def test_groups_keep_packs_of_the_target_in_the_type(target, form, channels, after):
    assert left(two_convolutions(channels), 0.5, target=target, form=form) == after


def test_what_is_measured_is_kept(monkeypatch):
    seen = []
    monkeypatch.setattr(task, "measured_pack", lambda form: seen.append(form) or 8)
    assert left(two_convolutions(40), 0.5, multiple="measured", form="float32") == 24
    assert seen == ["float32"]


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_measurement_is_one_of_the_widths(dtype, monkeypatch):
    monkeypatch.setattr(packs, "_ROUNDS", 2)
    assert packs.measured_pack(dtype) in (4, 8, 16, 32)


@pytest.mark.parametrize("pack", [8, 16, 32])
@pytest.mark.parametrize("fixed", [0.0, 1.0])
def test_times_tell_the_pack(pack, fixed):
    counts = (4, 6, 8, 12, 16, 24, 32, 48, 64)
    rng = np.random.default_rng(pack)
    seconds = {n: (fixed + -(-n // pack)) * rng.uniform(1, 1.03) for n in counts}
    assert packs.pack_of(seconds) == pack


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiple": "measured", "target": "tflm"}, "times LiteRT, which target 'tflm' does not run. Instead, leave"),
        ({"multiple": "often"}, "a whole number from 1 on, or 'measured'"),
        ({"multiple": 0}, "a whole number from 1 on, or 'measured'"),
        ({"form": "int4"}, "form"),
        ({"target": "nonsense"}, "nonsense"),
    ],
)
def test_packs_that_there_are_not(options, message):
    with pytest.raises(fw.FeatherweightError, match=message):
        fw.remove_channels(models.lowered("convnet"), 0.5, **options)


def test_a_target_of_ones_own_says_its_packs(tmp_path):
    path = tmp_path / "mine.toml"
    head = 'extends = "litert"\nname = "mine"\ndescription = "d"\n'
    path.write_text(f"{head}[packs]\nint8 = 10\n")
    assert left(two_convolutions(40), 0.5, target=path) == 20
    for wrong in ("int8 = 0", "int4 = 8", 'int8 = "a"'):
        path.write_text(f"{head}[packs]\n{wrong}\n")
        with pytest.raises(fw.RecipeError):
            fw.remove_channels(two_convolutions(40), 0.5, target=path)
