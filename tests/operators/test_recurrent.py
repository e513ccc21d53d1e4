"""Loops, branches, states and fused recurrent layers on the reference kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests import models
from tests.operators.oracle import RESOLVERS
from tests.operators.recurrent_cases import ATTRS, Layer, Sizes, integer_layer

import featherweight as fw
from featherweight.errors import FormatError, UnsupportedOp
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.operators import Call, lookup
from featherweight.operators.kernels import eigen, lstm_integer, rows
from featherweight.operators.profiles import find
from featherweight.runtime import run_reference

SESSION = {"xnnpack": "auto", "tflite_opt": "no_delegate", "tflite_ref": "reference"}


def layer(batch: int = 1, cell_scale: float = 2.0**-11, **attrs: object) -> Layer:
    """An integer LSTM of 6 features, 5 steps and 8 units."""
    built = Layer("UNIDIRECTIONAL_SEQUENCE_LSTM", ATTRS | attrs, form="int8")
    sizes = Sizes(batch, 5, 6, 8, bool(attrs.get("time_major")))
    x, hidden = QuantParams("int8", (0.02,), (-5,)), QuantParams("int8", (1 / 127,), (3,))
    return integer_layer(built, sizes, np.random.default_rng(0), x, hidden, QuantParams("int16", (cell_scale,), (0,)))


def tensors(model: Model, inputs: Any, **options: Any) -> dict[str, np.ndarray]:
    """Every tensor that the main graph computes."""
    found = fw.run(model, inputs, tensors="all", **options)
    assert isinstance(found, dict)
    return found


def output(model: Model, inputs: Any, **options: Any) -> np.ndarray:
    found = fw.run(model, inputs, **options)
    assert isinstance(found, np.ndarray)
    return found


def quantized(name: str, recipe: str, *, unroll: bool) -> fw.Model:
    calibration = models.samples(name, 16, seed=1)
    return fw.quantize(models.lowered(name, unroll), recipe, calibration=calibration, progress=False).model


@pytest.mark.parametrize("profile", RESOLVERS)
@pytest.mark.parametrize("name", models.RECURRENT)
def test_every_tensor_of_an_unrolled_network_is_litert_s(name: str, profile: str) -> None:
    model, inputs = quantized(name, "int8", unroll=True), models.batch(name, 3, seed=2)
    found = tensors(model, inputs, runtime="reference", profile=profile)
    expected = tensors(model, inputs, resolver=SESSION[profile], threads=1)
    assert list(found) == list(expected)
    for tensor, array in expected.items():
        np.testing.assert_array_equal(found[tensor], array, err_msg=tensor)


@pytest.mark.parametrize("profile", RESOLVERS)
@pytest.mark.parametrize("recipe", ["float", "dynamic"])
@pytest.mark.parametrize("name", models.RECURRENT)
def test_loops_run(name: str, recipe: str, profile: str) -> None:
    model = models.lowered(name) if recipe == "float" else quantized(name, recipe, unroll=False)
    inputs = models.samples(name, 1, seed=2)[0]
    found = tensors(model, inputs, runtime="reference", profile=profile)
    expected = tensors(model, inputs, resolver=SESSION[profile], threads=1)
    assert list(found) == list(expected)
    assert any(node.op == "WHILE" for node in model.main.nodes)
    # Where an ulp moves an activation to the next integer, hybrid results differ by more than ulps.
    for tensor, array in expected.items():
        np.testing.assert_allclose(found[tensor], array, rtol=0, atol=1e-6 if recipe == "float" else 5e-3)


def test_a_run_begins_with_zero_states_and_its_parts_share_them() -> None:
    built = layer()
    x = np.random.default_rng(1).integers(-128, 128, (3, 5, 6)).astype(np.int8)
    together = output(built.model(), x, runtime="reference")
    assert np.array_equal(together, output(built.model(), x))
    assert np.array_equal(together, output(built.model(), x, runtime="reference"))
    alone = np.concatenate([output(built.model(), x[i : i + 1], runtime="reference") for i in range(3)])
    assert np.array_equal(together[:1], alone[:1])
    assert not np.array_equal(together[1:], alone[1:])


def test_a_state_that_the_graph_resets_does_not_reach_the_next_part() -> None:
    built = layer()
    built.starts = [np.full((1, 8), 3, np.int8), np.zeros((1, 8), np.int16)]
    x = np.random.default_rng(1).integers(-128, 128, (3, 5, 6)).astype(np.int8)
    alone = np.concatenate([output(built.model(), x[i : i + 1], runtime="reference") for i in range(3)])
    assert np.array_equal(output(built.model(), x, runtime="reference"), alone)
    found = tensors(built.model(), x[:1], runtime="reference")
    expected = tensors(built.model(), x[:1])
    assert list(found) == list(expected) == ["h", "c", "y0"]
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_an_integer_layer_is_near_the_real_one() -> None:
    built = layer(batch=2)
    y = output(built.model(), built.feeds, runtime="reference")
    real = {t.name: _real(t) for t in built.tensors if t.data is not None and t.quant}
    x = (built.feeds["x"].astype(float) + 5) * 0.02
    hidden, cell = np.zeros((2, 8)), np.zeros((2, 8))
    for time in range(5):
        i, f, c, o = (x[:, time] @ real[f"k{g}"].T + hidden @ real[f"r{g}"].T + real[f"b{g}"] for g in "ifco")
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(c)
        hidden = _sigmoid(o) * np.tanh(cell)
        np.testing.assert_allclose((y[:, time] - 3.0) / 127, hidden, atol=0.02)


@pytest.mark.parametrize("exponent", [-15, -12, -9])
@pytest.mark.parametrize(("batch", "attrs"), [(1, {"cell_clip": 1.5}), (3, {}), (2, {"time_major": True})])
def test_micro_computes_every_tensor_in_its_own_arithmetic(batch: int, attrs: dict[str, Any], exponent: int) -> None:
    built = layer(batch, 2.0**exponent, **attrs)
    model = built.model()
    sheet = fw.prove(model, target="tflm", runtimes=["tflm"], vectors=2, progress=False)
    (row,) = (row for row in sheet.rows if row.runtime == "tflm")
    assert row.status == "equal", row
    assert [each.elements for each in row.tensors] == [batch * 5 * 8 * 2]
    litert, micro = (run_reference(model, built.feeds, p, keep=["c"])["c"] for p in ("tflite_ref", "tflm"))
    assert exponent == -9 or not np.array_equal(litert, micro)  # few integers: they may be the same


def test_chips_compute_it_in_their_own_arithmetic() -> None:
    built = layer(batch=2)
    profiles = ("integer_multiplier", "tflite_ref")
    chip, litert = (run_reference(built.model(), built.feeds, p, keep=["c"])["c"].astype(int) for p in profiles)
    assert 0 < np.abs(chip - litert).max() <= 8  # of an int16 state
    with pytest.raises(UnsupportedOp, match="profile 'power_of_two' rescales by powers of two only"):
        run_reference(built.model(), built.feeds, "power_of_two")


def _real(tensor: Tensor) -> np.ndarray:
    assert tensor.array is not None
    assert tensor.quant is not None
    return tensor.array.astype(np.float64) * tensor.quant.scale[0]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_fixed_point_gates_are_near_the_real_functions() -> None:
    x = np.arange(-32768, 32768).astype(np.int16)
    # gemmlowp's three steps of Newton's division in 16 bits are off by 12 units of 1/32768 at most.
    for bits in range(7):
        wanted = 32768 * np.tanh(x / 2.0 ** (15 - bits))
        assert np.abs(lstm_integer.tanh(x, bits) - wanted).max() < 12.1
    assert np.abs(lstm_integer.sigmoid(x) - 32768 * _sigmoid(x / 4096.0)).max() < 12.1


def test_real_gates_are_near_the_real_functions() -> None:
    x = np.linspace(-20, 20, 40001).astype(np.float32)
    for by_four in (np.ones(x.shape, bool), np.zeros(x.shape, bool)):
        np.testing.assert_allclose(eigen.sigmoid(x, by_four), _sigmoid(x.astype(np.float64)), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(eigen.tanh(x), np.tanh(x.astype(np.float64)), rtol=1e-6)
    assert eigen.taken_by_four(3, 7).tolist() == [False, True, True, True, True, False, False]
    assert not eigen.taken_by_four(1, 2).any()


@pytest.mark.parametrize("asymmetric", [True, False])
def test_rows_are_quantized_as_by_litert(asymmetric: bool) -> None:
    random, size = np.random.default_rng(0), 21
    x = random.integers(-90, 90, (200, size)) + random.choice([0, 0.25, 0.5], (200, size))
    x[random.random(x.shape) < 0.2] = np.nextafter(np.float32(0.5), np.float32(0))
    x[:, 0], x[:, 13] = (-100, 155) if asymmetric else (-127, 3)  # a scale of one: many ties
    x = x.astype(np.float32)
    attrs = {"asymmetric_quantize_inputs": asymmetric, "fused_activation_function": "NONE"}
    node = Node("FULLY_CONNECTED", ("x", "w", ""), ("y",), attrs, 9)
    one = QuantParams("int8", (1.0,), (0,))
    shape = Tensor("x", x.shape, "float32")
    named = {"x": shape, "w": constant("w", np.eye(size, dtype=np.int8), quant=one), "y": replace(shape, name="y")}
    expected = output(Model((Graph("main", ("x",), ("y",), (node,), named),)), x, resolver="no_delegate")
    integers, _, scales = (rows.quantize_asymmetric if asymmetric else rows.quantize_symmetric)(x)
    np.testing.assert_array_equal(integers * scales, expected)


@pytest.mark.parametrize("profile", RESOLVERS)
@pytest.mark.parametrize("recipe", ["dynamic", "int8"])
def test_every_tensor_of_a_fused_network_is_litert_s(recipe: str, profile: str) -> None:
    calibration = models.samples("lstm", 16, seed=1)
    model = fw.quantize(models.lowered("lstm", fuse=True), recipe, calibration=calibration, progress=False).model
    assert any(node.op == "UNIDIRECTIONAL_SEQUENCE_LSTM" for node in model.main.nodes)
    for inputs in models.samples("lstm", 3, seed=2):
        found = tensors(model, inputs, runtime="reference", profile=profile)
        expected = tensors(model, inputs, resolver=SESSION[profile], threads=1)
        assert list(found) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def _peephole(built: Layer) -> Layer:
    built.tensors[9] = replace(built.tensors[12], name="p")
    return built


def _few_intermediates(built: Layer) -> Layer:
    built.intermediates = built.intermediates[:4]
    return built


def _narrow_gate(built: Layer) -> Layer:
    built.tensors[2] = constant("kf", np.zeros((8, 5), np.int8), quant=built.tensors[2].quant)
    return built


def _other_batch(built: Layer) -> Layer:
    built.tensors[18] = replace(built.tensors[18], shape=(3, 8))
    return built


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: layer(fused_activation_function="RELU"), r"activation RELU is not supported \(supported: TANH\)"),
        (lambda: _peephole(layer()), "peephole is not supported by the reference kernels"),
        (lambda: layer(proj_clip=1.0), "a clipped projection or diagonal recurrent weights"),
        (lambda: layer(cell_clip=-1.0), "a negative cell_clip is not supported"),
        (lambda: layer(cell_scale=0.003), r"cell state of type int16, scale 0\.003 and zero point 0 .* 2\*\*-15 to 2"),
        (lambda: _few_intermediates(layer()), r"4 intermediates are not supported \(supported: 5\)"),
        (lambda: _narrow_gate(layer()), r"input 2 of shape \[8, 5\] is not supported \(supported: \[8, 6\]\)"),
        (lambda: _other_batch(layer()), "states of 24 and 8 values for a batch of 1 and 8 units"),
    ],
)
def test_layers_of_other_kinds_are_refused(build: Callable[[], Layer], message: str) -> None:
    built = build()
    with pytest.raises(UnsupportedOp, match=rf"UNIDIRECTIONAL_SEQUENCE_LSTM 'y0': .*{message}"):
        run_reference(built.model(), built.feeds)


def loop(condition: str, graph: int = 1) -> Model:
    """A loop whose condition is one of its values."""
    flag, value = Tensor("flag", (), condition), Tensor("x", (2,), "float32")
    node = Node("WHILE", ("flag", "x"), ("flag_end", "y"), {"cond_subgraph_index": graph, "body_subgraph_index": 1})
    outer = [flag, value, replace(flag, name="flag_end"), replace(value, name="y")]
    main = Graph("main", ("flag", "x"), ("y",), (node,), {t.name: t for t in outer})
    inner = {f"in/{t.name}": replace(t, name=f"in/{t.name}") for t in (flag, value)}
    return Model((main, Graph("in", ("in/flag", "in/x"), ("in/flag", "in/x"), (), inner)))


def test_damaged_loops_are_refused() -> None:
    feeds: dict[str, Any] = {"flag": np.asarray(False), "x": np.ones(2, np.float32)}
    assert run_reference(loop("bool"), feeds)["y"].tolist() == [1, 1]
    with pytest.raises(
        FormatError, match="A node calls graph 7 with 2 inputs; the model has no such graph among its 2"
    ):
        run_reference(loop("bool", 7), feeds)
    with pytest.raises(FormatError, match="Graph 0 calls itself"):
        run_reference(loop("bool", 0), feeds)
    with pytest.raises(UnsupportedOp, match=r"a condition of type float32 and shape \[\] is not supported"):
        run_reference(loop("float32"), feeds | {"flag": np.asarray(0, np.float32)})
    call = Call(loop("bool").main.nodes[0], (), (), (), find("tflite_ref"))
    with pytest.raises(UnsupportedOp, match="a node without its model is not supported"):
        lookup("WHILE").kernels["*"](call)


def test_a_tensor_that_nothing_computes_is_named() -> None:
    named = {name: Tensor(name, (2,), "float32") for name in "xyz"}
    model = Model((Graph("main", ("x",), ("z",), (Node("ADD", ("x", "y"), ("z",)),), named),))
    with pytest.raises(UnsupportedOp, match="ADD 'z': tensor 'y' has no value: nothing computes it"):
        run_reference(model, np.ones(2, np.float32))
