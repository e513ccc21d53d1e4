"""Resizing of images. Sources: LiteRT reference/resize_bilinear.h, resize_nearest_neighbor.h; XNNPACK s8-ibilinear."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.operators import on_numpy
from featherweight.operators.call import Array, Call
from featherweight.operators.record import Op, definition, kernel, register

_FACTS: dict[str, Any] = {
    "axes": "window",
    "is_homogeneous": True,
    "indices": (1,),
    "same_scale": (0,),
    "versions": {"int8": 2, "int16": 4},
}
register(Op("RESIZE_BILINEAR", "ResizeBilinearOptions", channels_first=True, **_FACTS))
register(Op("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions", picks=True, **_FACTS))


def _modes(call: Call) -> tuple[bool, bool]:
    """Returns (align corners, half-pixel centres)."""
    return bool(call.node.attrs.get("align_corners")), bool(call.node.attrs.get("half_pixel_centers"))


def _bilinear_modes(call: Call) -> tuple[bool, bool]:
    """Returns what `_modes` does.

    Raises:
        UnsupportedOp: if both are set, which LiteRT refuses.
    """
    if all(modes := _modes(call)):
        raise call.unsupported("aligned corners together with half-pixel centers are not supported")
    return modes


@definition("RESIZE_NEAREST_NEIGHBOR", "*")
def resize_nearest_neighbor(call: Call) -> tuple[Array, ...]:
    """Every output pixel is the input pixel that its position falls into; positions in float32."""
    x = call.array(0)
    for axis, size in zip((1, 2), call.integers(1), strict=True):
        x = _picked(call, x, _nearest(int(x.shape[axis]), size, *_modes(call)), axis)
    return (x,)


def _nearest(size: int, out: int, align: bool, half: bool) -> np.ndarray:
    scale = np.float32(size - 1) / np.float32(out - 1) if align and out > 1 else np.float32(size) / np.float32(out)
    positions = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * scale
    found = np.floor(positions + np.float32(0.5)) if align else np.floor(positions)
    return np.clip(found.astype(np.int32), 0, size - 1)


def _picked(call: Call, x: Array, positions: np.ndarray, axis: int) -> Array:
    """Returns the entries of these positions; whole-number enlargements are repeats, which have fast gradients."""
    size, out = int(x.shape[axis]), positions.size
    if out % size == 0 and np.array_equal(positions, np.arange(out) // (out // size)):
        return x if out == size else call.xp.repeat(x, out // size, axis=axis)
    return call.xp.take(x, positions, axis=axis)


@kernel("RESIZE_BILINEAR", "int8", "int16")
def resize_bilinear(call: Call) -> tuple[np.ndarray, ...]:
    """Interpolation between four pixels in integers."""
    x = call.array(0)
    is_delegated = call.profile.is_delegate and x.dtype == np.int8
    return (interpolated(call, x.astype(np.int64), is_delegated=is_delegated).astype(x.dtype),)


Axis = tuple[np.ndarray, np.ndarray, np.ndarray]


def interpolated(call: Call, x: Array, *, is_delegated: bool, xp: Any = on_numpy) -> Array:
    """Returns integers (n, h, w, c) at the call's size: weights of 11 bits in XNNPACK, else of 10, ties away from zero.

    Values of 16 bits times both weights have more than 32 bits.
    """
    axis_of, bits = (delegated_axis, 11) if is_delegated else (fixed_axis, 10)
    dtype, half = x.dtype, 1 << (2 * bits - 1)
    for axis, size in zip((2, 1), call.integers(1)[::-1], strict=True):
        low, high, weight = axis_of(int(x.shape[axis]), size, *_bilinear_modes(call))
        weight = xp.cast(xp.convert_to_tensor(weight.astype(np.int32).reshape(-1, *([1] * (3 - axis)))), dtype)
        x = xp.take(x, low, axis=axis) * ((1 << bits) - weight) + xp.take(x, high, axis=axis) * weight
        x = xp.cast(x, dtype)
    if is_delegated:
        return xp.right_shift(x + half, 2 * bits)
    magnitude = xp.right_shift(xp.abs(x) + half, 2 * bits)
    return xp.where(x < 0, -magnitude, magnitude)


def fixed_axis(size: int, out: int, align: bool, half: bool) -> Axis:
    """Returns positions along one axis in fixed point of 10 bits."""
    one = 1 << 10
    scale = (one * (size - 1) + (out - 1) // 2) // (out - 1) if align and out > 1 else (one * size + out // 2) // out
    positions = np.arange(out, dtype=np.int64) * scale
    if half:
        positions = positions + scale // 2 - one // 2
    # Division truncates toward zero, and then negative positions are cut to zero.
    low = np.maximum(positions >> 10, 0)
    high = np.minimum((positions + one - 1) >> 10, size - 1)
    return low, high, positions - low * one


def delegated_axis(size: int, out: int, align: bool, half: bool) -> Axis:
    """Returns positions along one axis as XNNPACK computes them: in float32, weights rounded to 11 bits."""
    positions, last = _real_positions(size, out, align, half), size - 1
    positions = np.clip(positions, np.float32(0), np.float32(last))
    low = positions.astype(np.int64)
    weight = np.rint((positions - low.astype(np.float32)) * np.float32(2048)).astype(np.int64)
    return low, np.minimum(low + 1, last), weight


def _real_positions(size: int, out: int, align: bool, half: bool) -> np.ndarray:
    scale = np.float32(size - 1) / np.float32(out - 1) if align and out > 1 else np.float32(size) / np.float32(out)
    steps = np.arange(out, dtype=np.float32)
    return (steps + np.float32(0.5)) * scale - np.float32(0.5) if half else steps * scale


@definition("RESIZE_BILINEAR", "float32")
def resize_bilinear_of_reals(call: Call) -> tuple[Array, ...]:
    """Interpolation between four pixels."""
    xp, x = call.xp, call.array(0)
    for axis, size in zip((1, 2), call.integers(1), strict=True):
        extent = int(x.shape[axis])
        positions = _real_positions(extent, size, *_bilinear_modes(call))
        low = np.maximum(np.floor(positions), 0).astype(np.int32)
        high = np.minimum(np.ceil(positions), extent - 1).astype(np.int32)
        weight = np.clip(positions - low, 0, 1).astype(np.float32).reshape(-1, *([1] * (3 - axis)))
        share = xp.convert_to_tensor(weight, dtype=call.dtype)
        x = xp.take(x, low, axis=axis) * (1 - share) + xp.take(x, high, axis=axis) * share
    return (x,)
