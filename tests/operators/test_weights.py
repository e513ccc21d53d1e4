"""Hybrid and int4 networks against LiteRT, and what of those forms the reference kernels refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests import models
from tests.operators.building import Case
from tests.operators.oracle import RESOLVERS

import featherweight as fw
from featherweight.errors import DataError, UnsupportedOp
from featherweight.graph.numerics import QuantParams
from featherweight.operators.kernels.hybrid import fused
from featherweight.runtime import run_reference

SESSION = {"xnnpack": "auto", "tflite_opt": "no_delegate", "tflite_ref": "reference"}
SCALES = QuantParams("int8", (0.25,), (0,))


@pytest.mark.parametrize("profile", RESOLVERS)
@pytest.mark.parametrize("recipe", ["dynamic", "w4a8"])
def test_dense_networks_are_litert_s_bit_for_bit(recipe: str, profile: str) -> None:
    calibration = None if recipe == "dynamic" else models.samples("dense", 16, seed=1)
    model = fw.quantize(models.lowered("dense"), recipe, calibration=calibration, progress=False).model
    inputs = models.batch("dense", 4, seed=2)
    found = fw.run(model, inputs, runtime="reference", profile=profile, tensors="all")
    expected = fw.run(model, inputs, resolver=SESSION[profile], tensors="all", threads=1)
    assert list(found) == list(expected)
    for tensor, array in expected.items():
        np.testing.assert_array_equal(found[tensor], array, err_msg=tensor)


@pytest.mark.parametrize("profile", RESOLVERS)
@pytest.mark.parametrize("recipe", ["dynamic", "weights8", "float16"])
@pytest.mark.parametrize("name", ["convnet", "depthwise"])
def test_convolutional_networks_are_litert_s_but_for_float_sums(name: str, recipe: str, profile: str) -> None:
    model, inputs = fw.quantize(models.lowered(name), recipe, progress=False).model, models.batch(name, 2, seed=2)
    found = fw.run(model, inputs, runtime="reference", profile=profile)
    np.testing.assert_allclose(found, fw.run(model, inputs, resolver=SESSION[profile]), rtol=1e-4, atol=1e-5)


def test_a_fused_multiply_add_rounds_once() -> None:
    # The product is 2**-70 below half a unit of the sum. In float64 that would be lost, and the tie rounded up to even.
    step = np.array([2.0**-23], np.float32)
    x, y = (1 - step) / 2**12, (1 + step) / 2**12
    assert fused(x, y, 1 + step) == 1 + step
    assert (x.astype(np.float64) * y + (1 + step)).astype(np.float32) == 1 + 2 * step
    a, b = np.random.default_rng(0).normal(0, 1, (2, 1000)).astype(np.float32)
    assert np.array_equal(fused(a, b, np.zeros(1, np.float32)), a * b)


def product(lead: tuple[int, ...], *, y_is_fed: bool = False) -> Case:
    x, y = np.ones((*lead, 2, 4), np.float32), np.ones((*lead, 4, 3), np.int8)
    built = Case("BATCH_MATMUL").fed("x", x, None)
    built = built.fed("y", y, SCALES) if y_is_fed else built.constant("y", y, SCALES)
    return replace(built.gives("float32", None), form="float32*int8")


def layer(op: str, weight: np.ndarray, x: np.ndarray, quant: QuantParams, dtype: str = "int8") -> Case:
    out = replace(quant, dtype=x.dtype.name, scale=(1.0,)) if x.dtype != np.float32 else None
    built = Case(op, attrs={"padding": "SAME"}).fed("x", x, out).constant("w", weight, quant, dtype)
    return built.gives(x.dtype.name, out)


def test_what_litert_computes_wrongly_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match=r"over leading dimensions \[2, 3\] and \[2, 3\], of which LiteRT's own"):
        product((2, 3)).model()
    with pytest.raises(UnsupportedOp, match="integers other than int8 constants are not supported"):
        product((2,), y_is_fed=True).model()
    picture = np.ones((1, 4, 4, 2), np.float32)
    with pytest.raises(UnsupportedOp, match="with one scale for 2 channels, which LiteRT's own kernel reads past"):
        layer("DEPTHWISE_CONV_2D", np.ones((1, 3, 3, 2), np.int8), picture, SCALES).model()
    nibbles = replace(SCALES, dtype="int4")
    with pytest.raises(UnsupportedOp, match="int16 activations with weights of type int4 are not supported"):
        layer("DEPTHWISE_CONV_2D", np.ones((1, 3, 3, 2), np.int8), picture.astype(np.int16), nibbles, "int4").model()
    with pytest.raises(UnsupportedOp, match=r"no reference kernel for the form float32\*int4"):
        layer("DEPTHWISE_CONV_2D", np.ones((1, 3, 3, 2), np.int8), picture, nibbles, "int4").model()


def test_a_table_is_read_within_its_rows() -> None:
    built = Case("EMBEDDING_LOOKUP").fed("i", np.array([1, 3], np.int32), None)
    built.constant("t", np.ones((3, 2), np.int8), SCALES).gives("float32", None)
    with pytest.raises(DataError, match="its indices are 1 to 3, but the table has 3 rows"):
        replace(built, form="float32*int8").model()


def test_a_bias_of_another_type_than_the_kernel_reads_is_refused() -> None:
    built = Case("FULLY_CONNECTED").fed("x", np.ones((1, 2), np.int16), replace(SCALES, dtype="int16"))
    bias = QuantParams("int32", (SCALES.scale[0] ** 2,), (0,))
    built.constant("w", np.ones((2, 2), np.int8), SCALES).constant("b", np.ones(2, np.int32), bias)
    built = replace(built.gives("int16", replace(SCALES, dtype="int16")), form="int16")
    with pytest.raises(UnsupportedOp, match="a bias of int32, where LiteRT reads int64, are not supported"):
        built.model()
    built.attrs["quantized_bias_type"] = 2
    assert run_reference(built.model(), np.ones((1, 2), np.int16), "tflite_ref")["y0"].tolist() == [[1, 1]]


def test_a_wide_accumulator_that_kernels_can_t_rescale_is_named() -> None:
    x, short = np.ones((1, 2), np.int16), replace(SCALES, dtype="int16")
    built = Case("FULLY_CONNECTED").fed("x", x, short).constant("w", np.ones((1, 2), np.int8), SCALES)
    built.constant("b", np.array([2**47], np.int64), SCALES)
    built = replace(built.gives("int16", short), form="int16")
    with pytest.raises(DataError, match=r"an accumulator of 48 bits overflows \(a sum is 140737488355330; "):
        built.model()
