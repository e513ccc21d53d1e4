"""Convolutions. Weights: (out, kh, kw, in); depthwise (1, kh, kw, out). Sources: schema and LiteRT op_version.cc."""

from __future__ import annotations

import math

import numpy as np

from featherweight.graph import Graph, Node
from featherweight.operators.call import Call
from featherweight.operators.geometry import Span, Window, strides_of
from featherweight.operators.kernels import hybrid
from featherweight.operators.kernels.matrix import delegate_takes, finisher, prepare
from featherweight.operators.kernels.products import windowed_product
from featherweight.operators.kernels.rows import quantize_asymmetric, quantize_symmetric
from featherweight.operators.limits import refused_depthwise, refused_weighted
from featherweight.operators.record import HYBRID_FORMS, INTEGER_FORMS, Op, kernel, output_elements, placed, register
from featherweight.operators.scratch import for_narrow_weights, for_transposed


def _conv_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * math.prod(graph.tensors[node.inputs[1]].shape[1:])


def _depthwise_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * math.prod(graph.tensors[node.inputs[1]].shape[1:3])


def _delegate_takes_depthwise(call: Call) -> bool:
    """XNNPACK takes no hybrid depthwise convolution."""
    return call.input(0).dtype == "int8" and delegate_takes(call)


def _conv_3d_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * math.prod(graph.tensors[node.inputs[1]].shape[:4])


register(
    Op(
        "CONV_2D",
        "Conv2DOptions",
        axes="convolution",
        fuses=True,
        channels_first=True,
        weight=1,
        axis=0,
        weight_axes=(0, 3),
        weight_kind="conv",
        trained={1: "kernel", 2: "bias"},
        nibbles=("int8", "int16"),
        sparse_blocks={"float32": (1,)},
        bias=2,
        versions={"float32*int8": 5, "int8*int8": 3, "int16*int8": 4, "int8*int4": 7},
        delegated=delegate_takes,
        refused=refused_weighted,
        macs=_conv_macs,
        scratch=for_narrow_weights,
    )
)
register(
    Op(
        "DEPTHWISE_CONV_2D",
        "DepthwiseConv2DOptions",
        axes="depthwise",
        fuses=True,
        channels_first=True,
        weight=1,
        axis=3,
        weight_axes=(3, 3),
        weight_kind="depthwise",
        trained={1: "kernel", 2: "bias"},
        nibbles=("int8",),  # with int16 activations LiteRT reads int4 weights as if they were int8
        sparse_blocks={"float32": (1,)},
        bias=2,
        biased=("float32", "int8"),  # without, LiteRT's kernels read it all the same, and end the process
        versions={"float32*int8": 6, "int8*int8": 3, "int16*int8": 5, "int8*int4": 7},
        delegated=_delegate_takes_depthwise,
        refused=refused_depthwise,
        macs=_depthwise_macs,
        scratch=for_narrow_weights,
    )
)
register(
    Op(
        "CONV_3D",
        "Conv3DOptions",
        axes="convolution",
        fuses=True,
        weight=1,
        axis=4,
        weight_axes=(4, 3),
        weight_kind="conv",
        bias=2,
        trained={1: "kernel", 2: "bias"},
        macs=_conv_3d_macs,
    )
)


def _transposed_macs(node: Node, graph: Graph) -> int:
    pixels = math.prod(graph.tensors[node.inputs[2]].shape[:3])
    return pixels * math.prod(graph.tensors[node.inputs[1]].shape)


def _delegate_takes_transposed(call: Call) -> bool:
    """XNNPACK leaves kernels smaller than their stride alone where that would need a negative padding."""
    return _is_covered(call) and delegate_takes(call, 2)


def _is_covered(call: Call) -> bool:
    shape, strides = call.input(1).shape, strides_of(call)
    return (shape[1] >= strides[0] and shape[2] >= strides[1]) or call.node.attrs.get("padding") == "VALID"


def _refused_transposed(call: Call) -> str | None:
    return refused_weighted(call if _is_covered(call) else call.fallen_back(), 2)


