"""Pooling over one or three spatial dimensions, as the two-dimensional pooling that the converter knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import Rule, Tracing
from featherweight.lower.rewrites.lifting import lifted, lowered

# Rank of an activation with one, and with three, spatial dimensions.
_RANKS = (3, 5)


def _is_pooling(equation: Any) -> bool:
    params, x = equation.params, equation.invars[0].aval
    return _is_plain(params) and x.ndim in _RANKS and x.dtype == np.float32


def _is_plain(params: Any) -> bool:
    window = params["window_dimensions"]
    dilations = (*params["base_dilation"], *params["window_dilation"])
    return all(d == 1 for d in dilations) and window[0] == 1 and math.prod(window) > 1


def _max_pool(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """Max pooling; three dimensions one pair after the other, since a maximum of maxima is the maximum."""
    from jax import lax

    def pool(x: Any, window: Sequence[int], strides: Sequence[int], padding: Any) -> Any:
        return lax.reduce_window(x, -np.inf, lax.max, window, strides, padding)

    return [_in_two_dimensions(tracing, inputs[0], equation.params, pool)]


def _is_pooled_mean(equation: Any) -> bool:
    return equation.outvars[0].aval.ndim in _RANKS


def _average_pool(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """Average pooling: a windowed sum divided by the number of elements under each window."""
    import jax.numpy as jnp
    from jax import lax

    origin = tracing.origin(inputs[0], "reduce_window_sum")
    if origin is None or not _is_plain(origin.params):
        return None
    params, x = origin.params, origin.inputs[0]
    size = tracing.scalar(inputs[1])
    counts = np.asarray(size) if size is not None else tracing.concrete(inputs[1])
    if counts is None or not np.allclose(counts, _counts(x.shape, params), rtol=1e-6):
        return None

    def pool(x: Any, window: Sequence[int], strides: Sequence[int], padding: Any) -> Any:
        def total(values: Any) -> Any:
            return lax.reduce_window(values, 0.0, lax.add, window, strides, padding)

        if not any(map(any, padding)):
            return total(x) / float(math.prod(window))
        # This is how the converter knows that padding does not count.
        return total(x) / total(jnp.ones([a if b > 1 else 1 for a, b in zip(x.shape, window, strict=True)], x.dtype))

    return [_in_two_dimensions(tracing, x, params, pool)]


def _counts(shape: Sequence[int], params: Any) -> np.ndarray:
    """The number of input elements, padding apart, under each window: sizes of 1 where they do not vary."""
    counts = np.ones([1] * len(shape))
    for axis, (size, window, stride, pads) in enumerate(
        zip(shape, params["window_dimensions"], params["window_strides"], params["padding"], strict=True)
    ):
        starts = np.arange(-pads[0], size + pads[1] - window + 1, stride)
        inside = np.minimum(starts + window, size) - np.maximum(starts, 0)
        counts = counts * (inside if window > 1 else np.ones(1)).reshape(
            [-1 if i == axis else 1 for i in range(len(shape))]
        )
    return counts


def _in_two_dimensions(tracing: Tracing, x: Any, params: Any, pool: Callable[..., Any]) -> Any:
    """Pools (n, w, c) as (n, 1, w, c), and (n, d, h, w, c) as (n·d, h, w, c), then as (n, d, h·w, c).

    Spatial dimensions that are neither batch nor channels may also stand last (channels first): then the array is
    read with a channel dimension of one.
    """
    window, strides, padding = (list(params[k]) for k in ("window_dimensions", "window_strides", "padding"))

    def stage(x: Any, shape: Sequence[int], axes: tuple[int | None, int | None]) -> Any:
        def of(values: Sequence[Any], nothing: Any) -> list[Any]:
            return [nothing, *(nothing if axis is None else values[axis] for axis in axes), nothing]

        return pool(x.reshape(shape), of(window, 1), of(strides, 1), of(padding, (0, 0)))

    if x.ndim == 3 and window[2] == 1:
        wide = lifted(tracing, x)
        return lowered(tracing, stage(wide, wide.shape, (None, 1)))
    if x.ndim == 3:
        y = stage(x, (*x.shape, 1), (1, 2))
        return y.reshape(y.shape[:3])
    n, d, h, w, c = x.shape
    if window[4] > 1:  # Channels first: channels go into the batch, whose windows are one.
        inner: dict[str, Any] = {"window_dimensions": (1, *window[2:], 1), "window_strides": (1, *strides[2:], 1)}
        inner["padding"] = ((0, 0), *padding[2:], (0, 0))
        y = _in_two_dimensions(tracing, x.reshape(n * d, h, w, c, 1), inner, pool)
        return y.reshape(n, d, *y.shape[1:4])
    y = stage(x, (n * d, h, w, c), (2, 3))
    h, w = y.shape[1:3]
    y = stage(y, (n, d, h * w, c), (1, None))
    return y.reshape(n, y.shape[1], h, w, c)


POOLING_RULES: tuple[Rule, ...] = (
    Rule("max pooling", "reduce_window_max", _is_pooling, _max_pool),
    Rule("average pooling", "div", _is_pooled_mean, _average_pool),
)
