"""Cross-layer equalization: what it may change, what it changes, and why it leaves tensors alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from tests.building import CONV, POOL, Layer, add, ints, layer, net, unary, weights

import featherweight as fw
from featherweight.graph import Model
from featherweight.graph.editor import with_constants
from featherweight.repair.factors.equalize import equalize_graph

IMAGES = np.random.default_rng(0).normal(size=(8, 12, 12, 3)).astype(np.float32)


def relu_net(activation: str = "relu", scale: float = 3.0) -> Any:
    """Convolution, depthwise, convolution, pooled and flattened; channels of very different ranges."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", activation=activation, name="first")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, activation=activation, name="depthwise")(x)
    x = layers.MaxPooling2D()(layers.Conv2D(6, 1, activation=activation, name="second")(x))
    x = layers.Dense(10, activation=activation, name="third")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(4, name="logits")(x))
    random = np.random.default_rng(1)
    for name, reader in (("first", "depthwise"), ("depthwise", "second"), ("third", "logits")):
        one, other = model.get_layer(name), model.get_layer(reader)
        factors = 2.0 ** random.uniform(-scale, scale, one.bias.shape[0])
        one.bias.assign(random.normal(size=one.bias.shape) * factors)
        kernel = np.asarray(one.kernel)
        one.kernel.assign(kernel * (factors.reshape(8, 2) if name == "depthwise" else factors))
        axis = np.asarray(other.kernel).ndim - 2
        other.kernel.assign(np.moveaxis(np.moveaxis(np.asarray(other.kernel), axis, -1) / factors, -1, axis))
    return model


def test_the_function_stays_and_channels_get_like_ranges() -> None:
    graph = fw.load(relu_net())
    equalized = fw.equalize(graph)
    expected, found = fw.run(graph, IMAGES), fw.run(equalized.model, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    rows = {row.producer: row for row in equalized.tensors}
    assert [name for name, row in rows.items() if row.reason] == [equalized.tensors[-1].producer]
    assert "is an output of the model" in equalized.tensors[-1].reason
    scaled = [row for row in equalized.tensors if not row.reason]
    assert len(scaled) == 4
    assert max(row.spread[0] for row in scaled) > 20
    assert max(row.spread[1] for row in scaled) < 8


def test_a_scale_for_a_whole_tensor_loses_less() -> None:
    source = relu_net()
    expected = source.predict(IMAGES, verbose=0)
    calibration = list(IMAGES)

    def loss(model: Any) -> float:
        quantized = fw.quantize(model, calibration=calibration, target="int8-per-tensor", io="float32", progress=False)
        return float(np.square(fw.run(quantized.model, IMAGES) - expected).mean())

    assert loss(fw.equalize(source).model) < 0.2 * loss(source)


def test_again_nothing_changes() -> None:
    once = fw.equalize(relu_net())
    twice = fw.equalize(once.model)
    for name, tensor in once.model.main.tensors.items():
        if tensor.is_constant and tensor.is_float:
            np.testing.assert_allclose(twice.model.main.tensors[name].array, tensor.array, rtol=0.02)


def test_a_bound_for_all_channels_is_left_alone_with_its_reason() -> None:
    graph = fw.load(relu_net("relu6"))
    equalized = fw.equalize(graph)
    assert all("ends in RELU6, which has one bound" in row.reason for row in equalized.tensors[:-1])
    for name, tensor in graph.main.tensors.items():
        if tensor.is_constant:
            np.testing.assert_array_equal(equalized.model.main.tensors[name].array, tensor.array)


def test_a_sum_and_a_shared_weight_are_left_alone_with_their_reasons() -> None:
    inputs = keras.Input((6,))
    shared = layers.Dense(6, activation="relu", name="shared")
    x = shared(shared(inputs))
    y = layers.Dense(6, activation="relu", name="branch")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Add(name="sum")([x, y])))
    reasons = [row.reason for row in fw.equalize(model).tensors]
    assert sum("serves 2 operators" in reason for reason in reasons) == 3
    reasons = [row.reason for row in fw.equalize(relu_net("tanh")).tensors]
    assert all("does not commute with factors" in reason for reason in reasons[:-1])