TRANSPOSE_CONV = register(
    Op(
        "TRANSPOSE_CONV",
        "TransposeConvOptions",
        axes="convolution",
        shape_operand=0,
        indices=(0,),
        weight=1,
        axis=0,
        weight_axes=(0, 3),
        weight_kind="transposed",
        trained={1: "kernel", 3: "bias"},
        bias=3,
        activation=2,
        versions={"float32*int8": 2, "int8*int8": 2, "int16*int8": 2},
        delegated=_delegate_takes_transposed,
        refused=_refused_transposed,
        macs=_transposed_macs,
        scratch=for_transposed,
    )
).name
register(Op("CONV_3D_TRANSPOSE", "Conv3DOptions", shape_operand=0))


# Channels that LiteRT's optimized depthwise kernels compute at a time: integer, and hybrid.
LANES, _FLOAT_LANES = 8, 4


def _sizes(call: Call) -> tuple[np.ndarray, np.ndarray]:
    """Returns activations and weight, both of rank 4."""
    x, weight = call.array(0), call.array(1)
    if x.ndim != 4 or weight.ndim != 4:
        raise call.unsupported(f"activations of rank {x.ndim} and weights of rank {weight.ndim} are not supported")
    return x, weight


@kernel("CONV_2D", *INTEGER_FORMS)
def conv_2d(call: Call) -> tuple[np.ndarray, ...]:
    """Convolution: x (n, h, w, c), weight (out, kh, kw, c / groups), bias (out)."""
    x, weight = _sizes(call)
    call = placed(call)
    window = Window.of(call, x.shape[1], x.shape[2], (weight.shape[1], weight.shape[2]))
    operands = prepare(call, weight.reshape(weight.shape[0], -1))
    padded = window.padded(operands.x)
    groups = _groups(call, x.shape[3], weight.shape)
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
    x, weight = _sizes(call)
    sums = _conv_sums(call, x, weight.shape, weight.reshape(weight.shape[0], -1), np.float32)
    bias = call.optional(2)
    return (call.clamp(sums if bias is None else sums + bias),)


@kernel("CONV_2D", *HYBRID_FORMS)
def conv_2d_hybrid(call: Call) -> tuple[np.ndarray, ...]:
    """Convolution that quantizes every image, or pixel, bit for bit LiteRT's."""
    x, weight = _sizes(call)
    flat = weight.reshape(weight.shape[0], -1)
    call = placed(call)
    scales = hybrid.weight_scales(call)
    is_grouped = x.shape[3] != weight.shape[3]
    # LiteRT's kernel for one scale is symmetric, and takes channels with equal scales too.
    symmetric = bool((scales == scales[0]).all()) and not is_grouped
    if is_grouped:
        hybrid.check_scales(call, weight.shape[0])
    rows = (x.shape[0], 1, 1, 1)
    strides = strides_of(call)
    if call.profile.is_delegate and weight.shape[1:3] == strides == (1, 1) and not is_grouped:
        rows = (*x.shape[:3], 1)  # XNNPACK makes a dense layer of it, and quantizes every pixel
    quantize = quantize_symmetric if symmetric else quantize_asymmetric
    operands = hybrid.prepare_hybrid(call, flat, rows=rows, quantize=quantize)
    sums = _conv_sums(call, operands.x, weight.shape, operands.weight, operands.dtype)
    if call.profile.is_delegate:
        how = hybrid.delegated
    else:
        how = hybrid.joined if symmetric or (call.profile.is_vectorized and not is_grouped) else hybrid.weight_first
    return (operands.finish(call, sums, how),)


