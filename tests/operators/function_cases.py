"""Random models of functions of one number, quotients, normalizations, comparisons and choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.operators.building import FUSED, Case, case, image, integers, params, random_of, scaled

from featherweight.graph.numerics import QuantParams


def plain(draw: Callable[..., Any], dtype: str, channels: int = 7, least: int = 3) -> np.ndarray:
    """Draws an image of plain numbers: floats of many magnitudes, or small integers."""
    size = draw(st.integers(1, 2)), draw(st.integers(least, 7)), draw(st.integers(least, 7)), channels
    random = random_of(draw)
    if dtype == "float32":
        return (random.normal(0, 1, size) * 2.0 ** random.uniform(-8, 4, size)).astype(np.float32)
    if dtype == "bool":
        return random.integers(0, 2, size).astype(np.bool_)
    return random.integers(-50, 51, size).astype(dtype)


def non_negative(draw: Callable[..., Any], dtype: str, zero_point: int) -> np.ndarray:
    """Draws an image of integers from the zero point on."""
    return np.maximum(image(draw, dtype, draw(st.integers(1, 17))), np.asarray(zero_point, dtype))


@case("ABS")
def _absolute(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = params(draw, dtype)
    factor = draw(st.sampled_from((1.0, 1.0, 0.4, 0.7, 1.9)))
    out = quant if draw(st.booleans()) else scaled(replace(params(draw, dtype), scale=quant.scale), factor)
    return Case(op).fed("x", image(draw, dtype, draw(st.integers(1, 17))), quant).gives(dtype, out)


@case("NEG", forms=("int8", "int16"))
def _negative(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = replace(params(draw, dtype), zero_point=(0,))
    return Case(op).fed("x", image(draw, dtype, draw(st.integers(1, 17))), quant).gives(dtype, quant)


@case("SQRT", "RSQRT")
def _root(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    low = -9 if dtype == "int8" else -16
    quant, out = params(draw, dtype, low, low + 12), params(draw, dtype)
    largest = np.float64(quant.scale[0]) * (255 if dtype == "int8" else 32767)
    end = np.sqrt(largest) if op == "SQRT" else 1 / np.sqrt(quant.scale[0])
    steps = 255 if dtype == "int8" else 32767
    out = replace(out, scale=(float(np.float32(end / steps * 2.0 ** draw(st.floats(-4, 1)))),))
    return Case(op).fed("x", non_negative(draw, dtype, quant.zero_point[0]), quant).gives(dtype, out)


@case("EXP", "LOG", "GELU")
def _transcendental(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    low = -9 if dtype == "int8" else -16
    quant, out = params(draw, dtype, low, low + 6), params(draw, dtype)
    spread = 255 if dtype == "int8" else 32767
    end = quant.scale[0] * spread
    wide = {"EXP": np.exp(min(end, 20.0)), "LOG": max(abs(np.log(end)), 1.0) * 3, "GELU": end}[op]
    out = replace(out, scale=(float(np.float32(wide / spread * 2.0 ** draw(st.floats(-2, 1)))),))
    attrs = {"approximate": draw(st.booleans())} if op == "GELU" else {}
    x = image(draw, dtype, draw(st.integers(1, 17)))
    return Case(op, attrs).fed("x", x, quant).gives(dtype, out)


@case("ABS", "NEG", "SQRT", "RSQRT", "EXP", "LOG", "SIN", "COS", "SQUARE", "FLOOR", "CEIL", "ROUND", forms=("float32",))
@case("SIGN", forms=("float32",))
def _function(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x = plain(draw, dtype)
    if op in ("SQRT", "RSQRT", "LOG"):
        x = np.abs(x) + np.float32(1e-6)
    if op == "EXP":
        x /= 8  # where XNNPACK's approximation holds
    if op in ("FLOOR", "CEIL", "ROUND", "SIGN"):
        x[..., 0] = np.round(x[..., 0] * 2) / 2
    return Case(op).fed("x", x, None).gives(dtype, None)


@case("ABS", "NEG", forms=("int32",))
@case("NEG int64", forms=("int64",))
def _function_of_integers(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    name = op.split()[0]
    return Case(name).fed("x", plain(draw, dtype), None).gives(dtype, None)


@case("DIV")
def _quotient(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x_params, z_params = params(draw, dtype, -7, 0), params(draw, dtype, -7, 0)
    x = image(draw, dtype, draw(st.integers(1, 9)))
    other = draw(st.sampled_from((x.shape, (1, 1, 1, x.shape[3]), ())))
    z = integers(random_of(draw), other, dtype)
    zero = np.asarray(z_params.zero_point[0], dtype)
    z = np.where(z == zero, np.where(zero == 127, -128, 127).astype(dtype), z)
    steps = 127 if dtype == "int8" else 32767
    scale = x_params.scale[0] / z_params.scale[0] * 2.0 ** draw(st.floats(-1, 5)) / steps
    out = replace(params(draw, dtype), scale=(float(np.float32(scale)),))
    built = Case(op, {"fused_activation_function": draw(st.sampled_from(FUSED))})
    return built.fed("x", x, x_params).fed("z", z, z_params).gives(dtype, out)


@case("DIV", "POW", "FLOOR_DIV", "FLOOR_MOD", forms=("float32", "int32"))
@case("FLOOR_DIV plain", "FLOOR_MOD plain", forms=("int8", "int16"))
def _divided(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    name = op.split()[0]
    x, z = plain(draw, dtype), plain(draw, dtype)[:1, :1, :1]
    if draw(st.booleans()):
        z = np.resize(z, x.shape)
    if name == "POW":
        x, z = (np.abs(x), z) if dtype == "float32" else (x % 7, np.abs(z) % 6)
    else:
        z = np.where(z == 0, np.asarray(3, dtype), z)
    attrs = {"fused_activation_function": "NONE"} if name == "DIV" else {}
    return Case(name, attrs).fed("x", x, None).fed("z", z, None).gives(dtype, None)


@case("L2_NORMALIZATION", "LOG_SOFTMAX", forms=("int8", "float32"))
def _normalized(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    shape = (draw(st.integers(1, 20)), draw(st.integers(1, 40)))
    attrs = {"fused_activation_function": "NONE"} if op == "L2_NORMALIZATION" else {}
    if dtype == "float32":
        x = random_of(draw).normal(0, 3, shape).astype(np.float32)
        return Case(op, attrs).fed("x", x, None).gives(dtype, None)
    fixed = {"L2_NORMALIZATION": (1 / 128, 0), "LOG_SOFTMAX": (16 / 256, 127)}[op]
    x = integers(random_of(draw), shape, dtype)
    if draw(st.integers(0, 3)) == 0:
        x = (x // 16).astype(np.int8)
    built = Case(op, attrs).fed("x", x, params(draw, dtype, -8, 1))
    return built.gives(dtype, QuantParams(dtype, (fixed[0],), (fixed[1],)))


@case("ADD_N", forms=("float32", "int32"))
def _sum_of_all(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x = plain(draw, dtype)
    built = Case(op).fed("x0", x, None)
    for position in range(1, draw(st.integers(2, 4))):
        built.fed(f"x{position}", np.roll(x, position, axis=-1), None)
    return built.gives(dtype, None)


@case("ATAN2", forms=("float32",))
def _angle(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x = plain(draw, dtype)
    x[..., 0] = 0
    return Case(op).fed("x", x, None).fed("z", np.roll(x, 1, axis=-1), None).gives(dtype, None)


@case("BITWISE_XOR", "RIGHT_SHIFT", forms=("int32",))
def _bits(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x, z = plain(draw, dtype), plain(draw, dtype)[:1, :1, :1]
    return Case(op).fed("x", x, None).fed("z", z, None).gives(dtype, None)


@case("BITCAST", forms=("float32", "int32"))
def _same_bits(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    return Case(op).fed("x", plain(draw, dtype), None).gives("int32" if dtype == "float32" else "float32", None)
