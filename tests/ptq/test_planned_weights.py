"""How the planner scales weights and biases, and which of them it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from tests import models
from tests.building import dense, layer, model_of, net, weights
from tests.ptq.nets import X, agreement_db, one_conv, one_dense, operators, planned, ranges, recipe, samples, sqnr_db

import featherweight as fw
from featherweight.calibration import calibrate
from featherweight.errors import DataError
from featherweight.graph import Graph, Model, Node
from featherweight.graph.numerics import QuantParams
from featherweight.ptq.planning import plan
from featherweight.recipes.recipe import Rule, Scheme
from featherweight.runtime import run
from featherweight.targets.target import check

# ------------------------------------------------------------------------------------------------ weights


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
    rule = Rule(weight=Scheme("int8", per_channel=False), activation=Scheme("int8"))
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

    rule = Rule(weight=Scheme("int4"), activation=Scheme("int8"))
    decided, _ = planned(FACTORIES["DEPTHWISE_CONV_2D"](), recipe(rule))
    assert decided.forms["y"] == "int8*int8"
    assert decided.notes == ("DEPTHWISE_CONV_2D 'y': weights are int8, target 'litert' has no int4 kernel",)


@pytest.mark.parametrize("name", ["dense", "transformer"])
def test_int4_falls_back_to_int8_where_its_scales_do_not_suit_the_target(name: str) -> None:
    found = fw.quantize(
        models.lowered(name), "w4a8", calibration=models.samples(name, 4), target="tflm", progress=False
    )
    layers = [node.name for node in models.lowered(name).main.nodes if node.op == "FULLY_CONNECTED"]
    assert {found.plan.forms[node] for node in layers} == {"int8*int8"}
    assert any("weights are int8: " in note and "one scale" in note for note in found.plan.notes)
    assert check(found.model, "tflm") == ()


def test_int4_stays_where_one_scale_is_asked_for() -> None:
    rule = Rule(weight=Scheme("int4", per_channel=False), activation=Scheme("int8"))
    found = fw.quantize(
        models.lowered("dense"), recipe(rule), calibration=models.samples("dense", 4), target="tflm", progress=False
    )
    assert set(found.plan.forms.values()) == {"int8*int4"}
    assert check(found.model, "tflm") == ()


def test_what_else_must_compute_an_operator_has_a_say() -> None:
    from tests.single_ops import FACTORIES

    rule = Rule(weight=Scheme("int4"), activation=Scheme("int8"))
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


def looked_up(table: np.ndarray) -> Model:
    """Returns a model of one table."""
    shapes = {"y": (4, table.shape[1])}
    return model_of("EMBEDDING_LOOKUP", {"x": (4,), "w": table}, shapes, dtypes={"x": "int32"})


def test_tables_have_a_scale_for_every_block() -> None:
    """Which keeps the small weights of a row beside a large one."""
    table = weights(40, 128)
    table[:, 5] *= 30
    decided, quantized = planned(looked_up(table), "weights4")
    assert decided.forms == {"y": "float32*int4"}
    assert decided.params["w"] == QuantParams("int4", (), (), 0, 64, "w_scales")
    assert operators(quantized) == {"EMBEDDING_LOOKUP": 1}
    ids = np.array([3, 39, 0, 3], np.int32)
    found = run(quantized, ids)
    assert sqnr_db(table[ids][:, 64:], np.asarray(found)[:, 64:]) > 15


def test_tables_that_blocks_do_not_divide() -> None:
    decided, quantized = planned(looked_up(weights(40, 34)), "weights4")
    assert len(decided.params["w"].scale) == 40
    assert decided.notes == (
        "EMBEDDING_LOOKUP 'y', weight 'w': rows of 34 are no multiple of the block of 64; one scale per channel "
        "instead",
    )
    assert operators(quantized) == {"EMBEDDING_LOOKUP": 1}


def test_tables_that_smaller_blocks_divide() -> None:
    decided, _ = planned(looked_up(weights(40, 96)), "weights4")
    assert decided.params["w"].block_size == 32
    assert decided.notes == (
        "EMBEDDING_LOOKUP 'y', weight 'w': rows of 96 are no multiple of the block of 64; blocks of 32 instead",
    )


def test_rows_that_are_no_whole_bytes_are_unpacked_before() -> None:
    decided, quantized = planned(looked_up(weights(40, 33)), "weights4")
    assert decided.forms == {"y": "float32+int4"}
    assert operators(quantized) == {"DEQUANTIZE": 1, "EMBEDDING_LOOKUP": 1}
    ids = np.array([3, 39, 0, 3], np.int32)
    assert sqnr_db(np.asarray(looked_up(weights(40, 33)).tensors["w"].array)[ids], np.asarray(run(quantized, ids))) > 15


def test_rows_that_blocks_do_not_divide() -> None:
    decided, quantized = planned(one_dense(weights(6, 40)), "weights4")
    assert decided.params["w"].block_size is None
    assert len(decided.params["w"].scale) == 6
    assert decided.notes == (
        "FULLY_CONNECTED 'y', weight 'w': rows of 40 are no multiple of the block of 32; one scale per channel instead",
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
