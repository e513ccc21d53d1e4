"""Random models of the operators with weights in their hybrid, int4 and mixed forms, and of matrix products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.operators.building import CASES, FUSED, Case, case, integers, params, random_of, scaled, window

from featherweight.graph import Tensor, constant
from featherweight.graph.numerics import QuantParams, integer_range


def reals(draw: Callable[..., Any], shape: tuple[int, ...]) -> np.ndarray:
    """Rows of different ranges: of both signs, of one sign, zero, and with ties when they are quantized."""
    random = random_of(draw)
    rows = (*shape[:1], *(1,) * (len(shape) - 1))
    x = random.normal(0, 1, shape) * 2.0 ** random.uniform(-4, 6, rows) + random.normal(0, 2, rows)
    kinds = {
        "any": x,
        "positive": np.abs(x),
        "negative": -np.abs(x),
        "zero": x * (random.random(rows) < 0.5),
        "tied": np.round(x * 8) / 8,
    }
    return kinds[draw(st.sampled_from(tuple(kinds)))].astype(np.float32)


def quarters(x: np.ndarray) -> np.ndarray:
    """Small multiples of one quarter: sums of their products are exact in float32, in every order."""
    return np.clip(np.round(x * 4), -64, 64).astype(np.float32) / 4


def weighted_reals(
    draw: Callable[..., Any],
    built: Case,
    form: str,
    shape: tuple[int, ...],
    axis: int,
    x: np.ndarray,
    *,
    channels: bool,
) -> Case:
    """Adds float activations, a weight (float, or quantized per channel or with one scale) and perhaps a float bias."""
    random, count = random_of(draw), shape[axis]
    bias = random.normal(0, 3, count).astype(np.float32)
    if form == "float32":
        x, bias = quarters(x), quarters(bias)
        built.fed("x", x, None).constant("w", quarters(random.normal(0, 4, shape)))
    else:
        _add_integers(built.fed("x", x, None), random, form.split("*")[1], shape, axis if channels else None)
    # LiteRT refuses CONV_2D without a bias, and ends the process at DEPTHWISE_CONV_2D without one.
    if built.op not in ("FULLY_CONNECTED", "TRANSPOSE_CONV") or draw(st.integers(0, 3)):
        built.constant("b", bias)
    return built.gives("float32", None)


def _add_integers(
    built: Case, random: np.random.Generator, dtype: str, shape: tuple[int, ...], axis: int | None
) -> None:
    """Adds a weight with a scale for every index of an axis, or one."""
    scales = 2.0 ** random.uniform(-9, -4, 1 if axis is None else shape[axis]).astype(np.float32)
    low, high = integer_range(dtype, narrow=True)
    params = QuantParams(dtype, tuple(scales.tolist()), (0,) * scales.size, axis)
    built.constant("w", random.integers(low, high + 1, shape).astype(np.int8), params, dtype)


@case("FULLY_CONNECTED", forms=("float32", "float32*int8", "float32*int4"))
def _dense(draw: Callable[..., Any], op: str, form: str) -> Case:
    depth, outputs = draw(st.sampled_from((1, 8, 33, 34, 64, 100, 700))), draw(st.sampled_from((1, 4, 10, 16)))
    attrs: dict[str, Any] = {"fused_activation_function": draw(st.sampled_from(FUSED))}
    attrs["asymmetric_quantize_inputs"] = draw(st.booleans())
    x = reals(draw, (draw(st.sampled_from((1, 2, 5, 40))), depth))
    if draw(st.booleans()):
        attrs["keep_num_dims"] = True
        x = x[np.newaxis]
    built = Case(op, attrs)
    return weighted_reals(draw, built, form, (outputs, depth), 0, x, channels=draw(st.booleans()))


@case("CONV_2D", forms=("float32", "float32*int8", "float32*int4"))
def _conv(draw: Callable[..., Any], op: str, form: str) -> Case:
    channels, outputs = draw(st.sampled_from((1, 3, 8, 19))), draw(st.sampled_from((2, 4, 6, 16)))
    groups, kernel = draw(st.sampled_from((1, 1, 1, 2))), draw(st.sampled_from((1, 1, 2, 3)))
    attrs = window(draw) | {"fused_activation_function": draw(st.sampled_from(FUSED))}
    x = reals(draw, picture(draw, channels * groups))
    # With one scale LiteRT's kernel for groups reads past it.
    per_channel = groups > 1 or draw(st.booleans())
    shape = (outputs, kernel, kernel, channels)
    return weighted_reals(draw, Case(op, attrs), form, shape, 0, x, channels=per_channel)


@case("DEPTHWISE_CONV_2D", forms=("float32", "float32*int8"))
def _depthwise(draw: Callable[..., Any], op: str, form: str) -> Case:
    channels, multiplier = draw(st.sampled_from((1, 3, 6, 8, 12, 17))), draw(st.sampled_from((1, 1, 2)))
    kernel = draw(st.sampled_from((1, 2, 3, 3, 5)))
    attrs = window(draw) | {"fused_activation_function": draw(st.sampled_from(FUSED)), "depth_multiplier": multiplier}
    built = Case(op, attrs)
    x, shape = reals(draw, picture(draw, channels, least=9)), (1, kernel, kernel, channels * multiplier)
    return weighted_reals(draw, built, form, shape, 3, x, channels=True)


@case("TRANSPOSE_CONV", forms=("float32", "float32*int8"))
def _transposed(draw: Callable[..., Any], op: str, form: str) -> Case:
    channels, outputs = draw(st.sampled_from((1, 3, 8))), draw(st.sampled_from((1, 4, 7)))
    kernel, attrs = draw(st.integers(1, 4)), window(draw, dilated=False)
    x = reals(draw, picture(draw, channels, least=3))
    stride, same = attrs["stride_h"], attrs["padding"] == "SAME"
    height, width = (n * stride if same else (n - 1) * stride + max(kernel, stride) for n in x.shape[1:3])
    built, shape = Case(op, attrs), (outputs, kernel, kernel, channels)
    weighted_reals(draw, built, form, shape, 0, x, channels=True)
    x_tensor, weight, *bias = built.tensors
    size = constant("size", np.array([x.shape[0], height, width, outputs], np.int32))
    built.tensors = [size, weight, x_tensor, *bias]
    return built


def picture(draw: Callable[..., Any], channels: int, least: int = 5) -> tuple[int, ...]:
    return draw(st.integers(1, 2)), draw(st.integers(least, 9)), draw(st.integers(least, 9)), channels


def factors(draw: Callable[..., Any]) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Shapes of the operands of a matrix product, as stored, and its attributes."""
    rows, depth, outputs = draw(st.integers(1, 6)), draw(st.sampled_from((1, 5, 32, 700))), draw(st.integers(1, 9))
    batch = draw(
        st.sampled_from((((), ()), ((3,), (3,)), ((3,), (1,)), ((1,), (3,)), ((2, 3), (2, 3)), ((2, 1), (1, 3))))
    )
    attrs = {"adj_x": draw(st.booleans()), "adj_y": draw(st.booleans())}
    x, y = (rows, depth), (depth, outputs)
    return (*batch[0], *(x[::-1] if attrs["adj_x"] else x)), (*batch[1], *(y[::-1] if attrs["adj_y"] else y)), attrs


