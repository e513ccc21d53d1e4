"""NumPy under the names of `keras.ops`: the array namespace of the reference kernels.

What an operator computes is written once over a namespace, which is this module or, inside a Keras model, one around
`keras.ops`. All of NumPy's functions are here, and below what `keras.ops` calls otherwise, what NumPy would give in
another type, and functions of float32 numbers whose results are LiteRT's to the last bit or nearly so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from featherweight.operators.geometry import Pair, Window


def __getattr__(name: str) -> Any:
    return getattr(np, name)


def convert_to_tensor(x: Any, dtype: Any = None) -> np.ndarray:
    """Returns x as an array."""
    return np.asarray(x, dtype)


def cast(x: Any, dtype: Any) -> np.ndarray:
    """Returns x in another type: integers wrap around."""
    return np.asarray(x).astype(dtype, copy=False)


def view(x: np.ndarray, dtype: Any) -> np.ndarray:
    """Returns the bits of x as another type of the same size."""
    return x.view(dtype)


def shape(x: np.ndarray) -> tuple[int, ...]:
    """Returns the sizes of x."""
    return x.shape


def unstack(x: np.ndarray, num: int | None = None, axis: int = 0) -> tuple[np.ndarray, ...]:
    """Returns the parts along an axis, without it."""
    return tuple(np.moveaxis(x, axis, 0))


def slice_update(x: np.ndarray, starts: Any, update: np.ndarray) -> np.ndarray:
    """Returns x with a block replaced that begins at these positions."""
    x = x.copy()
    x[tuple(slice(start, start + size) for start, size in zip(starts, update.shape, strict=True))] = update
    return x


def top_k(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest values along the last axis, and their positions; of equal ones, the first."""
    # Turned around twice: a stable sort from the largest down that keeps the order of equal ones.
    positions = x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    positions = positions[..., :k]
    return np.take_along_axis(x, positions, axis=-1), positions


def sum(x: np.ndarray, axis: Any = None, keepdims: bool = False) -> np.ndarray:  # noqa: A001
    """Returns the sum over axes; integers wrap around."""
    return x.sum(axis=axis, dtype=x.dtype, keepdims=keepdims)


def prod(x: np.ndarray, axis: Any = None, keepdims: bool = False) -> np.ndarray:
    """Returns the product over axes; integers wrap around."""
    return x.prod(axis=axis, dtype=x.dtype, keepdims=keepdims)


def cumsum(x: np.ndarray, axis: int) -> np.ndarray:
    """Returns the running sum along an axis; integers wrap around."""
    return np.cumsum(x, axis=axis, dtype=x.dtype)


def mean(x: np.ndarray, axis: tuple[int, ...], keepdims: bool = False) -> np.ndarray:
    """Returns the mean over axes; of integers, cut toward zero."""
    if x.dtype.kind == "f":
        return x.mean(axis=axis, keepdims=keepdims)
    sums = np.asarray(x.sum(axis=axis, dtype=np.int64, keepdims=keepdims))
    count = math.prod(x.shape[at] for at in axis)
    return (np.sign(sums) * (np.abs(sums) // count)).astype(x.dtype)


def floor_divide(x: Any, y: Any) -> np.ndarray:
    """Returns the quotient, cut toward negative infinity; of float32 numbers through float64."""
    if np.asarray(x).dtype != np.float32:
        return np.floor_divide(x, y)
    return np.floor(x.astype(np.float64) / y).astype(np.float32)


def mod(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the remainder with the divisor's sign."""
    if x.dtype != np.float32:
        return np.mod(x, y)
    rest = np.fmod(x, y)
    return np.where((rest != 0) & ((y < 0) != (rest < 0)), rest + y, rest)


def power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the power; of float32 numbers through float64."""
    if x.dtype != np.float32:
        return np.power(x, y)
    return np.power(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)


def precise(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a float32 function that computes in float64: within half a unit of its result, as libm's float ones."""
    return lambda x: function(x.astype(np.float64)).astype(np.float32)


exp, log, sin, cos = precise(np.exp), precise(np.log), precise(np.sin), precise(np.cos)
_tanh = precise(np.tanh)
_erfc = precise(np.vectorize(math.erfc, otypes=[np.float64]))


def rsqrt(x: np.ndarray) -> np.ndarray:
    """Returns 1 / sqrt(x)."""
    return np.float32(1) / np.sqrt(x)


def relu(x: np.ndarray) -> np.ndarray:
    """Returns x, or 0 below it."""
    return np.clip(x, 0, None)


def relu6(x: np.ndarray) -> np.ndarray:
    """Returns x in [0, 6]."""
    return np.clip(x, 0, 6)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x))."""
    return np.float32(1) / (np.float32(1) + exp(-x))


def elu(x: np.ndarray) -> np.ndarray:
    """Returns x, or exp(x) - 1 below zero."""
    return np.where(x < 0, precise(np.expm1)(np.minimum(x, 0)), x)


def gelu(x: np.ndarray, approximate: bool = True, tanh: Any = _tanh, erfc: Any = _erfc) -> np.ndarray:
    """Returns x times the normal distribution function at x (or its tanh approximation)."""
    half = np.float32(0.5) * x
    if approximate:
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return half * (np.float32(1) + tanh(inner))
    return half * erfc(x * np.float32(-math.sqrt(0.5)))


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns the softmax along an axis; NaN for nothing but -∞, as LiteRT does."""
    exponential = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponential / exponential.sum(axis=axis, keepdims=True)


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Returns the logarithm of the softmax along an axis."""
    difference = x - x.max(axis=axis, keepdims=True)
    return difference - np.log(np.exp(difference).sum(axis=axis, keepdims=True))


def normalize(x: np.ndarray, axis: int = -1, epsilon: float = 1e-12) -> np.ndarray:
    """Returns x over its Euclidean norm along an axis, which counts as `epsilon` at least."""
    return x / np.maximum(np.sqrt(np.square(x).sum(axis=axis, keepdims=True)), np.float32(epsilon))


def max_pool(x: np.ndarray, pool_size: Pair, strides: Pair, padding: str) -> np.ndarray:
    """Returns the largest value in each window of x (n, h, w, c)."""
    window = Window.over((x.shape[1], x.shape[2]), pool_size, strides, (1, 1), padding)
    padded = window.padded(x, -np.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min))
    views = (seen for _, _, seen in window.taps(padded))
    largest = next(views).copy()
    for seen in views:
        np.maximum(largest, seen, out=largest)
    return largest


def sum_pool(x: np.ndarray, pool_size: Pair, strides: Pair, padding: str) -> np.ndarray:
    """Returns the sum over each window of x (n, h, w, c); `keras.ops` has none."""
    window = Window.over((x.shape[1], x.shape[2]), pool_size, strides, (1, 1), padding)
    sums = np.zeros((x.shape[0], *window.out, x.shape[3]), x.dtype)
    for _, _, seen in window.taps(window.padded(x)):
        sums += seen
    return sums


def average_pool(x: np.ndarray, pool_size: Pair, strides: Pair, padding: str) -> np.ndarray:
    """Returns the mean over each window of x (n, h, w, c), without its padding."""
    counts = sum_pool(np.ones((1, *x.shape[1:3], 1), x.dtype), pool_size, strides, padding)
    return sum_pool(x, pool_size, strides, padding) / counts
