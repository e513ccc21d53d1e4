"""Pooling and reductions. Source: the 8-bit quantization specification; LiteRT op_version.cc."""

from __future__ import annotations

import math

import numpy as np

from featherweight.graph import Graph, Node
from featherweight.numerics import round_half_away
from featherweight.ops.calls import Call
from featherweight.ops.products import Window
from featherweight.ops.registry import kernel, output_elements, register


def _pool_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * int(node.attrs["filter_height"]) * int(node.attrs["filter_width"])


for _name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
    register(_name, same_scale=(0,), versions={"int8": 2, "int16": 3}, macs=_pool_macs)
for _name in ("REDUCE_MAX", "REDUCE_MIN"):
    register(_name, same_scale=(0,), versions={"int8": 2, "int16": 3})
register("MEAN", versions={"int8": 2, "int16": 3})
register("SUM", versions={"int8": 2, "int16": 2})
for _name in ("ARG_MAX", "ARG_MIN"):
    register(_name, versions={"int8": 2})


def _window(call: Call) -> tuple[np.ndarray, Window]:
    """Returns x (n, h, w, c) and the pooling window."""
    x = call.array(0)
    if x.ndim != 4:
        raise call.unsupported(f"activations of rank {x.ndim} are not supported (supported: 4)")
    size = call.attr_int("filter_height"), call.attr_int("filter_width")
    return x, Window.of(call, x.shape[1], x.shape[2], size)


def _summed(x: np.ndarray, window: Window) -> np.ndarray:
    sums = np.zeros((x.shape[0], *window.out, x.shape[3]), x.dtype)
    for _, _, seen in window.taps(window.padded(x)):
        sums += seen
    return sums


@kernel("AVERAGE_POOL_2D", "int8", "int16")
def average_pool_2d(call: Call) -> tuple[np.ndarray, ...]:
    """Integer mean over the window without its padding, ties away from zero."""
    call = call if call.input(0).dtype == "int8" else call.fallen_back()
    x, window = _window(call)
    sums = _summed(x.astype(np.int32), window)
    counts = _summed(np.ones((1, x.shape[1], x.shape[2], 1), np.int32), window)
    low, high = call.bounds()
    return (np.clip(_divided(sums, counts), low, high).astype(x.dtype),)


