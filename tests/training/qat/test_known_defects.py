"""What other toolkits are known to get wrong, where no other test has it: each test is named after the right behaviour.

TFMOT 0.8.1: quantization-aware training stops at the first layer that it does not know, puts fake quantization between
layers that become one operator, exports ranges that are a step old, needs its callbacks, and has 256 levels at 4 bits.
(What it gets wrong in pruning is in `tests/training/pruning`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from tests import building, models
from tests.training.checking import assert_equal, quantized, ranges_of, runtime_outputs
from tests.training.pruning.nets import Custom, Subclassed

import featherweight as fw
from featherweight.errors import DataError

IMAGE, SEQUENCE = (6, 6, 4), (3, 4)


def hard_swish_block(x: Any) -> Any:
    """As in MobileNetV3: squeeze and excitation with a hard sigmoid."""
    y = L.Activation("hard_swish")(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x)))
    gate = L.Conv2D(4, 1)(L.GlobalAveragePooling2D(keepdims=True)(y))
    return L.Add()([x, L.Multiply()([y, L.ReLU(6.0)(gate + 3.0) * (1 / 6)])])


def swish_block(x: Any) -> Any:
    """As in EfficientNet: its rescaling in front, an expansion, squeeze and excitation."""
    x = L.Rescaling(0.5)(x)
    y = L.Activation("swish")(L.BatchNormalization()(L.Conv2D(8, 1)(x)))
    gate = L.Conv2D(8, 1, activation="sigmoid")(L.GlobalAveragePooling2D(keepdims=True)(y))
    return L.Add()([x, L.Conv2D(4, 1)(L.Multiply()([y, gate]))])


def dense_block(x: Any) -> Any:
    """As in DenseNet: norms before convolutions, and concatenations."""
    for _ in range(2):
        x = L.Concatenate()([x, L.Conv2D(2, 3, padding="same")(L.ReLU()(L.BatchNormalization()(x)))])
    return L.AveragePooling2D(2)(x)


def layer_norm_block(x: Any) -> Any:
    """As in ConvNeXt."""
    y = L.LayerNormalization(epsilon=1e-6)(L.DepthwiseConv2D(3, padding="same")(x))
    return x + L.Dense(4)(L.Dense(8, activation="gelu")(y)) * 0.5


# What TFMOT can't quantize → (input shape, what makes it of an input).
NETS: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "bidirectional lstm": ((2, 3), lambda x: L.Bidirectional(L.LSTM(2))(x)),
    "gru": ((2, 3), lambda x: L.GRU(2)(x)),
    "attention": (SEQUENCE, lambda x: L.MultiHeadAttention(2, 4)(x, x)),
    "layer norm": (SEQUENCE, lambda x: L.LayerNormalization()(x)),
    "embedding": ((3,), lambda x: L.Embedding(20, 4)(x)),
    "conv 1-D": ((5, 4), lambda x: L.Conv1D(3, 3)(x)),
    "conv 3-D": ((3, 3, 3, 2), lambda x: L.Conv3D(2, 2)(x)),
    "multiply": (SEQUENCE, lambda x: L.Multiply()([x, L.Dense(4, activation="sigmoid")(x)])),
    "prelu": (IMAGE, lambda x: L.PReLU("random_uniform", shared_axes=[1, 2])(x)),
    "rescaling": (IMAGE, lambda x: L.Rescaling(2.0, -1.0)(x)),
    "nested": (SEQUENCE, lambda x: keras.Sequential([L.Input(SEQUENCE), L.Dense(4, activation="relu")])(x)),
    "subclassed": (SEQUENCE, lambda x: Subclassed()(x)),
    "custom": (SEQUENCE, lambda x: Custom()(x)),
    "mobilenet v3": (IMAGE, hard_swish_block),
    "efficientnet": (IMAGE, swish_block),
    "densenet": (IMAGE, dense_block),
    "convnext": (IMAGE, layer_norm_block),
}
# What has no integer kernel to train, and why, as the plan says it.
STAYS_FLOAT = {"conv 3-D": "CONV_3D: target 'litert' has no int8*int8 kernel"}


@pytest.mark.parametrize("kind", NETS)
def test_no_layer_stops_quantization_aware_training(kind: str) -> None:
    keras.utils.set_random_seed(0)
    random, (shape, made) = np.random.default_rng(0), NETS[kind]
    inputs = keras.Input(shape, dtype="int32" if kind == "embedding" else "float32")
    source = keras.Model(inputs, L.Dense(3)(L.Flatten()(made(inputs))))
    x = random.integers(0, 20, (16, *shape)) if kind == "embedding" else random.normal(size=(16, *shape))
    x = x.astype(inputs.dtype)
    model = fw.quantize_aware(source, calibration=[x], progress=False)
    before = [np.array(value) for value in model.trainable_variables]
    model.compile("adam", "mse")
    model.train_on_batch(x, random.normal(size=(16, 3)))
    after = [np.asarray(value) for value in model.trainable_variables]
    assert all((one != other).any() for one, other in zip(before, after, strict=True))
    finished = fw.finalize(model)
    assert_equal(model.predict_on_batch(x), runtime_outputs(finished, x))
    kept = finished.plan.kept_float.values()
    assert all(reason.startswith(STAYS_FLOAT.get(kind, "nothing stays")) for reason in kept)
    assert bool(kept) == (kind in STAYS_FLOAT)


@pytest.mark.parametrize(
    ("shape", "layer", "activation", "op", "fused"),
    [
        (IMAGE, lambda: L.Conv2D(3, 3), 6.0, "CONV_2D", "RELU6"),
        ((4,), lambda: L.Dense(3), None, "FULLY_CONNECTED", "RELU"),
    ],
    ids=["convolution", "dense"],
)
def test_a_norm_and_an_activation_are_quantized_once_behind_both(
    shape: tuple[int, ...], layer: Callable[[], Any], activation: float | None, op: str, fused: str
) -> None:
    """TFMOT quantizes between Conv, BatchNorm and relu6, and between Dense, BatchNorm and ReLU."""
    keras.utils.set_random_seed(0)
    source = keras.Sequential([L.Input(shape), layer(), L.BatchNormalization(), L.ReLU(activation)])
    x = np.random.default_rng(0).normal(0, 3, (16, *shape)).astype(np.float32)
    model = fw.quantize_aware(source, calibration=[x], progress=False)
    model.compile("adam", "mse")
    model.train_on_batch(x, np.ones(model.predict_on_batch(x).shape))
    graph = fw.finalize(model).model.main
    assert [node.op for node in graph.nodes] == ["QUANTIZE", op, "DEQUANTIZE"]
    assert graph.nodes[1].attrs["fused_activation_function"] == fused
    quant = graph.tensors[graph.nodes[1].outputs[0]].quant
    assert quant is not None
    assert quant.zero_point == (-128,)  # no level below zero: the whole grid is used


def test_the_source_model_is_untouched() -> None:
    source = models.build("dense")
    config, layers, weights = source.get_config(), list(source.layers), [np.array(w) for w in source.weights]
    model = fw.quantize_aware(source, calibration=models.samples("dense", 8, seed=1), progress=False)
    model.compile("adam", "mse")
    x = models.batch("dense", 8, seed=2)
    model.train_on_batch(x, model.predict_on_batch(x) * 0)
    assert source.get_config() == config
    assert source.layers == layers
    assert all((np.asarray(w) == before).all() for w, before in zip(source.weights, weights, strict=True))


def test_exported_ranges_hold_the_last_batch() -> None:
    """TFMOT's are those of the step before."""
    model = quantized("convnet", train_ranges="minmax")
    name = next(name for name in ranges_of(model) if "image" in name)
    x = {"image": 3 * models.batch("convnet", 8, seed=1)["image"]}
    model.compile("adam", "mse")
    model.train_on_batch(x, np.zeros(model.predict_on_batch(x).shape))
    assert ranges_of(model)[name][1] == pytest.approx(float(x["image"].max()), rel=0.01)
    assert_equal(model.predict_on_batch(x), runtime_outputs(fw.finalize(model), x))


