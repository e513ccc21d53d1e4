"""Outliers of values move into weights: into a normalization's factors, or those for the dense layers alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tests.building import add, layer, net, weights
from tests.ptq.nets import operators

import featherweight as fw
from featherweight.graph import Model
from featherweight.repair.factors.smooth import smooth_graph

WIDTH, X = 24, (1, 6, 24)
SAMPLES = np.random.default_rng(0).normal(size=(24, *X)).astype(np.float32)
GAMMA = np.ones(WIDTH, np.float32)
GAMMA[[3, 11]] = 60, 35


def stack(*, residual: bool) -> Model:
    """A normalization's factors with two outliers, two dense layers that read them, and what is added to those."""
    narrow = {name: weights(WIDTH, WIDTH, seed=seed) / np.maximum(GAMMA / 4, 1) for seed, name in enumerate("uv")}
    constants = {"g": GAMMA, "o": weights(WIDTH) * GAMMA, "b": weights(WIDTH), **narrow}
    dense = {"keep_num_dims": True}
    made = [
        layer("TANH", ("x",), {"n": X}),
        layer("MUL", ("n", "g"), {"m": X}),
        add("m", "o", "h", X),
        layer("FULLY_CONNECTED", ("h", "u", "b"), {"q": X}, **dense),
        layer("FULLY_CONNECTED", ("h", "v", "b"), {"k": X}, **dense),
        layer("MUL", ("q", "k"), {"y": X}),
    ]
    if residual:
        made += [layer("TANH", ("h",), {"t": X})]
    return net({"x": X}, constants, made, ("y", "t") if residual else ("y",))


def feeds(samples: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"x": x} for x in samples]


@pytest.mark.parametrize("residual", [False, True])
def test_the_float_model_computes_the_same(residual: bool) -> None:
    model = stack(residual=residual)
    found, more = smooth_graph(model, feeds(SAMPLES), alpha=0.7)
    assert more == (2 if residual else 0)
    assert operators(found.model)["MUL"] == operators(model)["MUL"] + residual
    smoothed = next(t for name, t in found.model.main.tensors.items() if name.startswith(("g", "m/smooth/scaled")))
    for x in SAMPLES[:4]:
        expected, result = fw.run(model, x), fw.run(found.model, x)
        for name in expected if residual else ():
            np.testing.assert_allclose(result[name], expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())
        if not residual:
            np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    values = np.abs(np.asarray(smoothed.array))
    assert residual or values.max() / np.median(values) < 20
    kept, none = smooth_graph(model, feeds(SAMPLES), alpha=0.7, twins=False)
    assert none == 0
    assert [row.producer for row in kept.tensors if not row.reason] == ([] if residual else ["m"])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("target", ["litert", "ethos-u85"])
def test_the_integers_lose_less(target: str, residual: bool) -> None:
    model = stack(residual=residual)
    given = {"calibration": list(SAMPLES), "target": target, "io": "float32" if target == "litert" else None}
    plain = fw.quantize(model, progress=False, **given)
    smooth = fw.quantize(model, progress=False, improve="smooth", **given)
    assert smooth.report.outputs[0].sqnr_db > plain.report.outputs[0].sqnr_db + 3
    (note,) = [note for note in smooth.plan.notes if note.startswith("smooth: the channels of")]
    assert ("2 operators are computed a second time" in note) == residual


def test_a_lowered_transformer_keeps_its_function() -> None:
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((8, 16))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y)])
        y = layers.Dense(32, activation="relu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(16)(y)])
    source = keras.Model(inputs, layers.Dense(4)(layers.LayerNormalization()(x)))
    for variable in source.weights:
        if variable.name in ("gamma", "beta"):
            variable.assign(np.random.default_rng(2).uniform(0.3, 3, variable.shape))
    model = fw.load(source)
    (name,) = model.main.inputs
    samples = np.random.default_rng(1).normal(size=(6, 1, 8, 16)).astype(np.float32)
    found, _ = smooth_graph(model, [{name: x} for x in samples])
    assert sum(not row.reason for row in found.tensors) >= 4
    for x in samples:
        expected = fw.run(model, x)
        np.testing.assert_allclose(fw.run(found.model, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_recipe_without_integer_values_has_nothing_to_smooth() -> None:
    found = fw.quantize(stack(residual=False), "dynamic", calibration=list(SAMPLES), improve="smooth", progress=False)
    assert any("smooth" in note and "values are not in integers" in note for note in found.plan.notes)


def test_a_net_without_dense_layers_behind_factors_is_left_alone() -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.Conv2D(4, 3, activation="relu6")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    images = np.random.default_rng(3).normal(size=(12, 8, 8, 3)).astype(np.float32)
    quantized = fw.quantize(model, calibration=images, improve="smooth", progress=False)
    assert any("no dense layer reads channels" in note for note in quantized.plan.notes)