def _divided(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns ``sums / counts``, ties away from zero."""
    halves = counts // 2
    return np.where(sums > 0, (sums + halves) // counts, -((halves - sums) // counts))


@kernel("MAX_POOL_2D", "int8", "int16", "float32")
def max_pool_2d(call: Call) -> tuple[np.ndarray, ...]:
    """Largest value in the window."""
    call = call.fallen_back() if call.input(0).dtype == "int16" else call
    x, window = _window(call)
    is_float = x.dtype == np.float32
    padded = window.padded(x, -np.inf if is_float else int(np.iinfo(x.dtype).min))
    largest: np.ndarray | None = None
    for _, _, seen in window.taps(padded):
        largest = seen.copy() if largest is None else np.maximum(largest, seen, out=largest)
    if largest is None:
        raise call.unsupported("an empty window is not supported")
    return (call.clamp(largest) if is_float else np.clip(largest, *call.bounds()).astype(x.dtype),)


@kernel("AVERAGE_POOL_2D", "float32")
def average_pool_2d_float(call: Call) -> tuple[np.ndarray, ...]:
    """Mean over the window without its padding, in float32."""
    x, window = _window(call)
    counts = _summed(np.ones((1, x.shape[1], x.shape[2], 1), np.float32), window)
    return (call.clamp(_summed(x, window) / counts),)


def _reduced(call: Call) -> tuple[np.ndarray, tuple[int, ...], bool]:
    """Returns x, the axes to reduce, and whether they stay as size 1."""
    x = call.array(0)
    axes = tuple(dict.fromkeys(axis % max(x.ndim, 1) for axis in call.integers(1)))
    return x, axes, bool(call.node.attrs.get("keep_dims"))


@kernel("MEAN", "int8", "int16")
def mean(call: Call) -> tuple[np.ndarray, ...]:
    """Mean over axes: an integer sum, then one rescale into which 1 / count is folded."""
    x, axes, keep = _reduced(call)
    in_scale, in_zero = call.affine(call.input(0))
    out_scale, _ = call.affine(call.outputs[0])
    count = math.prod(x.shape[axis] for axis in axes)
    sums = np.asarray(x.sum(axis=axes, dtype=np.int64, keepdims=keep)) - count * in_zero
    call.check_accumulator(sums, 32)
    if call.profile.is_delegate and x.dtype == np.int8:
        return (_delegated_mean(call, sums, (in_scale / out_scale) / np.float32(count)),)
    call = call.fallen_back()
    if call.profile.is_vectorized and keep and set(axes) == {1, 2} and x.ndim == 4 and x.dtype == np.int8:
        return (_image_mean(call, sums + count * in_zero, count),)
    if call.profile.only_shifts:
        return (call.finish(call.rescaled(_divided(sums, np.asarray(count)), np.float64(in_scale / out_scale))),)
    multiplier, shift = call.multiplier(np.float64(in_scale) / np.float64(out_scale))
    # reduce.cc: as many bits as the count has are shifted in before the multiplier is divided by the count.
    bits = min(count.bit_length() - 1, 32, 31 + int(shift))
    folded = np.asarray((int(multiplier) << bits) // count, np.int64)
    return (call.finish(call.profile.rescale(sums, folded, shift - bits)),)


def _delegated_mean(call: Call, sums: np.ndarray, scale: np.float32) -> np.ndarray:
    """XNNPACK's mean: the zero point is added before rounding half to even."""
    values = sums.astype(np.float32) * scale + np.float32(call.affine(call.outputs[0])[1])
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


def _image_mean(call: Call, sums: np.ndarray, count: int) -> np.ndarray:
    """LiteRT's optimized mean over (height, width): zero points folded into one offset (integer_ops/mean.h)."""
    (in_scale, in_zero), (out_scale, out_zero) = call.affine(call.input(0)), call.affine(call.outputs[0])
    offset = out_zero - int(round_half_away(np.asarray(np.float32(in_zero) * in_scale / out_scale)))
    factor = in_scale / (np.float32(count) * out_scale)
    return np.clip(call.rescaled(sums, np.float64(factor)) + offset, -128, 127).astype(np.int8)


@kernel("MEAN", "float32")
def mean_float(call: Call) -> tuple[np.ndarray, ...]:
    """Mean over axes in float32."""
    x, axes, keep = _reduced(call)
    return (np.asarray(x.mean(axis=axes, keepdims=keep), np.float32),)


@kernel("REDUCE_MAX", "int8", "int16", "int32", "float32")
def reduce_max(call: Call) -> tuple[np.ndarray, ...]:
    """Largest value over axes."""
    x, axes, keep = _reduced(call)
    return (np.asarray(x.max(axis=axes, keepdims=keep)),)


@kernel("REDUCE_MIN", "int8", "int16", "int32", "float32")
def reduce_min(call: Call) -> tuple[np.ndarray, ...]:
    """Smallest value over axes."""
    x, axes, keep = _reduced(call)
    return (np.asarray(x.min(axis=axes, keepdims=keep)),)


@kernel("ARG_MAX", "int8", "float32")
def arg_max(call: Call) -> tuple[np.ndarray, ...]:
    """Position of the first largest value along an axis."""
    return (np.argmax(call.array(0), axis=call.integers(1)[0]).astype(call.outputs[0].dtype),)


@kernel("ARG_MIN", "int8", "float32")
def arg_min(call: Call) -> tuple[np.ndarray, ...]:
    """Position of the first smallest value along an axis."""
    return (np.argmin(call.array(0), axis=call.integers(1)[0]).astype(call.outputs[0].dtype),)
