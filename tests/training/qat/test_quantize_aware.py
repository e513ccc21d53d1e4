"""Quantization-aware training: what the trained model predicts is what LiteRT computes from its file."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests import building, models
from tests.backends import on_backend
from tests.compilation import optimizations
from tests.training.checking import (
    as_dict,
    assert_equal,
    assert_every_tensor_is_litert_s,
    compiled,
    fitted,
    predictions,
    quantized,
    runtime_outputs,
    trained,
)

import featherweight as fw
from featherweight.errors import RecipeError
from featherweight.graph import constant

CASES = [
    ("convnet", "int8", "litert", "fixed"),
    ("depthwise", "int8", "litert", "learned"),
    ("multi_input", "w4a8", "litert", "fixed"),
    ("multi_output", "int8", "tflm", "learned"),
    ("transformer", "int8", "litert", "fixed"),
    ("upsampling", "int8", "litert", "fixed"),
    ("upsampling", "int8", "tflm", "fixed"),
    ("multi_input", "int16x8", "litert", "fixed"),
    ("depthwise", "int8", "int8-per-tensor", "fixed"),
    ("convnet", "int8", "power-of-two", "learned"),
    ("convnet", "int8", "esp32-p4", "fixed"),
]


@pytest.mark.parametrize(("name", "recipe", "target", "train_ranges"), CASES)
def test_predictions_are_the_file_s(name: str, recipe: str, target: str, train_ranges: str) -> None:
    model = compiled(quantized(name, recipe, target=target, train_ranges=train_ranges))
    inputs = models.batch(name, 8, seed=2)
    before = predictions(model, inputs)
    after_training = fw.quantize(
        models.lowered(name), recipe, calibration=models.samples(name, 8, seed=1), target=target, io="float32",
        progress=False,
    )  # fmt: skip
    assert_equal(before, runtime_outputs(after_training, inputs))
    fitted(model, inputs)
    after = predictions(model, inputs)
    assert any((as_dict(after)[key] != array).any() for key, array in as_dict(before).items())
    assert_equal(after, runtime_outputs(fw.finalize(model), inputs))


@pytest.mark.parametrize(("name", "recipe"), [("multi_input", "w4a8"), ("depthwise", "w4a8"), ("convnet", "int8")])
def test_rare_roundings_are_the_file_s(name: str, recipe: str) -> None:
    """XNNPACK does not take convolutions of int4 weights: LiteRT's own kernels round otherwise, once in many values."""
    model, inputs = quantized(name, recipe), models.batch(name, 64, seed=2)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        noise = 0.05 * random.standard_normal(variable.shape).astype(np.float32)
        variable.assign(np.asarray(variable.value) * (1 + noise))
    finished = fw.finalize(model)
    assert_every_tensor_is_litert_s(model, finished, inputs)


@functools.cache
def trained_convnet() -> Any:
    with optimizations(are_on=True):
        return trained(quantized("convnet"), models.batch("convnet", 8, seed=2))


def test_every_tensor_is_litert_s() -> None:
    model = trained_convnet()
    assert_every_tensor_is_litert_s(model, fw.finalize(model), models.batch("convnet", 4, seed=3))


def test_large_biases_of_dead_channels_are_the_file_s() -> None:
    """Their integers lie beyond what float32 holds exactly."""
    import keras

    random, samples = np.random.default_rng(0), models.batch("dense", 8, seed=1)
    (x,) = samples.values()
    inputs = keras.Input(x.shape[1:])
    layer = keras.layers.Dense(64)
    net = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(random.normal(size=layer.kernel.shape) * 1e-9)
    layer.bias.assign(random.normal(size=64))
    model = fw.quantize_aware(net, calibration=[x], progress=False)
    finished = fw.finalize(model)
    biases = [t.array for t in finished.model.main.tensors.values() if t.dtype == "int32" and t.is_constant]
    assert max(np.abs(bias).max() for bias in biases if bias is not None) > 1 << 24
    assert any("hold integers beyond 2**24: the file has them as float32 rounds" in n for n in finished.plan.notes)
    assert_every_tensor_is_litert_s(model, finished, x)


