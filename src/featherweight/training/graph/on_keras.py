"""`keras.ops` as the array namespace of what a Keras model computes; below, what it computes otherwise than LiteRT."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from featherweight.operators.call import Array
from featherweight.operators.geometry import Pair, pixel_counts, window_padding

ops: Any = keras.ops
"""`keras.ops`: what its functions return is not typed."""


def __getattr__(name: str) -> Any:
    return getattr(ops, name)


def max_pool(x: Array, pool_size: Pair, strides: Pair, padding: str) -> Array:
    """Returns the largest value in each window of x (n, h, w, c)."""
    return ops.max_pool(x, pool_size, strides, padding, data_format="channels_last")


def average_pool(x: Array, pool_size: Pair, strides: Pair, padding: str) -> Array:
    """Returns the mean over each window of x (n, h, w, c), without its padding."""
    extents = int(x.shape[1]), int(x.shape[2])
    counts = pixel_counts(extents, pool_size, strides, padding)
    if counts is not None:
        (_, above), (_, left) = (window_padding(extents[at], pool_size[at], strides[at], 1, padding) for at in (0, 1))
        x = ops.pad(x, ((0, 0), above, left, (0, 0)))
    means = ops.average_pool(x, pool_size, strides, "valid", data_format="channels_last")
    if counts is None:
        return means
    factor = np.float32(pool_size[0] * pool_size[1]) / counts.astype(np.float32)
    return ops.multiply(means, ops.convert_to_tensor(factor[None, :, :, None], dtype=means.dtype))


def normalize(x: Array, axis: int = -1, epsilon: float = 1e-12) -> Array:
    """Returns x over its Euclidean norm along an axis, which counts as `epsilon` at least; summed in float32."""
    squares = ops.sum(ops.square(ops.cast(x, "float32")), axis=axis, keepdims=True)
    return x * ops.cast(ops.rsqrt(ops.maximum(squares, epsilon**2)), x.dtype)