def _conv_sums(call: Call, x: np.ndarray, shape: tuple[int, ...], flat: np.ndarray, dtype: type) -> np.ndarray:
    """Returns the sums of products of a convolution with a weight of that shape, as (out, kh * kw * c)."""
    window = Window.of(call, x.shape[1], x.shape[2], (shape[1], shape[2]))
    padded = window.padded(x)
    parts = [
        windowed_product(padded[..., inputs], window, flat[outputs], lambda sums: sums, dtype)
        for inputs, outputs in _groups(call, x.shape[3], shape)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _groups(call: Call, channels: int, shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """Returns (input channels, output channels) of each group of a weight of that shape."""
    depth = shape[3]
    if depth == 0 or channels % depth or shape[0] % (channels // depth):
        raise call.unsupported(f"{channels} input channels with a weight of {list(shape)} are not supported")
    count, outputs = channels // depth, shape[0] // (channels // depth)
    return [(slice(g * depth, (g + 1) * depth), slice(g * outputs, (g + 1) * outputs)) for g in range(count)]


@kernel("DEPTHWISE_CONV_2D", *INTEGER_FORMS)
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
    whole = sums.shape[3] - sums.shape[3] % LANES
    vectors, rest = slice(None, whole), slice(whole, None)
    parts = [
        finisher(call, operands, vectors)(sums[..., vectors]),
        finisher(call, operands, rest, is_product=False)(sums[..., rest]),
    ]
    return (np.concatenate(parts, axis=3),)


@kernel("DEPTHWISE_CONV_2D", "float32")
def depthwise_conv_2d_float(call: Call) -> tuple[np.ndarray, ...]:
    """Depthwise convolution in float32."""
    x, weight = _sizes(call)
    window = Window.of(call, x.shape[1], x.shape[2], (weight.shape[1], weight.shape[2]))
    sums, bias = _depthwise_sums(call, x, window, weight.reshape(-1, weight.shape[3])), call.optional(2)
    return (call.clamp(sums if bias is None else sums + bias),)


@kernel("DEPTHWISE_CONV_2D", "float32*int8")
def depthwise_conv_2d_hybrid(call: Call) -> tuple[np.ndarray, ...]:
    """Depthwise convolution that quantizes every image, which XNNPACK does not take: bit for bit LiteRT's."""
    x, weight = _sizes(call)
    window = Window.of(call, x.shape[1], x.shape[2], (weight.shape[1], weight.shape[2]))
    flat = weight.reshape(-1, weight.shape[3])
    call = placed(call)
    hybrid.check_scales(call, weight.shape[3])
    operands = hybrid.prepare_hybrid(call, flat.T, rows=(x.shape[0], 1, 1, 1), quantize=quantize_asymmetric)
    sums = _depthwise_sums(call, operands.x, window, operands.weight.T)
    if not call.profile.is_vectorized:
        return (operands.finish(call, sums, hybrid.joined),)
    # The optimized kernel computes four channels at a time, and the rest one by one.
    whole = sums.shape[3] - sums.shape[3] % _FLOAT_LANES
    results = operands.finish(call, sums, hybrid.weight_first)
    results[..., whole:] = operands.finish(call, sums, hybrid.row_first)[..., whole:]
    return (results,)


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


@kernel("CONV_3D", "float32")
def conv_3d(call: Call) -> tuple[np.ndarray, ...]:
    """Convolution of volumes in float32, the only type LiteRT has: x (n, d, h, w, c), weight (kd, kh, kw, c, out)."""
    x, weight, bias = call.array(0), call.array(1), call.optional(2)
    if x.ndim != 5 or weight.ndim != 5 or x.shape[4] != weight.shape[3]:
        raise call.unsupported(f"inputs of {list(x.shape)} with a weight of {list(weight.shape)} are not supported")
    span = Span.of(call, "d", x.shape[1], weight.shape[0])
    window = Window.of(call, x.shape[2], x.shape[3], weight.shape[1:3])
    x = np.pad(x, ((0, 0), span.pad, *window.pad, (0, 0)))
    sums = np.zeros((x.shape[0] * span.out, *window.out, weight.shape[4]), np.float32)
    for index, taps in enumerate(weight):
        start = index * span.dilation
        planes = x[:, start : start + (span.out - 1) * span.stride + 1 : span.stride]
        flat = taps.reshape(-1, weight.shape[4]).T
        sums += windowed_product(planes.reshape(-1, *x.shape[2:]), window, flat, lambda sums: sums, np.float32)
    sums = sums.reshape(x.shape[0], span.out, *sums.shape[1:])
    return (call.clamp(sums if bias is None else sums + bias),)
