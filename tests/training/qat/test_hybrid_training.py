"""Training of what needs no calibration: weights in integers, activations quantized on the way or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import building, models, single_ops
from tests.backends import on_backend
from tests.training.checking import as_dict, assert_equal, predictions, runtime_outputs

import featherweight as fw
from featherweight.errors import UnsupportedOp

# LiteRT sums floats in other orders than XLA: so near is what follows a float operator, over its largest value.
FLOAT = 1e-5
# Where that takes an activation to the next integer, the layer differs by one step.
STEP = 0.02


def model_of(op: str, x: tuple[int, ...], weight: tuple[int, ...], y: tuple[int, ...], **attrs: Any) -> fw.Model:
    bias = weight[-1] if op == "DEPTHWISE_CONV_2D" else weight[0]
    inputs = {"x": x, "w": building.weights(*weight), "b": building.weights(bias)}
    if op == "FULLY_CONNECTED":
        return building.model_of(op, inputs, {"y": y}, **attrs)
    options: dict[str, Any] = {**building.CONV, **attrs}
    if op == "CONV_2D":
        return building.model_of(op, inputs, {"y": y}, **options)
    return building.model_of(op, inputs, {"y": y}, depth_multiplier=1, **options)


RELU = {"fused_activation_function": "RELU"}
LAYERS: dict[str, tuple[fw.Model, str]] = {
    "dense": (model_of("FULLY_CONNECTED", (1, 64), (8, 64), (1, 8), **RELU), "dynamic"),
    "dense of 1,500 inputs": (model_of("FULLY_CONNECTED", (1, 1500), (5, 1500), (1, 5)), "dynamic"),
    "dense, rows": (model_of("FULLY_CONNECTED", (1, 6, 16), (5, 16), (1, 6, 5), keep_num_dims=True), "dynamic"),
    "dense, int4": (model_of("FULLY_CONNECTED", (1, 20), (6, 20), (1, 6)), "weights4"),
    "dense, int4 of an odd depth": (
        model_of("FULLY_CONNECTED", (1, 15), (6, 15), (1, 6), asymmetric_quantize_inputs=False),
        "weights4",
    ),
    "dense, blocks": (model_of("FULLY_CONNECTED", (1, 160), (6, 160), (1, 6), **RELU), "weights4"),
    "convolution": (model_of("CONV_2D", (1, 6, 5, 64), (4, 3, 3, 64), (1, 6, 5, 4), **RELU), "dynamic"),
    "convolution, pointwise": (model_of("CONV_2D", (1, 5, 5, 8), (6, 1, 1, 8), (1, 5, 5, 6)), "dynamic"),
    "convolution, groups": (model_of("CONV_2D", (1, 5, 5, 8), (6, 3, 3, 4), (1, 5, 5, 6)), "dynamic"),
    "depthwise": (model_of("DEPTHWISE_CONV_2D", (1, 5, 7, 10), (1, 3, 3, 10), (1, 5, 7, 10), **RELU), "dynamic"),
    "transposed": (single_ops.FACTORIES["TRANSPOSE_CONV"](), "dynamic"),
    "embedding": (single_ops.FACTORIES["EMBEDDING_LOOKUP"](), "dynamic"),
    "embedding, blocks": (
        building.model_of(
            "EMBEDDING_LOOKUP",
            {"x": (4,), "w": building.weights(10, 128)},
            {"y": (4, 128)},
            dtypes={"x": "int32"},
        ),
        "weights4",
    ),
    "convolution, int4 read as floats": (single_ops.FACTORIES["CONV_2D"](), "weights4"),
}


LEARNED = ("dense", "dense, blocks", "convolution, groups", "depthwise")


@pytest.mark.parametrize(
    ("name", "train_ranges"), [*((name, "fixed") for name in LAYERS), *((name, "learned") for name in LEARNED)]
)
def test_layers_are_litert_s_before_and_after_training(name: str, train_ranges: str) -> None:
    import keras

    float_model, recipe = LAYERS[name]
    inputs = single_ops.feeds(float_model, seed=3)
    inputs = inputs | {key: array * 3 for key, array in inputs.items() if array.dtype == np.float32}
    model: Any = fw.quantize_aware(float_model, recipe, train_ranges=train_ranges, progress=False)
    before = predictions(model, inputs)
    check = np.testing.assert_array_equal
    if "floats" in name:
        check = near
    check(before, runtime_outputs(fw.quantize(float_model, recipe, progress=False), inputs))
    model.compile(keras.optimizers.Adam(1e-2), loss="mse")
    losses = model.fit(inputs, before * 0 + 0.1, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    after = predictions(model, inputs)
    assert (after != before).any()
    check(after, runtime_outputs(fw.finalize(model), inputs))


def near(found: np.ndarray, expected: np.ndarray, tolerance: float = FLOAT) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1.0))


@pytest.mark.parametrize(
    ("name", "recipe", "tolerance"),
    [
        ("dense", "dynamic", 0.0),
        ("dense", "weights4", 0.0),
        ("convnet", "dynamic", FLOAT),
        ("multi_input", "dynamic", STEP),
        ("transformer", "dynamic", STEP),
        ("convnet", "weights8", FLOAT),
    ],
)
def test_networks_are_litert_s(name: str, recipe: str, tolerance: float) -> None:
    import keras

    inputs = models.batch(name, 4, seed=2)
    model: Any = fw.quantize_aware(models.lowered(name), recipe, progress=False)
    before = as_dict(predictions(model, inputs))
    expected = as_dict(runtime_outputs(fw.quantize(models.lowered(name), recipe, progress=False), inputs))
    for key, array in expected.items():
        near(before[key], array, tolerance)
    targets = {key: array * 0 + 0.1 for key, array in before.items()}
    model.compile(keras.optimizers.Adam(1e-3), loss="mse")
    losses = model.fit(inputs, targets.get("", targets), epochs=2, batch_size=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    after = as_dict(predictions(model, inputs))
    for key, array in as_dict(runtime_outputs(fw.finalize(model), inputs)).items():
        near(after[key], array, tolerance)


def test_gradients_are_those_of_the_real_layer() -> None:
    """Quantization of activations passes them: they differ from the float layer's by rounding only."""
    from keras import backend

    if backend.backend() != "jax":
        pytest.skip("takes gradients with JAX")
    import jax

    float_model = LAYERS["dense"][0]
    real, hybrid = fw.graph_model(float_model), fw.quantize_aware(float_model, "dynamic", progress=False)
    x = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
    found, expected = (jax.grad(lambda x, model=model: (model(x) ** 2).sum())(x) for model in (hybrid, real))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize("recipe", ["dynamic", "weights4"])
