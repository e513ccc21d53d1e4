"""What the reference runtime refuses, detects and returns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests import single_ops
from tests.operators.building import Case

import featherweight as fw
from featherweight import operators
from featherweight.errors import DataError, RecipeError, UnsupportedOp
from featherweight.graph import Graph, Model, Node, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.operators import record as registry
from featherweight.runtime import run_reference

ONE = QuantParams("int8", (1.0,), (0,))


def dense(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, w_scale: float = 1.0, scale: float = 1.0) -> Model:
    params = QuantParams("int8", (w_scale,), (0,))
    built = Case("FULLY_CONNECTED", {"fused_activation_function": "NONE"})
    built.fed("x", x, ONE).constant("w", weight, params)
    built.constant("b", bias, QuantParams("int32", (w_scale,), (0,))).gives("int8", QuantParams("int8", (scale,), (0,)))
    node = Node(built.op, ("x", "w", "b"), ("y0",), built.attrs)
    tensors = {t.name: t for t in (*built.tensors, replace(built.outputs[0], shape=(x.shape[0], weight.shape[0])))}
    return Model((Graph("main", ("x",), ("y0",), (node,), tensors),))


def halves(profile: str) -> list[int]:
    """Halves -3 … 3 in a dense layer of one weight."""
    x = np.arange(-3, 4, dtype=np.int8).reshape(7, 1)
    model = dense(x, np.ones((1, 1), np.int8), np.zeros(1, np.int32), w_scale=0.5)
    return run_reference(model, x, profile)["y0"].reshape(-1).tolist()


def test_profiles_differ_in_ties() -> None:
    assert halves("xnnpack") == [-2, -1, 0, 0, 0, 1, 2]  # half to even
    assert halves("tflite_ref") == [-2, -1, -1, 0, 1, 1, 2]  # half away from zero
    assert halves("power_of_two_even") == [-2, -1, 0, 0, 0, 1, 2]
    assert halves("integer_multiplier") == halves("power_of_two") == [-1, -1, 0, 0, 1, 1, 2]  # half up


def test_a_shifting_chip_refuses_other_factors() -> None:
    x = np.ones((1, 1), np.int8)
    model = dense(x, np.ones((1, 1), np.int8), np.zeros(1, np.int32), w_scale=0.3)
    with pytest.raises(UnsupportedOp, match=r"FULLY_CONNECTED 'y0': profile 'power_of_two' .* but a factor is 0\.3"):
        run_reference(model, x, "power_of_two")


@pytest.mark.parametrize("profile", ["xnnpack", "tflite_ref"])
def test_an_accumulator_that_overflows_is_named(profile: str) -> None:
    x = np.full((1, 8), 127, np.int8)
    weight, bias = np.full((1, 8), 127, np.int8), np.array([2**31 - 1], np.int32)
    with pytest.raises(DataError, match=r"'y0': an accumulator of 32 bits overflows \(a sum is 2147612679; "):
        run_reference(dense(x, weight, bias), x, profile)


def test_an_operator_without_kernel_is_refused() -> None:
    tensors = {n: Tensor(n, (1, 2), "float32") for n in "xy"}
    model = Model((Graph("main", ("x",), ("y",), (Node("CUSTOM", ("x",), ("y",), custom_code="Mine"),), tensors),))
    with pytest.raises(UnsupportedOp, match=r"CUSTOM 'y': the operator has no reference kernel \(supported: ABS, AD"):
        run_reference(model, np.zeros((1, 2), np.float32))


def test_a_type_without_kernel_is_refused() -> None:
    model = Model(
        (
            Graph(
                "main",
                ("x",),
                ("y",),
                (Node("TANH", ("x",), ("y",)),),
                {n: Tensor(n, (1, 2), "uint8", quant=ONE) for n in "xy"},
            ),
        )
    )
    with pytest.raises(UnsupportedOp, match=r"TANH 'y': no reference kernel for the form uint8 \(supp"):
        run_reference(model, np.zeros((1, 2), np.uint8))


def hybrid_dense(weight: np.ndarray, dtype: str = "int8", columns: int = 2) -> Model:
    tensors = {
        "x": Tensor("x", (1, columns), "float32"),
        "w": constant("w", weight, dtype, replace(ONE, dtype=dtype)),
        "y": Tensor("y", (1, weight.shape[0]), "float32"),
    }
    return Model((Graph("main", ("x",), ("y",), (Node("FULLY_CONNECTED", ("x", "w"), ("y",)),), tensors),))


def test_hybrid_layers_quantize_their_activations() -> None:
    x = np.array([[0.3, 127.0]], np.float32)
    model = hybrid_dense(np.eye(2, dtype=np.int8))
    assert run_reference(model, x, "tflite_ref")["y"].tolist() == [[0.0, 127.0]]  # 127 steps of 1: 0.3 is none
    found = run_reference(model, x, "xnnpack")["y"][0]
    step = np.float32(127 / 255)  # XNNPACK has 255 steps, always
    np.testing.assert_allclose(found, np.array([step, 127.0]), rtol=1e-6)


def test_what_litert_computes_wrongly_is_refused() -> None:
    weight = np.full((4, 32), -8, np.int8)
    model, x = hybrid_dense(weight, "int4", 32), np.ones((1, 32), np.float32)
    assert run_reference(model, x, "xnnpack")["y"].tolist() == [[-256.0] * 4]
    with pytest.raises(UnsupportedOp, match="int4 weights of -8, which LiteRT's optimized kernel takes for 8, are not"):
        run_reference(model, x, "tflite_opt")


def test_tensors_of_choice_are_returned_by_both_runtimes() -> None:
    model = single_ops.FACTORIES["ADD"]()
    feeds = single_ops.feeds(model)
    for options in ({}, {"runtime": "reference"}):
        assert list(fw.run(model, feeds, tensors="all", **options)) == ["y"]
        assert list(fw.run(model, feeds, tensors=["y"], **options)) == ["y"]
        assert isinstance(fw.run(model, feeds, **options), np.ndarray)
    with pytest.raises(RecipeError, match="tensor 'q' is not in the model's main graph; it can't be kept"):
        fw.run(model, feeds, runtime="reference", tensors=["q"])


def test_batches_are_cut_and_joined() -> None:
    model = single_ops.FACTORIES["CONV_2D"]()
    x = np.random.default_rng(0).normal(0, 1, (3, *single_ops.X[1:])).astype(np.float32)
    parts = [run_reference(model, x[i : i + 1])["y"] for i in range(3)]
    assert np.array_equal(run_reference(model, x)["y"], np.concatenate(parts))


def test_options_that_do_not_go_together() -> None:
    model = single_ops.FACTORIES["ADD"]()
    feeds = single_ops.feeds(model)
    with pytest.raises(RecipeError, match=r"runtime 'tpu' is unknown \(allowed: litert, reference\)"):
        fw.run(model, feeds, runtime="tpu")
    with pytest.raises(RecipeError, match="profile 'xnnpack' needs runtime 'reference'"):
        fw.run(model, feeds, profile="xnnpack")
    with pytest.raises(RecipeError, match="resolver 'reference' needs runtime 'litert'"):
        fw.run(model, feeds, runtime="reference", resolver="reference")


def test_a_kernel_is_registered_once_and_for_known_operators() -> None:
    with pytest.raises(ValueError, match="operator ADD has two kernels for int8"):
        registry.kernel("ADD", "int8")(operators.lookup("ADD").kernels["int8"])
    with pytest.raises(ValueError, match="operator NO_SUCH has no record; register it before its kernels"):
        registry.kernel("NO_SUCH", "int8")(operators.lookup("ADD").kernels["int8"])
