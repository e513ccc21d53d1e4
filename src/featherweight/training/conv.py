"""Convolutions in float. Weights as in the file: (out, kh, kw, in), depthwise (1, kh, kw, out)."""

from __future__ import annotations

import numpy as np
from keras import backend

from featherweight.training.registry import Array, Step, function, ops


def strides_of(step: Step) -> tuple[int, int]:
    """Returns the (vertical, horizontal) strides."""
    return step.attr_int("stride_h", 1), step.attr_int("stride_w", 1)


def dilations_of(step: Step) -> tuple[int, int]:
    """Returns the (vertical, horizontal) dilations."""
    return step.attr_int("dilation_h_factor", 1), step.attr_int("dilation_w_factor", 1)


def padding_of(step: Step) -> str:
    """Returns ``same`` or ``valid``."""
    return str(step.node.attrs.get("padding", "SAME")).lower()


@function("CONV_2D")
def conv_2d(step: Step) -> tuple[Array, ...]:
    """Convolution: x (n, h, w, c), weight (out, kh, kw, c / groups), bias (out)."""
    sums = convolved(step.array(0), step.array(1), strides_of(step), dilations_of(step), padding_of(step))
    return (step.clamp(biased(sums, step.optional(2))),)


@function("DEPTHWISE_CONV_2D")
def depthwise_conv_2d(step: Step) -> tuple[Array, ...]:
    """Depthwise convolution: x (n, h, w, c), weight (1, kh, kw, out), bias (out), out a multiple of c."""
    sums = depthwise_convolved(step.array(0), step.array(1), strides_of(step), dilations_of(step), padding_of(step))
    return (step.clamp(biased(sums, step.optional(2))),)


@function("TRANSPOSE_CONV")
def transpose_conv(step: Step) -> tuple[Array, ...]:
    """Transposed convolution: x (n, h, w, c), weight (out, kh, kw, c), bias (out)."""
    sizes = step.outputs[0].shape[1:3]
    sums = transpose_convolved(step.array(2), step.array(1), strides_of(step), padding_of(step), (sizes[0], sizes[1]))
    return (step.clamp(biased(sums, step.optional(3))),)


@function("CONV_3D")
def conv_3d(step: Step) -> tuple[Array, ...]:
    """Convolution: x (n, d, h, w, c), weight (kd, kh, kw, c, out), bias (out)."""
    strides = (step.attr_int("stride_d", 1), *strides_of(step))
    dilations = (step.attr_int("dilation_d_factor", 1), *dilations_of(step))
    sums = ops.conv(
        step.array(0), step.array(1), strides, padding_of(step), data_format="channels_last", dilation_rate=dilations
    )
    return (step.clamp(biased(sums, step.optional(2))),)


def biased(sums: Array, bias: Array | None) -> Array:
    """Returns sums plus the bias, if there is one."""
    return sums if bias is None else ops.add(sums, bias)


def convolved(x: Array, weight: Array, strides: tuple[int, int], dilations: tuple[int, int], padding: str) -> Array:
    """Returns the convolution of x (n, h, w, c) with a weight (out, kh, kw, c / groups)."""
    kernel = ops.transpose(weight, (1, 2, 3, 0))
    return ops.conv(x, kernel, strides, padding, data_format="channels_last", dilation_rate=dilations)


def depthwise_convolved(
    x: Array, weight: Array, strides: tuple[int, int], dilations: tuple[int, int], padding: str
) -> Array:
    """Returns the depthwise convolution of x (n, h, w, c) with a weight (1, kh, kw, out).

    JAX has no fast depthwise convolution on a CPU: there it is a sum of kh * kw shifted products.
    """
    channels = x.shape[-1]
    if _has_slow_groups():
        return _shifted_products(x, weight, strides, dilations, padding)
    kernel = ops.reshape(weight, (*weight.shape[1:3], channels, weight.shape[3] // channels))
    if strides[0] != strides[1] and backend.backend() == "tensorflow":
        # TensorFlow's depthwise kernel takes one stride for both axes only.
        return _shifted_products(x, weight, strides, dilations, padding)
    return ops.depthwise_conv(x, kernel, strides, padding, data_format="channels_last", dilation_rate=dilations)


def transpose_convolved(
    x: Array, weight: Array, strides: tuple[int, int], padding: str, sizes: tuple[int, int]
) -> Array:
    """Returns the transposed convolution of x (n, h, w, c), cut to sizes (height, width); weight (out, kh, kw, c).

    Input pixel i and tap k meet at output ``i * stride + k - pad``, where pad is half of what the whole product is
    larger than the output, and 0 for ``valid`` (LiteRT reference/transpose_conv.h).
    """
    kernel = ops.transpose(weight, (1, 2, 0, 3))
    whole = ops.conv_transpose(x, kernel, strides, "valid", data_format="channels_last")
    for axis, size, taps, stride in zip((1, 2), sizes, kernel.shape[:2], strides, strict=True):
        excess = (x.shape[axis] - 1) * stride + taps - size
        first = max(excess, 0) // 2 if padding == "same" else 0
        missing = first + size - whole.shape[axis]
        if missing > 0:
            whole = ops.pad(whole, [(0, missing if at == axis else 0) for at in range(4)])
        whole = whole[:, first : first + size] if axis == 1 else whole[:, :, first : first + size]
    return whole


def window_padding(extent: int, taps: int, stride: int, dilation: int, padding: str) -> tuple[int, tuple[int, int]]:
    """Returns (outputs, (before, after)) along one axis, as TensorFlow counts: the odd pixel of padding comes last."""
    reach = (taps - 1) * dilation + 1
    if padding != "same":
        return max(-(-(extent - reach + 1) // stride), 0), (0, 0)
    count = -(-extent // stride)
    missing = max((count - 1) * stride + reach - extent, 0)
    return count, (missing // 2, missing - missing // 2)


def _has_slow_groups() -> bool:
    if backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "cpu"


def _shifted_products(
    x: Array, weight: Array, strides: tuple[int, int], dilations: tuple[int, int], padding: str
) -> Array:
    """Returns the depthwise convolution as a sum over the taps of the window."""
    rows, columns, outputs = (int(size) for size in weight.shape[1:])
    if outputs != x.shape[3]:
        x = ops.repeat(x, outputs // x.shape[3], axis=3)
    (high, above), (wide, left) = (
        window_padding(int(x.shape[axis]), taps, strides[axis - 1], dilations[axis - 1], padding)
        for axis, taps in ((1, rows), (2, columns))
    )
    if any((*above, *left)):
        x = ops.pad(x, ((0, 0), above, left, (0, 0)))
    total = None
    for row, column in np.ndindex(rows, columns):
        top, start = row * dilations[0], column * dilations[1]
        seen = x[
            :,
            top : top + (high - 1) * strides[0] + 1 : strides[0],
            start : start + (wide - 1) * strides[1] + 1 : strides[1],
        ]
        product = ops.multiply(seen, weight[0, row, column])
        total = product if total is None else ops.add(total, product)
    return total