def test_a_saved_model_goes_on_where_it_was(recipe: str, tmp_path: Path) -> None:
    import keras

    model: Any = fw.quantize_aware(models.lowered("dense"), recipe, progress=False)
    inputs = models.batch("dense", 4, seed=3)
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    assert_equal(predictions(loaded, inputs), predictions(model, inputs))
    found, expected = fw.finalize(loaded).model.main.tensors, fw.finalize(model).model.main.tensors
    assert list(found) == list(expected)
    for tensor in expected.values():
        assert found[tensor.name].quant == tensor.quant
        np.testing.assert_array_equal(found[tensor.name].array, tensor.array, err_msg=tensor.name)


def test_operators_without_hybrid_training_are_named() -> None:
    source = single_ops.FACTORIES["UNIDIRECTIONAL_SEQUENCE_LSTM"]()
    with pytest.raises(UnsupportedOp, match=r"1 node\(s\) have no training kernel: UNIDIRECTIONAL_SEQUENCE_LSTM 'y'"):
        fw.quantize_aware(source, "dynamic", progress=False, strict=True)
    kept = fw.finalize(fw.quantize_aware(source, "dynamic", progress=False)).plan.kept_float
    assert kept == {"y": "UNIDIRECTIONAL_SEQUENCE_LSTM: it has no training kernel in this form"}


def test_float16_weights_and_those_of_loops_stay_float() -> None:
    untrained = "it has no training kernel in this form"
    kept = fw.quantize_aware(LAYERS["dense"][0], "float16", progress=False).blueprint.plan
    assert json.loads(kept)["kept_float"] == {"y": f"FULLY_CONNECTED: {untrained}"}
    for recipe in ("dynamic", "weights8"):
        decided = json.loads(fw.quantize_aware(models.lowered("lstm"), recipe, progress=False).blueprint.plan)
        assert f"FULLY_CONNECTED: {untrained}" in decided["kept_float"].values()
        assert decided["forms"]


def test_dense_layers_that_litert_quantizes_otherwise_are_refused() -> None:
    float_model = model_of("FULLY_CONNECTED", (1, 15), (6, 15), (1, 6))
    model: Any = fw.quantize_aware(float_model, "weights4", progress=False)
    with pytest.raises(UnsupportedOp, match=r"int4 weights of 15 \(odd\) inputs, quantized symmetrically, are not"):
        model.predict(np.zeros((1, 15), np.float32), verbose=0)


SCRIPT = """
from tests.training.qat import test_hybrid_training as t
for name in t.LAYERS:
    t.test_layers_are_litert_s_before_and_after_training(name, "fixed")
"""


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends_compute_the_same(backend: str) -> None:
    on_backend(backend, SCRIPT)