def test_dead_channels_stay_as_they_are() -> None:
    source = relu_net()
    layer = source.get_layer("first")
    kernel = np.asarray(layer.kernel).copy()
    kernel[..., 2] = 0
    layer.kernel.assign(kernel)
    graph = fw.load(source)
    expected = fw.run(graph, IMAGES)
    found = fw.run(fw.equalize(graph).model, IMAGES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_quantized_model_is_refused() -> None:
    quantized = fw.quantize(relu_net(), calibration=list(IMAGES), progress=False)
    with pytest.raises(fw.FormatError, match="equalize takes a float model; this one is quantized"):
        fw.equalize(quantized.model)


def wide(*layers_: Layer, tensors: dict[str, Any], outputs: tuple[str, ...] = ("y",)) -> Model:
    """Two 1×1 convolutions, `a` and `y`, whose channels differ by 2^±3, with layers between; the last gives `m`."""
    random = np.random.default_rng(2)
    factors = (2.0 ** random.uniform(-3, 3, 8)).astype(np.float32)
    w = random.normal(size=(8, 1, 1, 3)).astype(np.float32) * factors[:, None, None, None]
    v = random.normal(size=(4, 1, 1, tensors.pop("reads", 8))).astype(np.float32)
    constants = {"w": w, "b": factors * 0.3, "v": v, "b4": weights(4, seed=4), **tensors}
    first = layer("CONV_2D", ("x", "w", "b"), {"a": (1, 6, 6, 8)}, **CONV)
    last = layer("CONV_2D", ("m", "v", "b4"), {"y": (1, *tensors.get("size", (6, 6)), 4)}, **CONV)
    constants.pop("size", None)
    return net({"x": (1, 6, 6, 3)}, constants, [first, *layers_, last], outputs)


M = (1, 6, 6, 8)
BOTH_WAYS = np.pad(ints(1, 1).reshape(1, 2), ((0, 3), (0, 0))).astype(np.int32)[[1, 0, 2, 3]]
MORE = {"p": np.int32([[0, 0]] * 3 + [[1, 3]]), "reads": 12}
BETWEEN: dict[str, tuple[list[Layer], dict[str, Any]]] = {
    "PRELU": ([layer("PRELU", ("a", "s"), {"m": M})], {"s": np.linspace(-1, 1, 8, dtype=np.float32).reshape(1, 1, 8)}),
    "LEAKY_RELU": ([layer("LEAKY_RELU", ("a",), {"m": M}, alpha=0.2)], {}),
    "MAXIMUM": ([layer("MAXIMUM", ("a", "c"), {"m": M})], {"c": np.float32(0.1)}),
    "an added constant": ([add("a", "c", "m", M)], {"c": weights(8)}),
    "a factor": ([layer("MUL", ("a", "c"), {"m": M})], {"c": np.float32(0.7)}),
    "SUB": ([layer("RELU", ("a",), {"r": M}), layer("SUB", ("a", "r"), {"m": M})], {}),
    "padding": (
        [layer("PAD", ("a", "p"), {"f": (1, 8, 6, 8)}), layer("SLICE", ("f", "from", "to"), {"m": M})],
        {"p": BOTH_WAYS, "from": ints(0, 1, 0, 0), "to": ints(*M)},
    ),
    "a gate": (
        [
            layer("MEAN", ("a", "axes"), {"g": (1, 1, 1, 8)}, keep_dims=True),
            layer("CONV_2D", ("g", "u", "b8"), {"h": (1, 1, 1, 8)}, **CONV),
            layer("LOGISTIC", ("h",), {"s": (1, 1, 1, 8)}),
            layer("MUL", ("a", "s"), {"m": M}),
        ],
        {"axes": ints(1, 2), "u": weights(8, 1, 1, 8, seed=5), "b8": weights(8)},
    ),
    "channels side by side": (
        [layer("RELU", ("a",), {"r": M}), layer("CONCATENATION", ("a", "r"), {"m": (1, 6, 6, 16)}, axis=3)],
        {"reads": 16},
    ),
    "more channels": (
        [layer("PAD", ("a", "p"), {"m": (1, 6, 6, 12)})],
        {"p": np.int32([[0, 0]] * 3 + [[1, 3]]), "reads": 12},
    ),
    "resizing": (
        [
            layer("RESIZE_BILINEAR", ("a", "big"), {"l": (1, 12, 12, 8)}, half_pixel_centers=True),
            layer("AVERAGE_POOL_2D", ("l",), {"m": M}, **POOL),
        ],
        {"big": ints(12, 12)},
    ),
    "rows as heads": (
        [
            layer("RESHAPE", ("a", "s1"), {"h": (1, 36, 2, 4)}),
            layer("TRANSPOSE", ("h", "order"), {"t": (1, 2, 36, 4)}),
            layer("TRANSPOSE", ("t", "order"), {"u": (1, 36, 2, 4)}),
            layer("RESHAPE", ("u", "s2"), {"m": M}),
        ],
        {"s1": ints(1, 36, 2, 4), "order": ints(0, 2, 1, 3), "s2": ints(*M)},
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_factors_go_through_what_commutes_with_them(name: str) -> None:
    between, tensors = BETWEEN[name]
    model = wide(*between, tensors=dict(tensors))
    equalized = fw.equalize(model)
    row = equalized.tensors[0]
    assert row.reason == ""
    assert {"y"} <= set(row.readers) or name == "a factor"
    assert row.spread[1] < row.spread[0]
    x = np.random.default_rng(3).normal(size=(4, 6, 6, 3)).astype(np.float32)[:, None]
    for each in x:
        expected, found = fw.run(model, each), fw.run(equalized.model, each)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_branches_that_are_added_agree_on_one_factor() -> None:
    """The sum of two convolutions is read by two: four weights, one factor for each channel."""
    scaled = (2.0 ** np.linspace(-3, 3, 8)).astype(np.float32)
    model = wide(
        layer("CONV_2D", ("x", "w2", "b"), {"c": M}, **CONV),
        add("a", "c", "sum", M),
        unary("RELU", "sum", "m", M),
        layer("CONV_2D", ("m", "u", "b5"), {"z": (1, 6, 6, 5)}, **CONV),
        tensors={
            "w2": weights(8, 1, 1, 3, seed=7) * scaled[:, None, None, None],
            "u": weights(5, 1, 1, 8, seed=8),
            "b5": weights(5),
        },
        outputs=("y", "z"),
    )
    equalized = fw.equalize(model)
    rows = {row.producer: row for row in equalized.tensors}
    assert not rows["a"].reason
    assert not rows["c"].reason
    assert set(rows["a"].readers) == set(rows["c"].readers) == {"y", "z"}
    first, second = (equalized.model.main.tensors[name].array / model.main.tensors[name].array for name in ("w", "w2"))
    np.testing.assert_allclose(first[:, 0, 0, 0], second[:, 0, 0, 0], rtol=1e-5)
    assert np.ptp(np.log2(first)) > 1


def capped(op: str = "RELU6") -> Model:
    """Channels 0 to 3 stay below 1.2, the others reach the bound of 6."""
    model = wide(unary(op, "a", "m", M), tensors={})
    w, b = (np.array(model.main.tensors[name].array) for name in ("w", "b"))
    w[:4] = (
        np.abs(w[:4])
        * (0.9 / np.abs(w[:4]).sum(axis=3, keepdims=True))
        * (2.0 ** np.arange(-2, 2))[:, None, None, None]
        / 2
    )
    w[4:], b[:4], b[4:] = 4 * w[4:] / np.abs(w[4:]).max(axis=3, keepdims=True), 0, 4
    return with_constants(model, {"w": w, "b": b})


@pytest.mark.parametrize("fused", [False, True])
def test_a_bound_stays_where_samples_do_not_reach_it(fused: bool) -> None:
    model = fw.load(capped()) if fused else capped()
    samples = np.random.default_rng(5).uniform(-1, 1, (8, 6, 6, 3)).astype(np.float32)[:, None]
    expected = [fw.run(model, x) for x in samples]
    found = equalize_graph(model, [{"x": x} for x in samples])
    factors = found.model.main.tensors["w"].array[:, 0, 0, 0] / model.main.tensors["w"].array[:, 0, 0, 0]
    np.testing.assert_array_equal(factors[4:], 1)
    assert np.ptp(np.log2(factors[:4])) > 0.5
    assert [node.op for node in found.model.main.nodes] == [node.op for node in model.main.nodes]
    for x, y in zip(samples, expected, strict=True):
        np.testing.assert_allclose(fw.run(found.model, x), y, rtol=0, atol=2e-6 * np.abs(y).max())


def test_a_bound_for_each_channel_is_exact_everywhere() -> None:
    model = capped()
    found = fw.equalize(model, caps="minimum")
    assert [node.op for node in found.model.main.nodes] == ["CONV_2D", "MINIMUM", "CONV_2D"]
    factors = found.model.main.tensors["w"].array[:, 0, 0, 0] / model.main.tensors["w"].array[:, 0, 0, 0]
    assert np.ptp(np.log2(factors)) > 1
    for x in np.random.default_rng(6).normal(0, 20, (8, 1, 6, 6, 3)).astype(np.float32):
        expected = fw.run(model, x)
        np.testing.assert_allclose(fw.run(found.model, x), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    quantized = fw.quantize(
        found.model,
        calibration=list(np.random.default_rng(7).normal(size=(8, 1, 6, 6, 3)).astype(np.float32)),
        target="int8-per-tensor",
        progress=False,
    )
    assert not quantized.plan.kept_float


def test_kept_bounds_need_samples() -> None:
    with pytest.raises(fw.RecipeError, match="caps='kept' needs samples"):
        fw.equalize(capped(), caps="kept")


def test_values_that_are_not_finite_are_named() -> None:
    model = wide(layer("DIV", ("a", "c"), {"m": M}), tensors={"c": np.float32(0)})
    with pytest.raises(fw.DataError, match="holds NaN or infinity on a sample"):
        equalize_graph(model, [{"x": np.ones((1, 6, 6, 3), np.float32)}])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = wide(unary("RELU", "a", "m", M), tensors={})
    w = np.array(model.main.tensors["w"].array)
    w[2, 0, 0, 1] = value
    with pytest.raises(fw.DataError, match="CONV_2D 'm', weight 'w' holds NaN or infinite values"):
        fw.equalize(with_constants(model, {"w": w}))


def test_improve_takes_the_bounds_that_bring_most() -> None:
    model, x = capped(), list(np.random.default_rng(8).uniform(-1, 1, (16, 1, 6, 6, 3)).astype(np.float32))
    plain = fw.quantize(model, calibration=x, target="int8-per-tensor", progress=False)
    better = fw.quantize(model, calibration=x, target="int8-per-tensor", progress=False, improve="equalize")
    noted = next(note for note in better.plan.notes if note.startswith("equalized the channels of 1 tensors"))
    assert "'y' is an output of the model" in noted
    assert better.report.outputs[0].sqnr_db > plain.report.outputs[0].sqnr_db
