"""Convolutions. Weights: (out, kh, kw, in); depthwise (1, kh, kw, out). Sources: schema and LiteRT op_version.cc."""

from __future__ import annotations

import math

import numpy as np

from featherweight.graph import Graph, Node
from featherweight.ops.calls import Call
from featherweight.ops.matrix import finisher, float_weight, placed, prepare
from featherweight.ops.products import Window, windowed_product
from featherweight.ops.registry import kernel, output_elements, register


def _conv_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * math.prod(graph.tensors[node.inputs[1]].shape[1:])


def _depthwise_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * math.prod(graph.tensors[node.inputs[1]].shape[1:3])


def _transpose_conv_macs(node: Node, graph: Graph) -> int:
    pixels = math.prod(graph.tensors[node.inputs[2]].shape[:3])
    return pixels * math.prod(graph.tensors[node.inputs[1]].shape)


def _conv_3d_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * math.prod(graph.tensors[node.inputs[1]].shape[:4])


register(
    "CONV_2D",
    weight=1,
    axis=0,
    bias=2,
    versions={"float32*int8": 5, "int8*int8": 3, "int16*int8": 4, "int8*int4": 7},
    macs=_conv_macs,
)
register(
    "DEPTHWISE_CONV_2D",
    weight=1,
    axis=3,
    bias=2,
    versions={"float32*int8": 6, "int8*int8": 3, "int16*int8": 5, "int8*int4": 7},
    macs=_depthwise_macs,
)
register(
    "TRANSPOSE_CONV",
    weight=1,
    axis=0,
    bias=3,
    activation=2,
    versions={"float32*int8": 2, "int8*int8": 2, "int16*int8": 2},
    macs=_transpose_conv_macs,
)
register("CONV_3D", weight=1, axis=4, bias=2, macs=_conv_3d_macs)


# Channels that LiteRT's optimized depthwise kernel computes at a time.
_LANES = 8


def _sizes(call: Call) -> tuple[np.ndarray, np.ndarray]:
    """Returns activations and weight, both of rank 4."""
    x, weight = call.array(0), call.array(1)
    if x.ndim != 4 or weight.ndim != 4:
        raise call.unsupported(f"activations of rank {x.ndim} and weights of rank {weight.ndim} are not supported")
    return x, weight


@kernel("CONV_2D", "int8", "int16")
def conv_2d(call: Call) -> tuple[np.ndarray, ...]:
    """Convolution: x (n, h, w, c), weight (out, kh, kw, c / groups), bias (out)."""
    x, weight = _sizes(call)
    call = placed(call)
    window = Window.of(call, x.shape[1], x.shape[2], (weight.shape[1], weight.shape[2]))
    operands = prepare(call, weight.reshape(weight.shape[0], -1))
    padded = window.padded(operands.x)
    groups = _groups(call, x.shape[3], weight)
    is_product = len(groups) == 1  # LiteRT runs grouped convolutions on its reference kernel
    parts = [
        windowed_product(
            padded[..., inputs],
            window,
            operands.weight[outputs],
            finisher(call, operands, outputs, is_product=is_product),
            operands.dtype,
        )
        for inputs, outputs in groups
    ]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1),)


@kernel("CONV_2D", "float32")
def conv_2d_float(call: Call) -> tuple[np.ndarray, ...]:
    """Convolution in float32."""
    x, weight = _sizes(call)[0], float_weight(call)
    window = Window.of(call, x.shape[1], x.shape[2], (weight.shape[1], weight.shape[2]))
    flat, bias, padded = weight.reshape(weight.shape[0], -1), call.optional(2), window.padded(x)
    parts = [
        windowed_product(padded[..., inputs], window, flat[outputs], lambda sums: sums, np.float32)
        for inputs, outputs in _groups(call, x.shape[3], weight)
    ]
    sums = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    return (call.clamp(sums if bias is None else sums + bias),)