def test_a_saved_model_goes_on_where_it_was(tmp_path: Path) -> None:
    import keras

    model, inputs = trained_convnet(), models.batch("convnet", 4, seed=3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(predictions(loaded, inputs), predictions(model, inputs))
    assert fw.write(fw.finalize(loaded).model) == fw.write(fw.finalize(model).model)


def test_training_reaches_the_weights_and_the_plan_follows() -> None:
    model = trained_convnet()
    first, last = json.loads(model.blueprint.plan), fw.finalize(model).plan
    moved = [name for name, params in last.params.items() if first["params"][name]["scale"] != list(params.scale)]
    # Weight scales follow the weights; activation ranges stay as calibrated.
    assert set(moved) == {name for name in last.params if model.graph.main.tensors[name].is_constant}
    untrained = fw.finalize(quantized("convnet")).plan
    assert replace(last, params={}) == replace(untrained, params={}, notes=())


def test_zeros_stay_zeros_unless_asked_otherwise() -> None:
    graph = models.lowered("dense").main
    name = next(node.inputs[1] for node in graph.nodes if node.op == "FULLY_CONNECTED")
    weight = np.array(graph.tensors[name].array)
    weight[np.random.default_rng(0).random(weight.shape) < 0.7] = 0
    tensors = dict(graph.tensors) | {name: constant(name, weight)}
    pruned = replace(models.lowered("dense"), graphs=(replace(graph, tensors=tensors),))
    samples, inputs = models.samples("dense", 8, seed=1), models.batch("dense", 8, seed=2)
    for keep_zeros in (True, False):
        model = fw.quantize_aware(pruned, calibration=samples, keep_zeros=keep_zeros, progress=False)
        model.compile(keras.optimizers.Adam(2e-2), loss="mse")
        finished = fw.finalize(fitted(model, inputs))
        assert (not finished.model.main.tensors[name].array[weight == 0].any()) == keep_zeros
        assert_equal(predictions(model, inputs), runtime_outputs(finished, inputs))


def test_long_sums_stay_exact() -> None:
    """2,000 products of the largest integers: float32 could not hold their sum."""
    weight = np.full((3, 2000), 0.5, np.float32) * np.array([[1], [-1], [0.3]], np.float32)
    float_model = building.model_of(
        "FULLY_CONNECTED", {"x": (1, 2000), "w": weight, "b": np.zeros(3, np.float32)}, {"y": (1, 3)},
        fused_activation_function="NONE", keep_num_dims=False,
    )  # fmt: skip
    x = np.random.default_rng(0).uniform(0.9, 1.0, (16, 2000)).astype(np.float32)
    model = fw.quantize_aware(float_model, calibration=[*x, -x[0]], progress=False)
    finished = fw.finalize(model)
    sums = np.abs(finished.model.main.tensors["w"].array.astype(np.int64)).sum(axis=1) * 255
    assert sums.max() > 2**24
    assert_equal(predictions(model, x), np.concatenate([fw.run(finished.model, row[None]) for row in x]))
    assert not any("grew in training" in note for note in finished.plan.notes)


_WINDOW = {"stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1, "padding": "SAME"}


@pytest.mark.parametrize(
    ("op", "channels", "shape"),
    [
        ("CONV_2D", 3, (8, 3, 3, 3)),
        ("CONV_2D", 4, (8, 3, 3, 2)),
        ("DEPTHWISE_CONV_2D", 1, (1, 3, 3, 8)),
        ("DEPTHWISE_CONV_2D", 8, (1, 3, 3, 8)),
    ],
    ids=["convolution", "grouped", "one channel", "depthwise"],
)
def test_a_channel_whose_weights_are_all_pruned_keeps_its_bias(
    op: str, channels: int, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Its scale is so small that its bias is an integer beyond what float32 holds exactly."""
    weight, bias = rng.normal(size=shape).astype(np.float32), np.linspace(0.5, 2, 8, dtype=np.float32)
    np.moveaxis(weight, 0 if op == "CONV_2D" else 3, 0)[0] = 0
    more = {"depth_multiplier": 8 // channels} if op == "DEPTHWISE_CONV_2D" else {}
    float_model = building.model_of(
        op, {"x": (1, 6, 6, channels), "w": weight, "b": bias}, {"y": (1, 6, 6, 8)}, **more, **_WINDOW
    )
    x = rng.normal(size=(1, 6, 6, channels)).astype(np.float32)
    model = fw.quantize_aware(float_model, calibration=[x], progress=False)
    assert model.blueprint.chunks
    assert_equal(predictions(model, x), runtime_outputs(fw.finalize(model), x))


def test_sums_that_outgrow_float32_are_noted() -> None:
    weight = np.random.default_rng(0).normal(0, 0.01, (3, 900)).astype(np.float32)
    weight[:, 0] = 1.0  # all others are small integers
    float_model = building.model_of(
        "FULLY_CONNECTED", {"x": (1, 900), "w": weight, "b": np.zeros(3, np.float32)}, {"y": (1, 3)},
        fused_activation_function="NONE", keep_num_dims=False,
    )  # fmt: skip
    x = np.random.default_rng(0).uniform(0.0, 1.0, (4, 900)).astype(np.float32)
    model = fw.quantize_aware(float_model, calibration=list(x), progress=False)
    next(iter(model.variables_by_tensor.values())).assign(np.ones_like(weight))
    assert any(
        "weights grew in training: sums of 'y' may not have been exact" in n for n in fw.finalize(model).plan.notes
    )


@pytest.mark.parametrize("kind", ["Functional", "GraphModel", "Quantized"])
def test_a_model_of_another_kind_is_not_finalized(kind: str) -> None:
    made = {
        "Functional": lambda: models.build("dense"),
        "GraphModel": lambda: fw.graph_model(models.lowered("dense")),
        "Quantized": lambda: fw.quantize(models.lowered("dense"), "dynamic", progress=False),
    }
    message = rf"finalize: model is a {kind} \(allowed: a model that quantize_aware made\)\. .*call quantize"
    with pytest.raises(RecipeError, match=message):
        fw.finalize(made[kind]())


def test_what_was_not_trained_is_what_quantize_makes_and_says_so() -> None:
    finished = fw.finalize(quantized("dense"))
    samples = models.samples("dense", 8, seed=1)
    expected = fw.quantize(models.lowered("dense"), calibration=samples, io="float32", progress=False)
    assert fw.write(finished.model) == fw.write(expected.model)
    assert "nothing was trained: this is what quantize makes of the model" in finished.plan.notes


def test_what_is_missing_is_said() -> None:
    with pytest.raises(RecipeError, match="Recipe 'int8' measures activation ranges: pass calibration samples"):
        fw.quantize_aware(models.lowered("dense"))
    with pytest.raises(
        RecipeError,
        match=r"RangeTraining: method is 'guessed' \(allowed: fixed, learned, moving_average, minmax\)",
    ):
        quantized("dense", train_ranges="guessed")


SCRIPT = """
import numpy as np, featherweight as fw
from tests import models
from tests.training import checking as t
for name, train_ranges in (("convnet", "fixed"), ("depthwise", "learned"), ("multi_input", "fixed")):
    model, inputs = t.quantized(name, train_ranges=train_ranges), models.batch(name, 8, seed=2)
    t.trained(model, inputs)
    t.assert_equal(t.predictions(model, inputs), t.runtime_outputs(fw.finalize(model), inputs))
"""


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends_compute_the_same_integers(backend: str) -> None:
    on_backend(backend, SCRIPT)
