"""What the planner decides: forms, groups that share a scale, fixed outputs, weights and their biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.ptq.nets import (
    CONV,
    Layer,
    add,
    agreement_db,
    conv,
    dense,
    layer,
    net,
    operators,
    planned,
    ranges,
    reshape,
    samples,
    softmax,
    unary,
    weights,
)
from tests.tflite.files import while_model

from featherweight.calibration import calibrate
from featherweight.errors import DataError, RecipeError
from featherweight.graph import Graph, Model, Node
from featherweight.graph.numerics import QuantParams, params_from_range
from featherweight.passes.legalization import prepare
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.runtime import run
from featherweight.targets.target import check

INT8 = Rule(weight=Scheme("int8"), activation=Scheme("int8", symmetric=False))
INT16 = Rule(weight=Scheme("int8"), activation=Scheme("int16"))
SIGMOID = QuantParams("int8", (1 / 256,), (-128,))
TANH = QuantParams("int8", (1 / 128,), (0,))
X = (1, 4, 4, 8)


def recipe(*rules: Rule) -> Recipe:
    return Recipe("mine", rules)


def single(op: str, shape: tuple[int, ...] = X) -> Model:
    return net({"x": shape}, {}, [unary(op, "x", "y", shape)], ["y"])


def concat(*inputs: str, y: str = "y", shape: tuple[int, ...] = (1, 4, 4, 16)) -> Layer:
    return layer("CONCATENATION", inputs, {y: shape}, axis=3)


# ------------------------------------------------------------------------------------------------ ranges


def test_a_layer_that_is_all_but_dead_still_loads() -> None:
    """LiteRT refuses files in which 6 / scale, the bound of a fused RELU6, is no int32 number."""
    constants = {"w": weights(3, 8), "b": np.zeros(3, np.float32)}
    model = net({"x": X}, constants, [dense("x", "w", "b", "y", (16, 3), "RELU6")], ["y"])
    tiny = [{"x": sample["x"] * np.float32(1e-10)} for sample in samples(model, 4)]
    made = plan(model, calibrate(model, tiny, progress=False), "int8", "litert")
    assert any("was widened to a width of 1.42e-06" in note for note in made.notes)
    run(rewrite(model, made), tiny[0])


def test_activations_get_the_parameters_of_their_measured_range() -> None:
    decided = plan(single("RELU"), ranges(x=(-1.0, 3.0), y=(0.0, 3.0)), "int8")
    assert decided.params["x"] == params_from_range(-1.0, 3.0, "int8")
    assert decided.params["y"] == params_from_range(0.0, 3.0, "int8")


@pytest.mark.parametrize(("least", "steps"), [(0.5, 16383), (0.012, 32767)])
def test_curves_of_16_bits_have_room_where_they_stay_fine(least: float, steps: int) -> None:
    model = net({"x": (1, 64)}, {}, [unary("RSQRT", "x", "y", (1, 64))], ["y"])
    feeds = [{"x": np.geomspace(least, 1.0, 64, dtype=np.float32)[None]}]
    made = plan(model, calibrate(model, feeds, progress=False), "int16x8", "litert")
    assert made.kept_float == {}
    assert made.params["x"].scale[0] == np.float32(1 / steps)


def test_int16_activations_are_symmetric() -> None:
    decided = plan(single("RELU"), ranges(x=(-1.0, 3.0), y=(0.0, 3.0)), "int16x8")
    # Twice as wide as measured: 16 bits have room to spare.
    assert decided.params["x"] == QuantParams("int16", (float(np.float32(3 / 16383)),), (0,))


def test_a_tensor_without_statistics() -> None:
    with pytest.raises(DataError, match=r"^No range was measured for 'y'\. Calibrate this very model again"):
        plan(single("RELU"), ranges(x=(0.0, 1.0)), "int8")


def test_no_statistics_at_all() -> None:
    with pytest.raises(RecipeError, match=r"^Recipe 'int8' needs measured ranges\. Pass calibration samples"):
        plan(single("RELU"), None, "int8")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(DataError, match=r"'x': its range is \[.*\]; both ends must be finite numbers"):
        plan(single("RELU"), ranges(x=(0.0, bad), y=(0.0, 1.0)), "int8")


@pytest.mark.parametrize("high", [1e-38, 1e-44])
def test_ranges_too_small_for_a_scale(high: float) -> None:
    with pytest.raises(
        DataError, match=r"^tensor 'x': its range needs the scale .* float32 can't hold .* keep it float"
    ):
        plan(single("RELU"), ranges(x=(0.0, high), y=(0.0, 1.0)), "int8")


def test_a_tensor_of_zeros() -> None:
    decided = plan(single("RELU"), ranges(x=(0.0, 0.0), y=(0.0, 0.0)), "int8")
    assert decided.params["y"] == QuantParams("int8", (1.0,), (0,))
    assert not run(rewrite(single("RELU"), decided), np.zeros(X, np.float32)).any()


@pytest.mark.parametrize(("low", "high", "notes"), [(0.0, 0.0, 1), (2.0, 2.0, 1), (0.0, 1e-6, 0)])
def test_an_input_that_was_always_the_same(low: float, high: float, notes: int) -> None:
    decided = plan(single("RELU"), ranges(x=(low, high), y=(low, high)), "int8")
    assert len(decided.notes) == notes
    message = f"input 'x': every calibration sample holds {low:g} alone, so its range fits no other values; calibrate"
    assert all(note.startswith(message) for note in decided.notes)


def test_an_unknown_range_method() -> None:
    with pytest.raises(RecipeError, match="range method 'median' is unknown"):
        plan(single("RELU"), ranges(x=(0.0, 1.0), y=(0.0, 1.0)), "int8", ranges="median")


def test_a_rule_chooses_the_range_method_of_what_its_operators_compute() -> None:
    model = net({"x": X}, {}, [unary("RELU", "x", "h", X), unary("RELU", "h", "y", X)], ["y"])
    stats = calibrate(model, samples(model, 32), histograms=True, progress=False)
    clipped = Rule("y", activation=Scheme("int8", symmetric=False, range_method="percentile:90"))
    decided = plan(model, stats, recipe(clipped, INT8))
    assert decided.params["h"] == params_from_range(0.0, stats.tensors["h"].high, "int8")
    assert decided.params["y"].scale[0] < 0.95 * decided.params["h"].scale[0]


@pytest.mark.parametrize(
    ("io", "name", "message"),
    [
        ("uint8", "int8", r"^io 'uint8' is unknown \(allowed: float32, int8\)"),
        ("int8", "dynamic", r"^io int8 needs integer activations, which recipe 'dynamic' has not\. Use io float32"),
    ],
)
def test_borders_that_do_not_exist(io: str, name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(single("RELU"), ranges(x=(0.0, 1.0), y=(0.0, 1.0)), name, io=io)


# ------------------------------------------------------------------------------------------------ one scale


@pytest.mark.parametrize("op", ["RESHAPE", "MAX_POOL_2D", "PAD", "TRANSPOSE"])
def test_operators_that_move_data_keep_the_scale(op: str) -> None:
    from tests.single_ops import FACTORIES

    model = FACTORIES[op]()
    decided = plan(model, ranges(x=(-1.0, 2.0), y=(-0.5, 1.0)), "int8")
    assert decided.params["x"] == decided.params["y"] == params_from_range(-1.0, 2.0, "int8")
    assert decided.edges == {}


def test_a_group_has_the_union_of_its_ranges() -> None:
    model = net({"a": X, "b": X}, {}, [concat("a", "b")], ["y"])
    decided = plan(model, ranges(a=(-1.0, 0.5), b=(-0.25, 3.0), y=(-1.0, 3.0)), "int8")
    assert set(decided.params.values()) == {params_from_range(-1.0, 3.0, "int8")}


def test_groups_join_over_chains() -> None:
    layers = [
        reshape("a", "s", "h", (1, 16, 8)),
        layer("PACK", ("h", "b"), {"p": (2, 1, 16, 8)}, values_count=2, axis=0),
        reshape("p", "s2", "y", (2, 128)),
    ]
    constants = {"s": np.array([1, 16, 8], np.int32), "s2": np.array([2, 128], np.int32)}
    model = net({"a": X, "b": (1, 16, 8)}, constants, layers, ["y"])
    decided = plan(model, ranges(a=(0, 1), h=(0, 1), b=(-5, 0), p=(-5, 1), y=(-5, 1)), "int8")
    assert set(decided.params.values()) == {params_from_range(-5.0, 1.0, "int8")}


def test_maximum_forces_its_inputs_to_one_scale() -> None:
    model = net({"a": X, "b": X}, {}, [layer("MAXIMUM", ("a", "b"), {"y": X})], ["y"])
    decided, quantized = planned(model)
    assert len(set(decided.params.values())) == 1
    assert agreement_db(model, quantized) > 30


def test_a_constant_operand_takes_the_scale_of_the_group() -> None:
    constants = {"c": np.full((1, 4, 4, 8), 0.5, np.float32)}
    model = net({"a": X}, constants, [layer("MAXIMUM", ("a", "c"), {"y": X})], ["y"])
    decided, quantized = planned(model)
    assert decided.params["c"] == decided.params["y"]
    assert agreement_db(model, quantized) > 30


@pytest.mark.parametrize("name", ["int8", "dynamic"])
def test_large_constant_operands_do_not_decide_about_the_range(name: str) -> None:
    # A constant of 1024 elements and more is a table for GATHER, but an operand like any other for MAXIMUM.
    shape = (1, 8, 8, 16)
    constants = {"c": np.full(shape, 0.01, np.float32)}
    model = net({"a": shape}, constants, [layer("MAXIMUM", ("a", "c"), {"y": shape})], ["y"])
    _, quantized = planned(model, name)
    assert agreement_db(model, quantized) > 30


@pytest.mark.parametrize("name", ["int8", "dynamic"])
def test_large_constants_in_a_concatenation(name: str) -> None:
    constants = {"c": np.full((1, 16, 16, 8), 0.01, np.float32)}
    model = net({"a": (1, 16, 16, 8)}, constants, [concat("a", "c", shape=(1, 16, 16, 16))], ["y"])
    _, quantized = planned(model, name)
    assert agreement_db(model, quantized) > 30


def gather(table: np.ndarray) -> Model:
    model = net({}, {"table": table}, [layer("GATHER", ("table", "i"), {"y": (3, 64)}, axis=0)], ["y"])
    from featherweight.graph import Graph, Tensor

    tensors = dict(model.main.tensors) | {"i": Tensor("i", (3,), "int32")}
    return Model((Graph("main", ("i",), ("y",), model.main.nodes, tensors),))


def test_a_table_decides_about_the_range_of_what_is_copied_out_of_it() -> None:
    table = weights(32, 64)
    decided = plan(gather(table), ranges(y=(-0.01, 0.01)), "int8")
    assert decided.params["y"] == params_from_range(float(table.min()), float(table.max()), "int8")


def test_tables_are_integers_in_dynamic_range() -> None:
    model = gather(weights(32, 64))
    decided = plan(model, None, "dynamic")
    quantized = rewrite(model, decided)
    assert quantized.main.tensors["table"].dtype == "int8"
    indices = np.array([0, 7, 31], np.int32)
    assert np.abs(run(quantized, indices) - run(model, indices)).max() <= decided.params["y"].scale[0] * 0.51


# ------------------------------------------------------------------------------------------------ fixed outputs


@pytest.mark.parametrize(
    ("op", "name", "expected"),
    [
        ("LOGISTIC", "int8", SIGMOID),
        ("LOGISTIC", "int16x8", QuantParams("int16", (1 / 32768,), (0,))),
        ("TANH", "int8", TANH),
        ("TANH", "int16x8", QuantParams("int16", (1 / 32768,), (0,))),
    ],
)
def test_prescribed_outputs(op: str, name: str, expected: QuantParams) -> None:
    decided = plan(single(op), ranges(x=(-3.0, 3.0), y=(-0.9, 0.9)), name)
    assert decided.params["y"] == expected


def test_a_prescribed_output_passes_through_data_movement() -> None:
    layers = [softmax("x", "p", (1, 10)), reshape("p", "s", "r", (10,)), reshape("r", "s", "y", (10,))]
    model = net({"x": (1, 10)}, {"s": np.array([10], np.int32)}, layers, ["y"])
    decided, quantized = planned(model)
    assert decided.params["p"] == decided.params["r"] == decided.params["y"] == SIGMOID
    assert operators(quantized) == {"QUANTIZE": 1, "SOFTMAX": 1, "RESHAPE": 2, "DEQUANTIZE": 1}


def test_a_prescribed_output_joins_a_group_that_it_can_not_hold_by_a_conversion() -> None:
    layers = [unary("LOGISTIC", "a", "p", X), concat("p", "b")]
    model = net({"a": X, "b": X}, {}, layers, ["y"])
    decided = plan(model, ranges(a=(-3, 3), b=(-2, 2), p=(0, 1), y=(-2, 2)), "int8")
    assert decided.params["p"] == SIGMOID
    assert decided.params["b"] == decided.params["y"] == params_from_range(-2, 2, "int8")
    assert decided.edges == {"y:0": decided.params["y"]}
    quantized = rewrite(model, decided)
    assert operators(quantized) == {"QUANTIZE": 3, "LOGISTIC": 1, "CONCATENATION": 1, "DEQUANTIZE": 1}
    assert agreement_db(model, quantized) > 30


def test_a_group_that_fits_takes_the_prescribed_parameters() -> None:
    layers = [unary("LOGISTIC", "a", "p", X), concat("p", "b")]
    model = net({"a": X, "b": X}, {}, layers, ["y"])
    decided = plan(model, ranges(a=(-3, 3), b=(0.0, 0.5), p=(0, 1), y=(0.0, 1)), "int8")
    assert decided.params["b"] == decided.params["y"] == SIGMOID
    assert decided.edges == {}


def test_sigmoid_beside_tanh_in_one_concatenation() -> None:
    layers = [unary("LOGISTIC", "a", "p", X), unary("TANH", "a", "t", X), concat("p", "t")]
    model = net({"a": X}, {}, layers, ["y"])
    decided, quantized = planned(model)
    assert decided.params["p"] == SIGMOID
    assert decided.params["t"] == decided.params["y"] == TANH
    assert list(decided.edges) == ["y:0"]
    assert agreement_db(model, quantized) > 30


# ------------------------------------------------------------------------------------------------ weights


def one_conv(w: np.ndarray, b: np.ndarray | None = None, size: int = 4) -> Model:
    constants = {"w": w, "b": np.zeros(w.shape[0], np.float32) if b is None else b}
    layers = [conv("x", "w", "b", "y", (1, size, size, w.shape[0]))]
    return net({"x": (1, size, size, w.shape[-1])}, constants, layers, ["y"])


def test_weights_are_symmetric_per_channel() -> None:
    w = weights(3, 1, 1, 8)
    decided, quantized = planned(one_conv(w, weights(3)))
    peaks = np.abs(w).max(axis=(1, 2, 3)).astype(np.float64)
    scales = tuple((peaks / 127).astype(np.float32).tolist())
    assert decided.params["w"] == QuantParams("int8", scales, (0, 0, 0), 0)
    stored = quantized.main.tensors["w"].array
    assert stored is not None
    assert np.array_equal(np.abs(stored).max(axis=(1, 2, 3)), [127, 127, 127])


def test_biases_are_integers_at_the_product_of_the_scales() -> None:
    b = weights(3)
    decided, quantized = planned(one_conv(weights(3, 1, 1, 8), b))
    bias = quantized.main.tensors["b"]
    scales = np.float32(decided.params["x"].scale[0]) * np.array(decided.params["w"].scale, np.float32)
    assert bias.quant == QuantParams("int32", tuple(scales.tolist()), (0, 0, 0), 0)
    assert bias.dtype == "int32"
    assert np.abs(np.asarray(bias.array) * scales - b).max() <= scales.max() * 0.51


def test_biases_are_int64_beside_int16() -> None:
    _, quantized = planned(one_conv(weights(3, 1, 1, 8), weights(3)), "int16x8")
    assert quantized.main.tensors["b"].dtype == "int64"


@pytest.mark.parametrize("target", ["int8-per-tensor", "power-of-two"])
def test_one_scale_per_tensor(target: str) -> None:
    model = one_conv(weights(3, 1, 1, 8), weights(3))
    decided, quantized = planned(model, "int8", target, io="float32")
    assert len(decided.params["w"].scale) == 1
    assert decided.params["w"].axis is None
    assert quantized.main.tensors["b"].quant is not None
    assert len(quantized.main.tensors["b"].quant.scale) == 1
    assert check(quantized, target) == ()
    assert agreement_db(model, quantized) > 25


def test_power_of_two_scales_everywhere() -> None:
    model = one_conv(weights(3, 1, 1, 8), weights(3))
    _, quantized = planned(model, "int8", "power-of-two")
    for tensor in quantized.main.tensors.values():
        if tensor.quant:
            assert all(np.frexp(scale)[0] == 0.5 for scale in tensor.quant.scale), tensor.name


def test_a_rule_may_ask_for_one_scale_per_tensor() -> None:
    rule = Rule(weight=Scheme("int8", per_channel=False), activation=Scheme("int8", symmetric=False))
    decided, _ = planned(one_conv(weights(3, 1, 1, 8)), recipe(rule))
    assert len(decided.params["w"].scale) == 1


def test_depthwise_and_transposed_convolutions_have_scales_along_their_own_axis() -> None:
    from tests.single_ops import FACTORIES

    decided, _ = planned(FACTORIES["DEPTHWISE_CONV_2D"]())
    assert (decided.params["w"].axis, len(decided.params["w"].scale)) == (3, 8)
    decided, _ = planned(FACTORIES["TRANSPOSE_CONV"]())
    assert (decided.params["w"].axis, len(decided.params["w"].scale)) == (0, 4)


def test_weights_of_zeros() -> None:
    model = one_conv(np.zeros((3, 1, 1, 8), np.float32), np.array([0.1, -0.2, 0.0], np.float32))
    _, quantized = planned(model)
    assert agreement_db(model, quantized) > 40


@pytest.mark.parametrize("name", ["int8", "int16x8", "w4a8", "dynamic", "weights8", "weights4", "float16"])
def test_channels_of_zeros_with_a_bias(name: str) -> None:
    w, b = weights(4, 1, 1, 8), np.array([0.3, 0.3, -0.3, 0.1], np.float32)
    w[1:3] = 0
    model = one_conv(w, b)
    needs_ranges = name in {"int8", "int16x8", "w4a8"}
    stats = calibrate(model, samples(model, low=0, high=255), progress=False) if needs_ranges else None
    _, quantized = planned(model, name, stats=stats)
    (feed,) = samples(model, 1, 1, low=0, high=255)
    error = np.abs(run(quantized, feed) - run(model, feed))[..., 1:3].max()
    y = calibrate(model, [feed], progress=False).tensors["y"]
    assert error <= (y.high - y.low) / 255


def test_a_bias_far_beyond_its_weights_widens_their_scales() -> None:
    w = weights(2, 1, 1, 8)
    w[0] *= 1e-5
    model = one_conv(w, np.array([1000.0, 1.0], np.float32))
    decided, quantized = planned(model)
    (note,) = [n for n in decided.notes if "widened" in n]
    assert note.startswith("CONV_2D 'y', weight 'w': scales of 1 channels were widened so that their biases fit")
    bias = np.asarray(quantized.main.tensors["b"].array)
    assert np.abs(bias.astype(np.int64)).max() <= 2**30 + 1
    assert agreement_db(model, quantized) > 35


@pytest.mark.parametrize("name", ["int8", "int16x8"])
@pytest.mark.parametrize("target", ["litert", "power-of-two"])
def test_widened_scales_suit_the_target(name: str, target: str) -> None:
    w = weights(2, 1, 1, 8) * np.float32(1e-5)
    model = one_conv(w, np.array([1000.0, 1.0], np.float32))
    decided, quantized = planned(model, name, target)
    assert any("widened" in n for n in decided.notes)
    assert check(quantized, target) == ()


def test_int4_weights() -> None:
    w = weights(4, 1, 1, 32)
    decided, quantized = planned(one_conv(w), "w4a8")
    assert decided.forms["y"] == "int8*int4"
    stored = quantized.main.tensors["w"]
    assert (stored.dtype, stored.stored_bytes) == ("int4", w.size // 2)


def test_int4_falls_back_to_int8_where_there_is_no_kernel() -> None:
    from tests.single_ops import FACTORIES

    rule = Rule(weight=Scheme("int4"), activation=Scheme("int8", symmetric=False))
    decided, _ = planned(FACTORIES["DEPTHWISE_CONV_2D"](), recipe(rule))
    assert decided.forms["y"] == "int8*int8"
    assert decided.notes == ("DEPTHWISE_CONV_2D 'y': weights are int8, target 'litert' has no int4 kernel",)


def test_what_else_must_compute_an_operator_has_a_say() -> None:
    from tests.single_ops import FACTORIES

    rule = Rule(weight=Scheme("int4"), activation=Scheme("int8", symmetric=False))
    asked: list[tuple[str, str]] = []

    def obstacle(node: Node, graph: Graph, form: str) -> str | None:
        asked.append((node.op, form))
        return "nothing else computes it"

    model = FACTORIES["DEPTHWISE_CONV_2D"]()
    decided = plan(model, ranges(x=(-1, 1), y=(-1, 1)), recipe(rule), obstacle=obstacle)
    assert asked == [("DEPTHWISE_CONV_2D", "int8*int8")]
    assert decided.forms == {}
    assert decided.kept_float == {"y": "DEPTHWISE_CONV_2D: nothing else computes it"}
    assert decided.notes == ()


def one_dense(w: np.ndarray, b: np.ndarray | None = None) -> Model:
    constants = {"w": w} | ({} if b is None else {"b": b})
    layers = [dense("x", "w", "" if b is None else "b", "y", (1, w.shape[0]))]
    return net({"x": (1, w.shape[1])}, constants, layers, ["y"])


def test_int4_blocks() -> None:
    w = weights(6, 64)
    model = one_dense(w)
    decided, quantized = planned(model, "weights4")
    assert decided.params["w"] == QuantParams("int4", (), (), 0, 32, "w_scales")
    scales = quantized.main.tensors["w_scales"]
    assert (scales.dtype, scales.shape) == ("float16", (6, 2))
    expected = np.abs(w.reshape(6, 2, 32)).max(axis=-1) / 7
    np.testing.assert_allclose(np.asarray(scales.array, np.float32), expected, rtol=1e-3)
    assert quantized.main.tensors["w"].dtype == "int4"
    assert agreement_db(model, quantized) > 15


def test_rows_that_blocks_do_not_divide() -> None:
    decided, quantized = planned(one_dense(weights(6, 40)), "weights4")
    assert decided.params["w"].block_size is None
    assert len(decided.params["w"].scale) == 6
    assert decided.notes == (
        "FULLY_CONNECTED 'y', weight 'w': 40 inputs are no multiple of the block of 32; one scale per channel instead",
    )
    assert operators(quantized) == {"FULLY_CONNECTED": 1}


def test_blocks_of_zeros() -> None:
    w = weights(6, 64)
    w[0] = 0
    w[1, :32] = 0
    model = one_dense(w, weights(6))
    _, quantized = planned(model, "weights4")
    assert agreement_db(model, quantized) > 15


def test_blocks_beyond_float16() -> None:
    with pytest.raises(DataError, match=r"'w'.*float16"):
        planned(one_dense(weights(6, 64) * np.float32(1e7)), "weights4")


# ------------------------------------------------------------------------------------------------ bad weights


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["int8", "int16x8", "w4a8", "dynamic", "weights8", "weights4"])
def test_weights_that_are_no_numbers(bad: float, name: str) -> None:
    w = weights(4, 32)
    w[1, 1] = bad
    model = one_dense(w)
    message = r"^FULLY_CONNECTED 'y', weight 'w': it holds NaN or infinite values; .* Repair the model's weights"
    with pytest.raises(DataError, match=message):
        plan(model, ranges(x=(-1.0, 1.0), y=(-1.0, 1.0)), name)


@pytest.mark.parametrize(("bad", "found"), [(np.nan, "NaN"), (np.inf, "inf"), (70000.0, "70000")])
def test_weights_that_float16_can_not_hold(bad: float, found: str) -> None:
    w = weights(4, 32)
    w[1, 1] = bad
    message = rf"^FULLY_CONNECTED 'y', weight 'w': its largest value is {found}, float16 ends at 65504"
    with pytest.raises(DataError, match=message):
        plan(one_dense(w), None, "float16")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_biases_that_are_no_numbers(bad: float) -> None:
    model = one_dense(weights(4, 32), np.array([0, bad, 0, 0], np.float32))
    with pytest.raises(
        DataError, match=r"^FULLY_CONNECTED 'y', bias 'b' holds NaN or infinite values\. Repair the model\."
    ):
        plan(model, ranges(x=(-1.0, 1.0), y=(-1.0, 1.0)), "int8")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("op", ["ADD", "MAXIMUM"])
def test_operands_that_are_no_numbers(bad: float, op: str) -> None:
    c = np.zeros(X, np.float32)
    c[0, 1, 2, 3] = bad
    model = net({"x": X}, {"c": c}, [layer(op, ("x", "c"), {"y": X})], ["y"])
    decided = plan(model, ranges(x=(-1.0, 1.0), y=(-1.0, 1.0)), "int8")
    assert decided.forms == {}
    assert decided.kept_float["y"].startswith(
        f"{op}: 'c' holds infinity or a mask, which neither a softmax nor a pooling nor a"
    )


def test_scales_whose_product_float32_can_not_hold() -> None:
    # Each scale is valid; the bias's, their product, is not.
    model = one_dense(np.full((4, 32), 1e25, np.float32), np.ones(4, np.float32))
    with pytest.raises(DataError, match="'y'"):
        planned(model, stats=ranges(x=(-1e25, 1e25), y=(-1.0, 1.0)))


def test_a_weight_without_elements() -> None:
    model = net({"x": (1, 0)}, {"w": np.zeros((3, 0), np.float32)}, [dense("x", "w", "", "y", (1, 3))], ["y"])
    with pytest.raises(DataError, match=r"^FULLY_CONNECTED 'y', weight 'w' is empty\. Remove the layer"):
        plan(model, None, "dynamic")


# ------------------------------------------------------------------------------------------------ what stays float


def test_operators_without_integer_kernels() -> None:
    layers = [unary("RELU", "x", "h", X), unary("COS", "h", "c", X), unary("RELU", "c", "y", X)]
    model = net({"x": X}, {}, layers, ["y"])
    decided = plan(model, ranges(x=(-2, 2), h=(0, 2), c=(-1, 1), y=(0, 1)), "int8")
    assert decided.kept_float == {"c": "COS: target 'litert' has no int8 kernel for it (it runs none in integers)"}


def test_forms_that_the_target_lacks_are_named() -> None:
    decided = plan(single("ELU"), ranges(x=(-2, 2), y=(-1, 2)), "int16x8")
    assert decided.kept_float == {"y": "ELU: target 'litert' has no int16 kernel for it (it runs int8)"}


def test_what_the_recipe_keeps_float() -> None:
    model = net({"x": X}, {}, [unary("RELU", "x", "h", X), unary("TANH", "h", "y", X)], ["y"])
    decided, quantized = planned(model, recipe(Rule("h"), INT8))
    assert decided.kept_float == {"h": "RELU: the recipe keeps it float"}
    assert operators(quantized) == {"RELU": 1, "QUANTIZE": 1, "TANH": 1, "DEQUANTIZE": 1}


def test_computed_weights_and_biases() -> None:
    dense_layer = dense("x", "w", "", "y", (1, 3))
    model = net({"x": (1, 8), "w": (3, 8)}, {}, [dense_layer], ["y"])
    decided = plan(model, ranges(x=(-1, 1), w=(-1, 1), y=(-1, 1)), "int8")
    assert decided.kept_float == {"y": "FULLY_CONNECTED: its weight is computed, not constant"}
    model = net({"x": (1, 8), "b": (3,)}, {"w": weights(3, 8)}, [dense("x", "w", "b", "y", (1, 3))], ["y"])
    decided = plan(model, ranges(x=(-1, 1), b=(-1, 1), y=(-1, 1)), "int8")
    assert decided.kept_float == {"y": "FULLY_CONNECTED: its bias is computed, not constant"}


def test_weights_of_float16_files_are_told_from_computed_ones() -> None:
    # A float16 file holds its weights behind DEQUANTIZE: not quantized, but silently nothing would happen to it.
    model = one_dense(weights(4, 32))
    half = rewrite(model, plan(model, None, "float16"))
    decided = plan(prepare(half), None, "dynamic")
    assert decided.forms == {"y": "float32*int8"}


def test_data_movement_between_float_operators_stays_float() -> None:
    s = {"s": np.array([1, 128], np.int32)}
    layers = [unary("COS", "x", "h", X), reshape("h", "s", "r", (1, 128)), unary("COS", "r", "y", (1, 128))]
    decided = plan(net({"x": X}, s, layers, ["y"]), ranges(x=(-1, 1), h=(-1, 1), r=(-1, 1), y=(-1, 1)), "int8")
    assert decided.kept_float["r"] == "RESHAPE: it only moves data, between float operators"
    assert decided.forms == {}


def test_an_integer_only_target_and_a_float_recipe() -> None:
    decided = plan(one_dense(weights(4, 32)), None, "dynamic", "ethos-u55")
    assert decided.kept_float == {"y": "FULLY_CONNECTED: target 'ethos-u55' runs integers only; choose the recipe int8"}


def test_loops_stay_float_in_integer_recipes() -> None:
    model = while_model()
    decided = plan(model, ranges(x=(-1, 1), y=(-1, 1)), "int8")
    reason = "integers need fixed ranges, which a loop or branch has no place for; lower the framework model"
    assert decided.kept_float["n"].startswith(f"WHILE: {reason}")
    assert decided.kept_float["next_x"].startswith(f"FULLY_CONNECTED: {reason}")
    assert decided.forms == {}
    assert agreement_db(model, rewrite(model, decided)) > 100


def test_dynamic_range_inside_a_loop() -> None:
    model = while_model()
    decided = plan(model, None, "dynamic")
    assert decided.forms == {"next_x": "float32*int8"}
    quantized = rewrite(model, decided)
    assert quantized.graphs[2].tensors["w"].dtype == "int8"
    assert quantized.graphs[2].tensors["b"].dtype == "float32"
    assert agreement_db(model, quantized) > 30


# ------------------------------------------------------------------------------------------------ softmax


def classifier(classes: int, *, reads_softmax: bool = False, outputs: tuple[str, ...] = ("p",)) -> Model:
    constants = {"w": weights(classes, 16)}
    layers = [dense("x", "w", "", "logits", (1, classes)), softmax("logits", "p", (1, classes))]
    if reads_softmax:
        layers.append(unary("RELU", "p", "y", (1, classes)))
    return net({"x": (1, 16)}, constants, layers, list(outputs))


def test_a_final_softmax_over_many_classes_is_left_out_for_tflm() -> None:
    decided, quantized = planned(classifier(512), "int8", "tflm")
    assert decided.dropped == {
        "p": "SOFTMAX: the int8 kernel of target 'tflm' stops the device from 512 classes on (it has 512); the output "
        "is what went into it, whose largest class is the same"
    }
    assert operators(quantized) == {"FULLY_CONNECTED": 1}
    assert quantized.main.outputs == ("logits",)
    assert check(quantized, "tflm") == ()


@pytest.mark.parametrize(("classes", "target"), [(511, "tflm"), (512, "litert")])
def test_other_softmaxes_stay(classes: int, target: str) -> None:
    decided, quantized = planned(classifier(classes), "int8", target)
    assert decided.dropped == {}
    assert operators(quantized)["SOFTMAX"] == 1


def test_an_int16_softmax_stays() -> None:
    decided, _ = planned(classifier(512), "int16x8", "tflm")
    assert decided.dropped == {}


def test_a_softmax_that_others_read_is_kept_float() -> None:
    decided, quantized = planned(classifier(512, reads_softmax=True, outputs=("y",)), "int8", "tflm")
    assert decided.dropped == {}
    assert decided.kept_float["p"].startswith(
        "SOFTMAX: the int8 kernel of target 'tflm' stops the device from 512 classes"
    )
    assert operators(quantized)["SOFTMAX"] == 1


def test_a_softmax_that_is_an_output_and_read_is_kept() -> None:
    model = classifier(512, reads_softmax=True, outputs=("p", "y"))
    decided, quantized = planned(model, "int8", "tflm", io="float32")
    assert decided.dropped == {}
    assert agreement_db(model, quantized) > 20


def test_logits_and_their_softmax_as_outputs() -> None:
    decided, quantized = planned(classifier(512, outputs=("logits", "p")), "int8", "tflm", io="float32")
    assert set(decided.dropped) == {"p"}
    assert len(quantized.main.outputs) == 2
    assert len(set(quantized.main.outputs)) == 1
    assert operators(quantized) == {"QUANTIZE": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 1}


# ------------------------------------------------------------------------------------------------ mixtures


def test_int16_beside_int8() -> None:
    constants = {"w1": weights(8, 16), "w2": weights(8, 8), "w3": weights(4, 8)}
    layers = [dense("x", "w1", "", "a", (1, 8)), dense("a", "w2", "", "b", (1, 8)), dense("b", "w3", "", "y", (1, 4))]
    model = net({"x": (1, 16)}, constants, layers, ["y"])
    wide = Rule("b", weight=Scheme("int8"), activation=Scheme("int16"))
    decided, quantized = planned(model, recipe(wide, INT8))
    assert decided.forms == {"a": "int8*int8", "b": "int16*int8", "y": "int8*int8"}
    assert [decided.params[n].dtype for n in ("x", "a", "b", "y")] == ["int8", "int8", "int16", "int8"]
    assert set(decided.edges) == {"b:0", "y:0"}
    assert operators(quantized) == {"QUANTIZE": 3, "FULLY_CONNECTED": 3, "DEQUANTIZE": 1}
    assert agreement_db(model, quantized) > 25


def test_int8_activations_beside_dynamic_range() -> None:
    constants = {"w1": weights(32, 16), "w2": weights(4, 32)}
    layers = [dense("x", "w1", "", "h", (1, 32)), dense("h", "w2", "", "y", (1, 4))]
    model = net({"x": (1, 16)}, constants, layers, ["y"])
    decided, quantized = planned(model, recipe(Rule("y", weight=Scheme("int8")), INT8))
    assert decided.forms == {"h": "int8*int8", "y": "float32*int8"}
    assert operators(quantized) == {"QUANTIZE": 1, "FULLY_CONNECTED": 2, "DEQUANTIZE": 1}
    assert agreement_db(model, quantized) > 25


def test_one_weight_for_two_layers() -> None:
    constants = {"w": weights(8, 8), "b": weights(8)}
    layers = [dense("x", "w", "b", "h", (1, 8)), dense("h", "w", "b", "y", (1, 8))]
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    decided, quantized = planned(model)
    assert decided.edges == {}
    first, second = (node for node in quantized.main.nodes if node.op == "FULLY_CONNECTED")
    assert first.inputs[1] == second.inputs[1]  # the weight is stored once
    assert first.inputs[2] != second.inputs[2]  # a bias belongs to the scale of its layer's input
    assert agreement_db(model, quantized) > 30


def test_one_weight_at_different_precision() -> None:
    constants = {"w": weights(8, 8)}
    layers = [dense("x", "w", "", "h", (1, 8)), dense("h", "w", "", "y", (1, 8))]
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    four = Rule("y", weight=Scheme("int4"), activation=Scheme("int8", symmetric=False))
    decided, quantized = planned(model, recipe(four, INT8))
    assert decided.params["w"].dtype == "int8"
    assert decided.edges["y:1"].dtype == "int4"
    stored = sorted(t.dtype for t in quantized.main.tensors.values() if t.is_constant)
    assert stored == ["int4", "int8"]
    assert agreement_db(model, quantized) > 10


def test_one_weight_for_an_integer_and_a_float_layer() -> None:
    constants = {"w": weights(8, 8)}
    layers = [dense("x", "w", "", "h", (1, 8)), dense("h", "w", "", "y", (1, 8))]
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    _, quantized = planned(model, recipe(Rule("y"), INT8))
    assert sorted(t.dtype for t in quantized.main.tensors.values() if t.is_constant) == ["float32", "int8"]
    assert agreement_db(model, quantized) > 30


def test_one_bias_for_layers_of_different_weights() -> None:
    constants = {"w1": weights(8, 8), "w2": weights(8, 8, seed=1), "b": weights(8)}
    layers = [dense("x", "w1", "b", "u", (1, 8)), dense("x", "w2", "b", "v", (1, 8)), add("u", "v", "y", (1, 8))]
    model = net({"x": (1, 8)}, constants, layers, ["y"])
    _, quantized = planned(model)
    assert sum(t.dtype == "int32" for t in quantized.main.tensors.values()) == 2
    assert agreement_db(model, quantized) > 30


def test_the_same_plan_whatever_the_order_of_samples() -> None:
    model = one_conv(weights(3, 1, 1, 8), weights(3))
    given = samples(model, 16)
    forward, backward = (calibrate(model, order, progress=False) for order in (given, given[::-1]))
    assert plan(model, forward, "int8") == plan(model, backward, "int8")


def test_parameters_that_are_given_stand() -> None:
    model = single("RELU")
    own = QuantParams("int8", (0.25,), (-5,))
    decided = plan(model, ranges(x=(-1, 1), y=(0, 1)), "int8", given={"y": own})
    assert decided.params["y"] == own
    assert decided.params["x"] == params_from_range(-1, 1, "int8")


def test_a_convolution_keeps_its_attributes() -> None:
    _, quantized = planned(one_conv(weights(3, 1, 1, 8)))
    node = next(n for n in quantized.main.nodes if n.op == "CONV_2D")
    assert {key: node.attrs[key] for key in CONV} == CONV
    assert node.version == 3


def test_plans_are_the_same_every_time() -> None:
    model = one_conv(weights(3, 1, 1, 8), weights(3))
    stats: Any = calibrate(model, samples(model), progress=False)
    assert plan(model, stats, "int8").to_json() == plan(model, stats, "int8").to_json()
