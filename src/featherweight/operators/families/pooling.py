"""Pooling. Sources: the 8-bit quantization specification; LiteRT op_version.cc, pooling.cc; XNNPACK."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.graph import Graph, Node
from featherweight.operators.call import Call
from featherweight.operators.fixed_point import divided
from featherweight.operators.kernels.products import Window
from featherweight.operators.record import Op, kernel, output_elements, placed, register
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
    "same_scale": (0,),
    "versions": {"int8": 2, "int16": 3},
    "macs": _pool_macs,
}
register(Op("AVERAGE_POOL_2D", "Pool2DOptions", delegated=_delegate_takes_average, **_FACTS))
register(Op("MAX_POOL_2D", "Pool2DOptions", delegated=_delegate_takes_maximum, relevant=of_largest, **_FACTS))
register(Op("L2_POOL_2D", "Pool2DOptions", axes="window", is_homogeneous=True, macs=_pool_macs))


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
    call = placed(call)
    x, window = _window(call)
    sums = _summed(x.astype(np.int32), window)
    counts = _summed(np.ones((1, x.shape[1], x.shape[2], 1), np.int32), window)
    low, high = call.bounds()
    return (np.clip(divided(sums, counts), low, high).astype(x.dtype),)


@kernel("MAX_POOL_2D", "int8", "int16", "float32")
def max_pool_2d(call: Call) -> tuple[np.ndarray, ...]:
    """Largest value in the window."""
    call = placed(call)
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


@kernel("L2_POOL_2D", "float32")
def l2_pool_2d(call: Call) -> tuple[np.ndarray, ...]:
    """Root of the mean of the squares over the window without its padding, in float32."""
    x, window = _window(call)
    counts = _summed(np.ones((1, x.shape[1], x.shape[2], 1), np.float32), window)
    return (call.clamp(np.sqrt(_summed(np.square(x), window) / counts)),)