@case("BATCH_MATMUL")
def _product(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x_shape, y_shape, attrs = factors(draw)
    x_params, y_params = params(draw, dtype), params(draw, dtype)
    if draw(st.booleans()):  # XNNPACK takes it
        y_params = replace(y_params, zero_point=(0,))
    spread = (74.0 if dtype == "int8" else 19000.0) * np.sqrt(y_shape[-1 if attrs["adj_y"] else -2])
    wide = x_params.scale[0] * y_params.scale[0] * spread * 2.0 ** draw(st.sampled_from((-6.0, -1.5, -0.3, 0.0, 1.0)))
    random, built = random_of(draw), Case(op, attrs)
    built.fed("x", integers(random, x_shape, dtype), x_params).fed("y", integers(random, y_shape, dtype), y_params)
    return built.gives(dtype, scaled(replace(params(draw, dtype), scale=(1.0,)), wide))


@case("BATCH_MATMUL", forms=("float32",))
def _product_real(draw: Callable[..., Any], op: str, form: str) -> Case:
    x_shape, y_shape, attrs = factors(draw)
    built = Case(op, attrs)
    x, y = quarters(reals(draw, x_shape)), quarters(reals(draw, y_shape))
    return built.fed("x", x, None).fed("y", y, None).gives(form, None)


@case("BATCH_MATMUL", forms=("float32*int8",))
def _product_hybrid(draw: Callable[..., Any], op: str, form: str) -> Case:
    x_shape, y_shape, attrs = factors(draw)
    if len(x_shape) > 3:  # LiteRT's kernel takes wrong scales there
        x_shape, y_shape = x_shape[1:], y_shape[1:]
    attrs["asymmetric_quantize_inputs"] = draw(st.booleans())
    axis = len(y_shape) - (2 if attrs["adj_y"] else 1)
    built = Case(op, attrs)
    weighted_reals(draw, built, form, y_shape, axis, reals(draw, x_shape), channels=draw(st.booleans()))
    built.tensors = built.tensors[:2]
    return built


@case("EMBEDDING_LOOKUP", forms=("float32*int8", "float32*int4"))
def _embedding(draw: Callable[..., Any], op: str, form: str) -> Case:
    shape = draw(st.sampled_from(((7, 6), (30, 16), (5, 3, 4))))
    built = weighted_reals(draw, Case(op), form, shape, 0, reals(draw, (1, 1)), channels=draw(st.booleans()))
    index = random_of(draw).integers(0, shape[0], draw(st.integers(1, 40))).astype(np.int32)
    table, built.tensors, built.feeds = built.tensors[1], [], {}
    built.fed("i", index, None).tensors.append(table)
    return built


def changed(tensor: Tensor, factor: int, dtype: str) -> Tensor:
    """A constant of fewer bits, with a scale that is larger for it."""
    assert tensor.array is not None
    assert tensor.quant is not None
    quant = replace(scaled(tensor.quant, factor), dtype=dtype)
    return constant(tensor.name, tensor.array // factor, dtype, quant)


@case("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", forms=("int8*int4",))
@case("FULLY_CONNECTED", "CONV_2D", forms=("int16*int4",))
def _narrow(draw: Callable[..., Any], op: str, form: str) -> Case:
    built = CASES[op, form.split("*")[0]](draw)
    x, *constants = built.tensors
    built.tensors = [x, *(changed(t, 16, "int4" if t.name == "w" else t.dtype) for t in constants)]
    return built


@case("FULLY_CONNECTED int32 bias", "CONV_2D int32 bias", "TRANSPOSE_CONV int32 bias", forms=("int16",))
def _short_bias(draw: Callable[..., Any], op: str, form: str) -> Case:
    built = CASES[op.split()[0], form](draw)
    built.attrs["quantized_bias_type"] = 2  # INT32
    built.tensors = [changed(t, 1, "int32") if t.name == "b" else t for t in built.tensors]
    return built


@case("CONV_3D", forms=("float32",))
def _volume(draw: Callable[..., Any], op: str, form: str) -> Case:
    random, size = random_of(draw), tuple(draw(st.integers(3, 5)) for _ in "dhw")
    channels, outputs, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    stride, dilation = draw(st.sampled_from(((1, 1), (1, 1), (2, 1), (1, 2))))
    attrs: dict[str, Any] = {f"stride_{axis}": stride for axis in "dhw"}
    attrs |= {f"dilation_{axis}_factor": dilation for axis in "dhw"}
    attrs |= {"padding": "SAME" if kernel == 3 else draw(st.sampled_from(("SAME", "VALID")))}
    attrs["fused_activation_function"] = draw(st.sampled_from(FUSED))
    x = quarters(reals(draw, (draw(st.integers(1, 2)), *size, channels)))
    built = Case(op, attrs).fed("x", x, None)
    built.constant("w", quarters(random.normal(0, 4, (kernel, kernel, kernel, channels, outputs))))
    return built.constant("b", quarters(random.normal(0, 3, outputs))).gives(form, None)