def test_four_bits_have_sixteen_levels() -> None:
    model = quantized("dense", "w4a8")
    weights = [t for t in fw.finalize(model).model.main.tensors.values() if t.dtype == "int4" and t.array is not None]
    assert weights
    trained = model.integers()
    for tensor in weights:
        levels = np.unique(trained[tensor.name])
        assert 8 < len(levels) <= 16
        np.testing.assert_array_equal(tensor.array.astype(np.float32), trained[tensor.name])


@pytest.mark.parametrize("train_ranges", ["fixed", "minmax"])
@pytest.mark.parametrize("op", ["RSQRT", "SQRT", "LOG"])
def test_slopes_are_finite_where_an_integer_is_zero(op: str, train_ranges: str) -> None:
    source = building.model_of(op, {"x": (1, 8)}, {"y": (1, 8)})
    x = np.linspace(0.01, 2, 8, dtype=np.float32)[np.newaxis]
    model = fw.quantize_aware(source, calibration=[x], train_ranges=train_ranges, progress=False)
    x[0, :4] = 1e-3  # an eighth of a step
    slopes = np.asarray(jax.grad(lambda x: keras.ops.sum(model(x, training=True)))(x))
    assert np.isfinite(slopes).all()
    assert (slopes[0, 4:] != 0).any()


def test_weights_that_are_not_finite_are_not_finalized() -> None:
    model = quantized("dense")
    variable = model.trainable_variables[0]
    variable.assign(np.full(variable.shape, np.nan, np.float32))
    with pytest.raises(DataError, match=f"can't be finalized: '{variable.path}' holds NaN or infinite values"):
        fw.finalize(model)
