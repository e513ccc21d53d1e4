"""Pooling and reductions in float (and of static integers)."""

from __future__ import annotations

import numpy as np

from featherweight.operators.call import Array
from featherweight.training.float.conv import padding_of, strides_of, window_padding
from featherweight.training.graph.registry import Step, function, ops


def _size(step: Step) -> tuple[int, int]:
    return step.attr_int("filter_height", 1), step.attr_int("filter_width", 1)


@function("MAX_POOL_2D")
def max_pool_2d(step: Step) -> tuple[Array, ...]:
    """Largest value in the window."""
    pooled = ops.max_pool(step.array(0), _size(step), strides_of(step), padding_of(step), data_format="channels_last")
    return (step.clamp(pooled),)


@function("AVERAGE_POOL_2D")
def average_pool_2d(step: Step) -> tuple[Array, ...]:
    """Mean over the window without its padding."""
    x, size, strides = step.array(0), _size(step), strides_of(step)
    padded, counts = window_counts(x, size, strides, padding_of(step))
    means = ops.average_pool(padded, size, strides, "valid", data_format="channels_last")
    if counts is not None:
        factor = np.float32(size[0] * size[1]) / counts
        means = ops.multiply(means, ops.convert_to_tensor(factor[None, :, :, None], dtype=means.dtype))
    return (step.clamp(means),)


def window_counts(
    x: Array, size: tuple[int, int], strides: tuple[int, int], padding: str
) -> tuple[Array, np.ndarray | None]:
    """Returns x with zeros around it, and how many pixels each window (oh, ow) sees; None where all see the same."""
    (high, above), (wide, left) = (
        window_padding(int(x.shape[axis]), taps, stride, 1, padding)
        for axis, taps, stride in zip((1, 2), size, strides, strict=True)
    )
    if not any((*above, *left)):
        return x, None
    seen: list[np.ndarray] = []
    for axis, count, (before, _), taps, stride in zip((1, 2), (high, wide), (above, left), size, strides, strict=True):
        first = np.arange(count) * stride - before
        seen.append(np.minimum(first + taps, int(x.shape[axis])) - np.maximum(first, 0))
    return ops.pad(x, ((0, 0), above, left, (0, 0))), np.outer(*seen).astype(np.float32)


def axes_of(step: Step) -> tuple[int, ...]:
    """Returns the axes to reduce, counted from the front."""
    rank = max(len(step.array(0).shape), 1)
    return tuple(dict.fromkeys(axis % rank for axis in step.integers(1)))


def _reduction(name: str, *, of: str) -> None:
    def reduced(step: Step) -> tuple[Array, ...]:
        reduce = getattr(step.xp, of)
        return (reduce(step.array(0), axis=axes_of(step), keepdims=bool(step.node.attrs.get("keep_dims"))),)

    reduced.__doc__ = f"{name} over axes."
    function(name)(reduced)


for _name, _of in {
    "MEAN": "mean",
    "SUM": "sum",
    "REDUCE_MAX": "max",
    "REDUCE_MIN": "min",
    "REDUCE_PROD": "prod",
    "REDUCE_ANY": "any",
    "REDUCE_ALL": "all",
}.items():
    _reduction(_name, of=_of)


@function("ARG_MAX")
def arg_max(step: Step) -> tuple[Array, ...]:
    """Position of the first largest value along an axis."""
    return (step.xp.argmax(step.array(0), axis=step.integers(1)[0]),)


@function("ARG_MIN")
def arg_min(step: Step) -> tuple[Array, ...]:
    """Position of the first smallest value along an axis."""
    return (step.xp.argmin(step.array(0), axis=step.integers(1)[0]),)


@function("CUMSUM")
def cumsum(step: Step) -> tuple[Array, ...]:
    """Running sum along an axis, from its end if `reverse`, without the value itself if `exclusive`."""
    x, axis, xp = step.array(0), step.integers(1)[0], step.xp
    is_reverse = bool(step.node.attrs.get("reverse"))
    turned = xp.flip(x, axis) if is_reverse else x
    total = xp.cumsum(turned, axis=axis)
    total = total - turned if step.node.attrs.get("exclusive") else total
    return (xp.flip(total, axis) if is_reverse else total,)
