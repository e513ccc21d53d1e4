"""Pooling. Sources: the 8-bit quantization specification; LiteRT op_version.cc, pooling.cc; XNNPACK."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.graph import Graph, Node
from featherweight.operators import on_numpy
from featherweight.operators.call import Array, Call
from featherweight.operators.fixed_point import divided
from featherweight.operators.geometry import padding_of, strides_of
from featherweight.operators.record import Op, definition, kernel, output_elements, placed, register
from featherweight.operators.relevance import of_largest


def _pool_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * int(node.attrs["filter_height"]) * int(node.attrs["filter_width"])


def _delegate_takes_average(call: Call) -> bool:
    """XNNPACK averages floats only."""
    return call.input(0).is_float


def _delegate_takes_maximum(call: Call) -> bool:
    """XNNPACK has no int16, and refuses windows with gaps between them."""
    sides = (("stride_h", "filter_height"), ("stride_w", "filter_width"))
    has_gaps = any(call.attr_int(stride, 1) > call.attr_int(size) for stride, size in sides)
    return call.input(0).dtype != "int16" and not has_gaps


_FACTS: dict[str, Any] = {
    "axes": "window",
    "is_homogeneous": True,
    "fuses": True,
    "same_scale": (0,),
    "versions": {"int8": 2, "int16": 3},
    "macs": _pool_macs,
}
register(Op("AVERAGE_POOL_2D", "Pool2DOptions", delegated=_delegate_takes_average, channels_first=True, **_FACTS))
register(
    Op("MAX_POOL_2D", "Pool2DOptions", delegated=_delegate_takes_maximum, picks=True, relevant=of_largest, **_FACTS)
)
register(Op("L2_POOL_2D", "Pool2DOptions", axes="window", is_homogeneous=True, fuses=True, macs=_pool_macs))


def _pooled(call: Call, pool: Any, x: Array) -> Array:
    """Returns what a pooling function of the namespace makes of x (n, h, w, c)."""
    if len(x.shape) != 4:
        raise call.unsupported(f"activations of rank {len(x.shape)} are not supported (supported: 4)")
    size = size_of(call)
    if min(size) < 1:
        raise call.unsupported("an empty window is not supported")
    return pool(x, size, strides_of(call), padding_of(call))


def size_of(call: Call) -> tuple[int, int]:
    """Returns the (height, width) of the window."""
    return call.attr_int("filter_height"), call.attr_int("filter_width")


@kernel("AVERAGE_POOL_2D", "int8", "int16")
def average_pool_2d(call: Call) -> tuple[np.ndarray, ...]:
    """Integer mean over the window without its padding, ties away from zero."""
    call, x = placed(call), call.array(0)
    sums = _pooled(call, on_numpy.sum_pool, x.astype(np.int32))
    counts = _pooled(call, on_numpy.sum_pool, np.ones((1, *x.shape[1:3], 1), np.int32))
    return (np.clip(divided(sums, counts), *call.bounds()).astype(x.dtype),)


@kernel("MAX_POOL_2D", "int8", "int16")
def max_pool_2d_of_integers(call: Call) -> tuple[np.ndarray, ...]:
    """Largest integer in the window."""
    call, x = placed(call), call.array(0)
    return (np.clip(_pooled(call, on_numpy.max_pool, x), *call.bounds()).astype(x.dtype),)


@definition("MAX_POOL_2D", "float32")
def max_pool_2d(call: Call) -> tuple[Array, ...]:
    """Largest value in the window."""
    return (call.clamp(_pooled(call, call.xp.max_pool, call.array(0))),)


@definition("AVERAGE_POOL_2D", "float32")
def average_pool_2d_of_reals(call: Call) -> tuple[Array, ...]:
    """Mean over the window without its padding."""
    return (call.clamp(_pooled(call, call.xp.average_pool, call.array(0))),)


@kernel("L2_POOL_2D", "float32")
def l2_pool_2d(call: Call) -> tuple[np.ndarray, ...]:
    """Root of the mean of the squares over the window without its padding."""
    return (call.clamp(np.sqrt(_pooled(call, on_numpy.average_pool, np.square(call.array(0))))),)
