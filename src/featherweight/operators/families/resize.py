"""Resizing of images. Sources: LiteRT reference/resize_bilinear.h, resize_nearest_neighbor.h; XNNPACK s8-ibilinear."""

from __future__ import annotations

import numpy as np

from featherweight.operators.call import Array, Call
from featherweight.operators.record import Op, definition, kernel, register

for _name, _options in (
    ("RESIZE_BILINEAR", "ResizeBilinearOptions"),
    ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions"),
):
    register(Op(_name, _options, axes="window", same_scale=(0,), versions={"int8": 2, "int16": 4}))


def _modes(call: Call) -> tuple[bool, bool]:
    """Returns (align corners, half-pixel centres)."""
    return bool(call.node.attrs.get("align_corners")), bool(call.node.attrs.get("half_pixel_centers"))


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
    """Interpolation between four pixels: weights of 10 bits, or of 11 in XNNPACK."""
    x = call.array(0)
    align, half = _modes(call)
    heights, widths = zip(x.shape[1:3], call.integers(1), strict=True)
    if call.profile.is_delegate and x.dtype == np.int8:
        values = _interpolated(x, delegated_axis(*heights, align, half), delegated_axis(*widths, align, half), 11)
        return (((values + (1 << 21)) >> 22).astype(x.dtype),)
    values = _interpolated(x, fixed_axis(*heights, align, half), fixed_axis(*widths, align, half), 10)
    values = values + np.where(values > 0, 1 << 19, -(1 << 19))
    return (np.where(values >= 0, values >> 20, -((-values) >> 20)).astype(x.dtype),)


Axis = tuple[np.ndarray, np.ndarray, np.ndarray]


def _interpolated(x: np.ndarray, rows: Axis, columns: Axis, bits: int) -> np.ndarray:
    """Returns the weighted sum of four pixels, with 2 * bits fractional bits; axes are (lower, upper, weight)."""
    one = 1 << bits
    wide = x.astype(np.int64)
    low, high, weight = columns
    weight = weight[:, np.newaxis]
    across = wide[:, :, low] * (one - weight) + wide[:, :, high] * weight
    low, high, weight = rows
    weight = weight[:, np.newaxis, np.newaxis]
    return across[:, low] * (one - weight) + across[:, high] * weight


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
        positions = _real_positions(extent, size, *_modes(call))
        low = np.maximum(np.floor(positions), 0).astype(np.int32)
        high = np.minimum(np.ceil(positions), extent - 1).astype(np.int32)
        weight = np.clip(positions - low, 0, 1).astype(np.float32).reshape(-1, *([1] * (3 - axis)))
        share = xp.convert_to_tensor(weight, dtype=call.dtype)
        x = xp.take(x, low, axis=axis) * (1 - share) + xp.take(x, high, axis=axis) * share
    return (x,)
