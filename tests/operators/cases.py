"""Random models of the operators that calculate: shapes, attributes, scales and zero points from hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.operators.building import FUSED, Case, case, image, integers, params, random_of, scaled, window

from featherweight.graph import constant
from featherweight.graph.numerics import QuantParams


def weighted(
    draw: Callable[..., Any],
    built: Case,
    dtype: str,
    weight_shape: tuple[int, ...],
    axis: int,
    x: np.ndarray,
    *,
    per_channel: bool | None = None,
) -> Case:
    """Adds x, weight and bias to a case, and an output scale that uses most of the range."""
    random = random_of(draw)
    channels, x_params = weight_shape[axis], params(draw, dtype)
    per_channel = draw(st.booleans()) if per_channel is None else per_channel
    scales = np.float32(2.0 ** random.uniform(-9, -4, channels if per_channel else 1))
    weight_params = QuantParams("int8", tuple(scales.tolist()), (0,) * scales.size, axis if per_channel else None)
    weight = random.integers(-127, 128, weight_shape).astype(np.int8)
    depth = int(np.prod(weight_shape)) // channels
    spread = 74.0 * (74.0 if dtype == "int8" else 19000.0) * np.sqrt(depth)
    bias = np.round(random.normal(0, spread / 3, channels)).astype(np.int32 if dtype == "int8" else np.int64)
    bias_params = QuantParams(bias.dtype.name, tuple((x_params.scale[0] * scales).tolist()), (0,) * scales.size)
    bias_params = replace(bias_params, axis=0 if per_channel else None)
    if draw(st.integers(0, 3)) == 0:  # ties: every factor is a power of two
        scales = np.float32(2.0 ** np.round(np.log2(scales)))
        weight_params = replace(weight_params, scale=tuple(scales.tolist()))
        x_params = replace(x_params, scale=(1.0,))
        bias_params = replace(bias_params, scale=tuple(scales.tolist()))
    wide = 2.0 ** draw(st.floats(-2, 2)) * spread / (60.0 if dtype == "int8" else 15000.0)
    out = params(draw, dtype)
    out_scale = np.float32(x_params.scale[0] * float(np.median(scales)) * wide)
    if x_params.scale == (1.0,):
        out_scale = np.float32(2.0 ** np.round(np.log2(out_scale)))
    built.fed("x", x, x_params).constant("w", weight, weight_params)
    # LiteRT refuses CONV_2D without a bias, and ends the process at DEPTHWISE_CONV_2D without one.
    if built.op not in ("FULLY_CONNECTED", "TRANSPOSE_CONV") or draw(st.integers(0, 3)):
        built.constant("b", bias, bias_params)
    return built.gives(dtype, replace(out, scale=(float(out_scale),)))


@case("CONV_2D")
def _conv(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    channels, outputs = draw(st.sampled_from((1, 3, 8, 19))), draw(st.sampled_from((2, 4, 6, 16)))
    groups = draw(st.sampled_from((1, 1, 1, 2)))
    kernel = draw(st.sampled_from((1, 1, 2, 3)))
    attrs = window(draw) | {"fused_activation_function": draw(st.sampled_from(FUSED))}
    built = Case(op, attrs)
    x = image(draw, dtype, channels * groups)
    return weighted(draw, built, dtype, (outputs, kernel, kernel, channels), 0, x, per_channel=True)


@case("DEPTHWISE_CONV_2D")
def _depthwise(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    channels, multiplier = draw(st.sampled_from((1, 3, 6, 8, 12, 17))), draw(st.sampled_from((1, 1, 2)))
    kernel = draw(st.sampled_from((1, 2, 3, 3, 5)))
    attrs = window(draw) | {"fused_activation_function": draw(st.sampled_from(FUSED)), "depth_multiplier": multiplier}
    built = Case(op, attrs)
    x = image(draw, dtype, channels, least=9)
    return weighted(draw, built, dtype, (1, kernel, kernel, channels * multiplier), 3, x, per_channel=True)


@case("FULLY_CONNECTED")
def _dense(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    depth, outputs = draw(st.sampled_from((1, 8, 33, 64))), draw(st.sampled_from((1, 4, 10, 16)))
    attrs = {"fused_activation_function": draw(st.sampled_from(FUSED))}
    x = integers(random_of(draw), (draw(st.sampled_from((1, 2, 5, 40))), depth), dtype)
    if draw(st.booleans()):
        attrs["keep_num_dims"] = True
        x = x[np.newaxis]
    return weighted(draw, Case(op, attrs), dtype, (outputs, depth), 0, x)


@case("TRANSPOSE_CONV")
def _transposed(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    channels, outputs, kernel = (
        draw(st.sampled_from((1, 3, 8))),
        draw(st.sampled_from((1, 4, 7))),
        draw(st.integers(1, 4)),
    )
    attrs = window(draw, dilated=False)
    x = image(draw, dtype, channels, least=3)
    stride, same = attrs["stride_h"], attrs["padding"] == "SAME"
    height, width = (n * stride if same else (n - 1) * stride + max(kernel, stride) for n in x.shape[1:3])
    built = weighted(
        draw,
        Case(op, attrs),
        dtype,
        (outputs, kernel, kernel, channels),
        0,
        x,
        per_channel=True,
    )
    x_tensor, weight, *bias = built.tensors
    size = constant("size", np.array([x.shape[0], height, width, outputs], np.int32))
    built.tensors = [size, weight, x_tensor, *bias]
    return built


@case("ADD", "SUB", "MUL")
def _binary(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 20)))
    other = draw(st.sampled_from((shape, shape, (1, 1, 1, shape[3]), (1, shape[1], shape[2], 1), ())))
    x_params = params(draw, dtype, -7, 2)
    # Beyond 2**10, XNNPACK leaves a sum alone.
    apart = draw(st.sampled_from((3, 3, 12))) if dtype == "int8" else 3
    z_params = scaled(params(draw, dtype, -apart, apart), x_params.scale[0])
    both = x_params.scale[0] * z_params.scale[0] * 64 if op == "MUL" else max(*x_params.scale, *z_params.scale)
    if dtype == "int16" and op == "MUL":
        both *= 256
    out = replace(params(draw, dtype, -2, 2), scale=(1.0,))
    out = scaled(out, float(both) * 2.0 ** draw(st.floats(-1.5, 1.5)))
    attrs = {"fused_activation_function": draw(st.sampled_from(FUSED))}
    random = random_of(draw)
    built = Case(op, attrs)
    pair = [("x", integers(random, shape, dtype), x_params), ("z", integers(random, other, dtype), z_params)]
    for name, array, quant in pair:
        built.fed(name, array, quant)
    return built.gives(dtype, out)


@case("AVERAGE_POOL_2D", "MAX_POOL_2D")
def _pool(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    attrs = window(draw, dilated=False) | {
        "filter_height": draw(st.integers(1, 4)),
        "filter_width": draw(st.integers(1, 4)),
    }
    attrs["fused_activation_function"] = draw(st.sampled_from(FUSED))
    quant = params(draw, dtype)
    return Case(op, attrs).fed("x", image(draw, dtype, draw(st.integers(1, 17))), quant).gives(dtype, quant)


@case("MEAN")
def _mean(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    axes = draw(st.sampled_from(((1, 2), (1, 2), (2, 1), (3,), (1,), (0, 3), (-1,))))
    quant = params(draw, dtype)
    out = scaled(
        replace(params(draw, dtype), scale=quant.scale),
        2.0 ** draw(st.sampled_from((-9.0, -3.0, -2.5, -0.6, 0.0, 0.5, 9.0))),
    )
    built = Case(op, {"keep_dims": draw(st.booleans())})
    built.fed("x", image(draw, dtype, draw(st.integers(1, 17))), quant)
    return built.constant("axes", np.asarray(axes, np.int32)).gives(dtype, out)


@case("SOFTMAX")
def _softmax(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    shape = (draw(st.integers(1, 20)), draw(st.integers(1, 40)))
    fixed = QuantParams("int8", (1 / 256,), (-128,)) if dtype == "int8" else QuantParams("int16", (1 / 32768,), (0,))
    built = Case(op, {"beta": draw(st.sampled_from((1.0, 1.0, 0.5)))})
    low = -8 if dtype == "int8" else -14
    return built.fed("x", integers(random_of(draw), shape, dtype), params(draw, dtype, low, low + 9)).gives(
        dtype, fixed
    )


@case("LOGISTIC", "TANH")
def _sigmoid(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    fixed = {
        ("LOGISTIC", "int8"): (1 / 256, -128),
        ("TANH", "int8"): (1 / 128, 0),
        ("LOGISTIC", "int16"): (1 / 32768, 0),
        ("TANH", "int16"): (1 / 32768, 0),
    }[op, dtype]
    low = -8 if dtype == "int8" else -14
    built = Case(op).fed("x", image(draw, dtype, draw(st.integers(1, 17))), params(draw, dtype, low, low + 8))
    return built.gives(dtype, QuantParams(dtype, (fixed[0],), (fixed[1],)))


@case("RELU_N1_TO_1", "RELU_0_TO_1", "HARD_SWISH", forms=("int8",))
@case("RELU", "RELU6", "LEAKY_RELU")
def _activation(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    low = -8 if dtype == "int8" else -14
    quant = params(draw, dtype, low, low + 6)
    out = scaled(
        replace(params(draw, dtype), scale=quant.scale), 2.0 ** draw(st.one_of(st.floats(-1.5, 1), st.integers(-1, 1)))
    )
    attrs = {"alpha": draw(st.sampled_from((0.1, 0.2, 0.3, 0.01)))} if op == "LEAKY_RELU" else {}
    return Case(op, attrs).fed("x", image(draw, dtype, draw(st.integers(1, 17))), quant).gives(dtype, out)


@case("ELU", "GELU", "PRELU", forms=("int8",))
def _smooth(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = params(draw, dtype, -8, -2)
    factor = 2.0 ** draw(st.one_of(st.floats(-1.5, 1), st.integers(-1, 1)))
    out = scaled(replace(params(draw, dtype), scale=quant.scale), factor)
    attrs = {"approximate": draw(st.booleans())} if op == "GELU" else {}
    channels = draw(st.integers(1, 17))
    built = Case(op, attrs).fed("x", image(draw, dtype, channels), quant)
    if op == "PRELU":
        built.constant("a", integers(random_of(draw), (1, 1, channels), dtype), params(draw, dtype, -10, -6))
    return built.gives(dtype, out)


@case("SQUARED_DIFFERENCE", forms=("int8",))
def _squared(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    x_params = params(draw, dtype, -7, 0)
    z_params = scaled(params(draw, dtype, -2, 2), x_params.scale[0])
    both = max(*x_params.scale, *z_params.scale) ** 2 * 2.0 ** draw(st.floats(3, 8))
    x, z = image(draw, dtype, 5), integers(random_of(draw), draw(st.sampled_from(((1, 1, 1, 5), ()))), dtype)
    built = Case(op).fed("x", x, x_params).fed("z", z, z_params)
    return built.gives(dtype, replace(params(draw, dtype), scale=(float(np.float32(both)),)))


@case("QUANTIZE")
def _quantize(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    quant = params(draw, dtype)
    out = scaled(replace(params(draw, dtype), scale=quant.scale), 2.0 ** draw(st.floats(-2, 2)))
    x = image(draw, dtype, draw(st.integers(1, 17)))
    return Case(op).fed("x", x, quant).gives(dtype, out)


@case("QUANTIZE float32")
def _quantize_real(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    out = params(draw, dtype)
    x = (image(draw, "int8", draw(st.integers(1, 17))) * np.float32(out.scale[0] / 2)).astype(np.float32)
    if dtype == "int16":
        x *= 256
    return Case("QUANTIZE").fed("x", x, None).gives(dtype, out)


@case("DEQUANTIZE")
def _dequantize(draw: Callable[..., Any], op: str, dtype: str) -> Case:
    return Case(op).fed("x", image(draw, dtype, draw(st.integers(1, 17))), params(draw, dtype)).gives("float32", None)
