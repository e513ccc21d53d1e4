"""Resizing of images in float. Source: LiteRT reference/resize_bilinear.h, resize_nearest_neighbor.h."""

from __future__ import annotations

import numpy as np

from featherweight.operators.call import Array
from featherweight.training.graph.registry import Step, function, ops


def _modes(step: Step) -> tuple[bool, bool]:
    """Returns (align corners, half-pixel centres)."""
    return bool(step.node.attrs.get("align_corners")), bool(step.node.attrs.get("half_pixel_centers"))


@function("RESIZE_NEAREST_NEIGHBOR")
def resize_nearest_neighbor(step: Step) -> tuple[Array, ...]:
    """Every output pixel is the input pixel that its position falls into."""
    x = step.array(0)
    for axis, size in zip((1, 2), step.integers(1), strict=True):
        x = _picked(x, nearest_positions(int(x.shape[axis]), size, *_modes(step)), axis)
    return (x,)


def nearest_positions(size: int, out: int, align: bool, half: bool) -> np.ndarray:
    """Returns the input position of every output position along one axis; computed in float32, as LiteRT does."""
    scale = np.float32(size - 1) / np.float32(out - 1) if align and out > 1 else np.float32(size) / np.float32(out)
    positions = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half else 0.0)) * scale
    found = np.floor(positions + np.float32(0.5)) if align else np.floor(positions)
    return np.clip(found.astype(np.int32), 0, size - 1)


def _picked(x: Array, positions: np.ndarray, axis: int) -> Array:
    """Returns the entries of these positions; whole-number enlargements are repeats, which have fast gradients."""
    size, out = int(x.shape[axis]), positions.size
    if out % size == 0 and np.array_equal(positions, np.arange(out) // (out // size)):
        return x if out == size else ops.repeat(x, out // size, axis=axis)
    return ops.take(x, positions, axis=axis)


@function("RESIZE_BILINEAR")
def resize_bilinear(step: Step) -> tuple[Array, ...]:
    """Interpolation between four pixels."""
    x = step.array(0)
    for axis, size in zip((1, 2), step.integers(1), strict=True):
        low, high, weight = linear_positions(int(x.shape[axis]), size, *_modes(step))
        share = ops.convert_to_tensor(weight.reshape(-1, *([1] * (3 - axis))), dtype=step.dtype)
        x = ops.take(x, low, axis=axis) * (1 - share) + ops.take(x, high, axis=axis) * share
    return (x,)


def linear_positions(size: int, out: int, align: bool, half: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (lower position, upper position, share of the upper one) of every output position along one axis."""
    scale = np.float32(size - 1) / np.float32(out - 1) if align and out > 1 else np.float32(size) / np.float32(out)
    steps = np.arange(out, dtype=np.float32)
    positions = (steps + np.float32(0.5)) * scale - np.float32(0.5) if half else steps * scale
    low = np.maximum(np.floor(positions), 0).astype(np.int32)
    high = np.minimum(np.ceil(positions), size - 1).astype(np.int32)
    return low, high, np.clip(positions - low, 0, 1).astype(np.float32)
