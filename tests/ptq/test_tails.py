"""What decodes an output behind the last layers stays float where 8 bits lose in it what the layers had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.building import Layer, add, dense, layer, net, reshape, softmax, weights
from tests.ptq.nets import sqnr_db

import featherweight as fw
from featherweight.graph import Model
from featherweight.recipes.recipe import Recipe, Rule, Scheme

BOXES, BINS = 16, 16
FLAT, SIDES = (1, BOXES * 4 * BINS), (1, BOXES, 4)
# Of two levels: twelve cells of 8 pixels, four of 32.
CELLS = np.array([*range(12), *range(4)], np.float32).reshape(1, BOXES, 1)
STRIDES = np.array([8] * 12 + [32] * 4, np.float32).reshape(1, BOXES, 1)


def decoder(last: list[Layer], outputs: list[str], **constants: np.ndarray) -> Model:
    """A dense layer `d`, and boxes behind it."""
    given = {
        "w": weights(FLAT[1], 64, spread=0.5),
        "b": np.zeros(FLAT[1], np.float32),
        "bins": np.arange(BINS, dtype=np.float32).reshape(1, BINS),
        "none": np.zeros(1, np.float32),
        "s1": np.array([BOXES * 4, BINS], np.int32),
        "s2": np.array(SIDES, np.int32),
        "cells": CELLS,
        "strides": STRIDES,
        **constants,
    }
    return net({"x": (1, 64)}, given, [dense("x", "w", "b", "d", FLAT), *last], outputs)


BINNED = [
    reshape("d", "s1", "r", (BOXES * 4, BINS)),
    softmax("r", "p", (BOXES * 4, BINS)),
    dense("p", "bins", "none", "m", (BOXES * 4, 1)),
    reshape("m", "s2", "sides", SIDES),
    add("sides", "cells", "placed", SIDES),
    layer("MUL", ("placed", "strides"), {"y": SIDES}, fused_activation_function="NONE"),
]
# Offsets within a cell, of cells that reach far.
PLACED = [
    layer("LOGISTIC", ("d",), {"q": FLAT}),
    reshape("q", "s2", "offsets", (1, BOXES * BINS, 4)),
    add("offsets", "far", "placed", (1, BOXES * BINS, 4)),
    layer("MUL", ("placed", "strides"), {"y": (1, BOXES * BINS, 4)}, fused_activation_function="NONE"),
]
FAR = {
    "far": np.arange(BOXES * BINS, dtype=np.float32).reshape(1, -1, 1),
    "strides": np.float32(8),
    "s2": np.array([1, BOXES * BINS, 4], np.int32),
}
SAMPLES = [np.random.default_rng(i).uniform(-1, 1, (1, 64)).astype(np.float32) for i in range(16)]


def db(model: Model, quantized: Model) -> float:
    """Of what depends on the input."""
    wanted, found = (np.concatenate([fw.run(m, x) for x in SAMPLES]) for m in (model, quantized))
    return sqnr_db(wanted - wanted.mean(axis=0), found - wanted.mean(axis=0))


@pytest.mark.parametrize(
    ("model", "kept", "integer"),
    [
        (decoder(BINNED, ["y"]), {"p", "m", "sides", "placed", "y"}, {"d", "r"}),
        (decoder(PLACED, ["y"], **FAR), {"q", "offsets", "placed", "y"}, {"d"}),
    ],
    ids=["a mean over bins", "cells that reach far"],
)
def test_a_decoder_is_float_and_the_layers_are_not(model: Model, kept: set[str], integer: set[str]) -> None:
    quantized = fw.quantize(model, calibration=SAMPLES, progress=False)
    assert kept == set(quantized.plan.kept_float)
    assert integer <= set(quantized.plan.forms)
    assert all("each rounding what others rounded" in quantized.plan.kept_float[name] for name in kept)
    whole = fw.quantize(model, calibration=SAMPLES, progress=False, integers=True)
    assert not whole.plan.kept_float
    assert db(model, quantized.model) > db(model, whole.model) + 5
    note = next(note for note in whole.plan.notes if "each rounding what others rounded" in note)
    assert note.startswith(f"{len(kept)} operators")
    assert "improve='wide-places'" in note


def test_integer_outputs_say_what_they_lose() -> None:
    quantized = fw.quantize(decoder(BINNED, ["y"]), calibration=SAMPLES, progress=False, io="int8")
    assert not quantized.plan.kept_float
    assert any("each rounding what others rounded" in note for note in quantized.plan.notes)


def test_operators_that_a_rule_names_stay_as_it_says() -> None:
    wish = Scheme("int8")
    recipe = Recipe("mine", (Rule(op="ADD", activation=wish), Rule(weight=wish, activation=wish)))
    quantized = fw.quantize(decoder(BINNED, ["y"]), recipe, calibration=SAMPLES, progress=False)
    assert "placed" in quantized.plan.forms


def test_what_other_layers_read_stays_in_integers() -> None:
    last = [*BINNED, reshape("sides", "flat", "f", (1, BOXES * 4)), dense("f", "v", "none4", "z", (1, 4))]
    more = {"flat": np.array([1, -1], np.int32), "v": weights(4, BOXES * 4), "none4": np.zeros(4, np.float32)}
    quantized = fw.quantize(decoder(last, ["y", "z"], **more), calibration=SAMPLES, progress=False)
    assert {"p", "m", "sides", "z"} <= set(quantized.plan.forms)


def test_one_rounding_or_much_work_is_no_decoder() -> None:
    once = decoder([reshape("d", "s1", "r", (BOXES * 4, BINS)), softmax("r", "y", (BOXES * 4, BINS))], ["y"])
    assert "y" in fw.quantize(once, calibration=SAMPLES, progress=False).plan.forms
    small = decoder(BINNED, ["y"], w=weights(FLAT[1], 1))
    small = replace(
        small,
        graphs=(
            replace(small.main, tensors={**small.main.tensors, "x": replace(small.main.tensors["x"], shape=(1, 1))}),
        ),
    )
    quantized = fw.quantize(small, calibration=[x[:, :1] for x in SAMPLES], progress=False)
    assert {"p", "m", "placed", "y"} <= set(quantized.plan.forms)