def _groups(call: Call, channels: int, weight: np.ndarray) -> list[tuple[slice, slice]]:
    """Returns (input channels, output channels) of each group."""
    depth = weight.shape[3]
    if depth == 0 or channels % depth or weight.shape[0] % (channels // depth):
        raise call.unsupported(f"{channels} input channels with a weight of {list(weight.shape)} are not supported")
    count, outputs = channels // depth, weight.shape[0] // (channels // depth)
    return [(slice(g * depth, (g + 1) * depth), slice(g * outputs, (g + 1) * outputs)) for g in range(count)]


@kernel("DEPTHWISE_CONV_2D", "int8", "int16")
def depthwise_conv_2d(call: Call) -> tuple[np.ndarray, ...]:
    """Depthwise convolution: x (n, h, w, c), weight (1, kh, kw, out), bias (out), out a multiple of c."""
    x, weight = _sizes(call)
    call = placed(call)
    window = Window.of(call, x.shape[1], x.shape[2], (weight.shape[1], weight.shape[2]))
    operands = prepare(call, weight.reshape(-1, weight.shape[3]).T)
    sums = _depthwise_sums(call, operands.x, window, operands.weight.T)
    if not call.profile.is_vectorized:
        return (finisher(call, operands)(sums),)
    # The optimized kernel computes eight channels at a time like a matrix product, and the rest one by one.
    whole = sums.shape[3] - sums.shape[3] % _LANES
    vectors, rest = slice(None, whole), slice(whole, None)
    parts = [
        finisher(call, operands, vectors)(sums[..., vectors]),
        finisher(call, operands, rest, is_product=False)(sums[..., rest]),
    ]
    return (np.concatenate(parts, axis=3),)


@kernel("DEPTHWISE_CONV_2D", "float32")
def depthwise_conv_2d_float(call: Call) -> tuple[np.ndarray, ...]:
    """Depthwise convolution in float32."""
    x, weight = _sizes(call)[0], float_weight(call)
    window = Window.of(call, x.shape[1], x.shape[2], (weight.shape[1], weight.shape[2]))
    sums = _depthwise_sums(call, x, window, weight.reshape(-1, weight.shape[3]))
    bias = call.optional(2)
    return (call.clamp(sums if bias is None else sums + bias),)


def _depthwise_sums(call: Call, x: np.ndarray, window: Window, weight: np.ndarray) -> np.ndarray:
    """Returns the sums over the window, tap by tap; weight (kh * kw, out)."""
    channels, outputs = x.shape[3], weight.shape[1]
    if channels == 0 or outputs % channels:
        raise call.unsupported(f"{outputs} output channels from {channels} are not supported")
    padded = window.padded(x)
    if outputs != channels:
        padded = np.repeat(padded, outputs // channels, axis=3)
    sums = np.zeros((x.shape[0], *window.out, outputs), x.dtype)
    for row, column, seen in window.taps(padded):
        sums += seen * weight[row * window.size[1] + column]
    return sums


@kernel("TRANSPOSE_CONV", "int8", "int16")
def transpose_conv(call: Call) -> tuple[np.ndarray, ...]:
    """Transposed convolution: output shape, weight (out, kh, kw, c), x (n, h, w, c), bias (out)."""
    weight = call.array(1)
    # XNNPACK leaves kernels smaller than their stride alone where that would need a negative padding.
    strides = call.attr_int("stride_h", 1), call.attr_int("stride_w", 1)
    is_covered = weight.shape[1] >= strides[0] and weight.shape[2] >= strides[1]
    call = placed(call, 2, takes=is_covered or call.node.attrs.get("padding") == "VALID")
    operands = prepare(call, weight.reshape(weight.shape[0], -1), x_position=2, bias_position=3)
    sums = _transposed_sums(call, operands.x, operands.weight.reshape(weight.shape))
    return (finisher(call, operands, is_product=False)(sums),)


@kernel("TRANSPOSE_CONV", "float32")
def transpose_conv_float(call: Call) -> tuple[np.ndarray, ...]:
    """Transposed convolution in float32."""
    sums, bias = _transposed_sums(call, call.array(2), float_weight(call)), call.optional(3)
    return (call.clamp(sums if bias is None else sums + bias),)


def _transposed_sums(call: Call, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns what every input pixel, times the weight, adds to the output around it."""
    _, height, width, _ = call.integers(0)
    n, in_h, in_w, depth = x.shape
    outputs, size_h, size_w, _ = weight.shape
    # The padding is that of the convolution from the output's size to the input's.
    window = Window.of(call, height, width, (size_h, size_w))
    stride_h, stride_w = window.stride
    room_h, room_w = (in_h - 1) * stride_h + size_h, (in_w - 1) * stride_w + size_w
    top, left = window.pad[0][0], window.pad[1][0]
    sums = np.zeros((n, max(room_h, height + top), max(room_w, width + left), outputs), x.dtype)
    flat = x.reshape(-1, depth)
    for row in range(size_h):
        for column in range(size_w):
            part = (flat @ weight[:, row, column].T).reshape(n, in_h, in_w, outputs)
            sums[:, row : row + in_h * stride_h : stride_h, column : column + in_w * stride_w : stride_w][
                :, :in_h, :in_w
            ] += part
    return np.ascontiguousarray(sums[:, top : top + height, left : left + width])
