"""Convolutions in float. Weights as in the file: (out, kh, kw, in), depthwise (1, kh, kw, out)."""

from __future__ import annotations

from keras import backend

from featherweight.operators.call import Array
from featherweight.operators.geometry import dilations_of, padding_of, strides_of, window_padding
from featherweight.training.graph.registry import Step, function, ops


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
    """Returns the depthwise convolution of x (n, h, w, c) with a weight (1, kh, kw, out)."""
    channels, outputs = int(x.shape[3]), int(weight.shape[3])
    if channels == 1:
        kernel = ops.transpose(weight, (1, 2, 0, 3))
        return ops.conv(x, kernel, strides, padding, data_format="channels_last", dilation_rate=dilations)
    if _has_slow_groups():
        from featherweight.training.float.depthwise_jax import shifted_products

        x, sizes = _padded(x, weight, strides, dilations, padding)
        x = x if outputs == channels else ops.repeat(x, outputs // channels, axis=3)
        return shifted_products(x, weight, sizes, strides, dilations)
    kernel = ops.reshape(weight, (*weight.shape[1:3], channels, outputs // channels))
    if strides[0] != strides[1] and backend.backend() == "tensorflow":
        # TensorFlow's depthwise kernel takes one stride for both axes only.
        x, _ = _padded(x, weight, strides, dilations, padding)
        whole = ops.depthwise_conv(x, kernel, 1, "valid", data_format="channels_last", dilation_rate=dilations)
        return whole[:, :: strides[0], :: strides[1]]
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


def _has_slow_groups() -> bool:
    if backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "cpu"


def _padded(
    x: Array, weight: Array, strides: tuple[int, int], dilations: tuple[int, int], padding: str
) -> tuple[Array, tuple[int, int]]:
    """Returns x with its padding written out, and (height, width) of the convolution's result."""
    (high, above), (wide, left) = (
        window_padding(int(x.shape[axis]), int(weight.shape[axis]), strides[axis - 1], dilations[axis - 1], padding)
        for axis in (1, 2)
    )
    x = ops.pad(x, ((0, 0), above, left, (0, 0))) if any((*above, *left)) else x
    return x, (high, wide)
