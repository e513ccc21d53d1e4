"""Random models of reductions, pools and sums in the types that `cases` and `movers` leave out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.operators.building import FUSED, Case, case, image, integers, params, random_of, scaled, window
from tests.operators.function_cases import plain

from featherweight.graph.numerics import QuantParams

AXES = ((1, 2), (3,), (1,), (0, 3), (-1,), (0, 1, 2, 3), (2, 1))


def axes(draw: Callable[..., Any], built: Case) -> Case:
    return built.constant("axes", np.asarray(draw(st.sampled_from(AXES)), np.int32))


@case("SUM")
def _sum(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = params(draw, dtype)
    out = scaled(
        replace(params(draw, dtype), scale=quant.scale), 2.0 ** draw(st.one_of(st.floats(-2, 6), st.integers(-2, 6)))
    )
    built = Case(op, {"keep_dims": draw(st.booleans())})
    return axes(draw, built.fed("x", image(draw, dtype, draw(st.integers(1, 17))), quant)).gives(dtype, out)


@case("SUM ties", "MEAN ties", forms=("int8",))
def _sum_at_ties(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    """Scales at which a sum falls half way between two outputs, but for float32's rounding."""
    name, count = op.split()[0], 8
    steps, whole = draw(st.integers(20, 600)), draw(st.integers(3, 100))
    ratio = steps / (whole + 0.5) / (count if name == "MEAN" else 1)
    quant = params(draw, dtype)
    built = Case(name, {"keep_dims": draw(st.booleans())})
    built.fed("x", integers(random_of(draw), (4, count, 16, 16), dtype), quant)
    return built.constant("axes", np.array([1], np.int32)).gives(
        dtype, scaled(replace(params(draw, dtype), scale=quant.scale), ratio)
    )


@case("REDUCE_PROD")
def _product(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    steps = 127 if dtype == "int8" else 32767
    quant, out = params(draw, dtype, -2, 1), params(draw, dtype)
    quant = replace(quant, scale=(float(np.float32(quant.scale[0] * 2 / steps)),))
    out = replace(out, scale=(float(np.float32(2.0 ** draw(st.floats(-3, 2)) / steps)),))
    built = Case(op, {"keep_dims": draw(st.booleans())})
    shape = (2, draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(2, 5)))
    chosen = draw(st.sampled_from(((1, 2), (3,), (1,), (0, 3), (-1,), (0, 2))))
    built.fed("x", integers(random_of(draw), shape, dtype), quant).constant("axes", np.asarray(chosen, np.int32))
    return built.gives(dtype, out)


@case("SUM", "MEAN", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", forms=("float32", "int32", "int64"))
@case("REDUCE_ANY", "REDUCE_ALL", forms=("bool",))
def _plain(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x = plain(draw, dtype)
    built = Case(op, {"keep_dims": draw(st.booleans())})
    if dtype == "float32" and op in ("SUM", "MEAN"):
        x = np.abs(x)  # sums that cancel out say nothing
    if dtype == "bool":
        x = random_of(draw).random(x.shape) < draw(st.sampled_from((0.1, 0.9)))
    return axes(draw, built.fed("x", x, None)).gives(dtype, None)


@case("ARG_MAX", "ARG_MIN", forms=("float32", "int32", "bool"))
def _positions(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x = plain(draw, dtype)
    if dtype == "int32":
        x //= 20  # many are equal
    out = draw(st.sampled_from(("int32", "int64")))
    built = Case(op, {"output_type": {"int32": 2, "int64": 4}[out]}).fed("x", x, None)
    return built.constant("axis", np.array([draw(st.integers(-4, 3))], np.int32)).gives(out, None)


@case("AVERAGE_POOL_2D ties", "MAX_POOL_2D ties")
def _pool(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    attrs = window(draw, dilated=False) | {
        "filter_height": draw(st.integers(1, 3)),
        "filter_width": draw(st.integers(1, 3)),
    }
    attrs["fused_activation_function"] = draw(st.sampled_from(FUSED[1:]))
    # Bounds of the fused activation that lie between two integers.
    scale = draw(st.sampled_from((2.0, 4.0, 12.0, 12 / 5, 12 / 7, 2 / 3, 0.4, 12 / 31)))
    quant = QuantParams(dtype, (float(np.float32(scale)),), params(draw, dtype).zero_point)
    name = op.split()[0]
    return Case(name, attrs).fed("x", image(draw, dtype, 17), quant).gives(dtype, quant)


@case("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D", forms=("float32",))
def _pool_of_floats(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    attrs = window(draw, dilated=False) | {
        "filter_height": draw(st.integers(1, 4)),
        "filter_width": draw(st.integers(1, 4)),
    }
    attrs["fused_activation_function"] = draw(st.sampled_from(FUSED))
    return Case(op, attrs).fed("x", plain(draw, dtype, least=5), None).gives(dtype, None)


@case("ADD", "SUB", "MUL", forms=("float32", "int32", "int64"))
@case("SQUARED_DIFFERENCE", forms=("float32", "int32"))
@case("MAXIMUM", "MINIMUM", forms=("float32", "int32", "int64"))
def _binary(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x, z = plain(draw, dtype), plain(draw, dtype)[:1, :1, :1]
    if draw(st.booleans()):
        z = np.resize(z, x.shape)
    attrs = {"fused_activation_function": draw(st.sampled_from(FUSED))} if op in ("ADD", "SUB", "MUL") else {}
    return Case(op, attrs).fed("x", x, None).fed("z", z, None).gives(dtype, None)


@case("LOGISTIC", "TANH", "ELU", "GELU", "HARD_SWISH", "LEAKY_RELU", "PRELU", "SOFTMAX", forms=("float32",))
@case("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", forms=("float32",))
def _activation(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    attrs = {
        "GELU": {"approximate": draw(st.booleans())},
        "LEAKY_RELU": {"alpha": draw(st.sampled_from((0.1, 0.3)))},
        "SOFTMAX": {"beta": draw(st.sampled_from((1.0, 0.5)))},
    }.get(op, {})
    built = Case(op, attrs).fed("x", plain(draw, dtype), None)
    if op == "PRELU":
        built.constant("a", random_of(draw).normal(0, 0.3, (1, 1, 7)).astype(np.float32))
    return built.gives(dtype, None)


@case("DEQUANTIZE", forms=("uint8", "float16"))
def _dequantize(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = QuantParams("uint8", params(draw, "int8").scale, (draw(st.integers(0, 255)),)) if dtype == "uint8" else None
    x = plain(draw, "int32") % 256 if dtype == "uint8" else plain(draw, "float32")
    return Case(op).fed("x", x.astype(dtype), quant).gives("float32", None)
