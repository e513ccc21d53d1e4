"""Exact integer sums of products through floating-point BLAS.

A float32 sum of integers is exact, in any order, while every partial sum stays below 2**24, a float64 one below 2**53.
``sum(|w|) * max(|x|)`` bounds all partial sums of one output channel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.geometry import Window

_EXACT = {np.float32: 2.0**24, np.float64: 2.0**53}
# Elements of one block of window columns: 4 MB in float32.
_BLOCK_ELEMENTS = 1 << 20
Product = Callable[[np.ndarray], np.ndarray]


def exact_type(weight: np.ndarray, largest: float, bias: np.ndarray | None, call: Call) -> type:
    """Returns the float type in which products with a weight of shape (channels, depth), and its bias, are exact.

    Raises:
        UnsupportedOp: if no float type is exact. No layer that kernels can run comes there: it takes a bias beyond
            2**52, or 2**31 products of int16 and int8 (2**23 of two int16), and kernels rescale sums of 48 bits only.
    """
    sums = np.abs(weight.astype(np.float64)).sum(axis=1) * largest
    if bias is not None:
        sums = sums + np.abs(bias.astype(np.float64))
    bound = float(sums.max(initial=0.0))
    for kind, limit in _EXACT.items():
        if bound < limit:
            return kind
    raise call.unsupported(f"sums up to {bound:g} are not exact in float64 and not supported")


def windowed_product(
    padded: np.ndarray, window: Window, weight: np.ndarray, finish: Product, dtype: type
) -> np.ndarray:
    """Returns ``finish(columns @ weight.T)`` at every output pixel, in blocks of rows.

    Shapes: padded (n, h, w, c), weight (out, kh * kw * c); `finish` maps (pixels, out) to stored outputs.
    """
    n, channels, depth = padded.shape[0], padded.shape[3], weight.shape[1]
    transposed = np.ascontiguousarray(weight.T, dtype)
    out_h, out_w = window.out
    result: np.ndarray | None = None
    rows = max(1, _BLOCK_ELEMENTS // max(1, out_w * depth))
    images = max(1, rows // max(1, out_h))
    for image in range(0, n, images):
        for start in range(0, out_h, rows):
            count = min(rows, out_h - start)
            top = start * window.stride[0]
            part = padded[image : image + images, top:]
            columns = window_columns(part, window, count, channels, dtype)
            block = finish(columns.reshape(-1, depth) @ transposed)
            if result is None:
                result = np.empty((n, out_h, out_w, weight.shape[0]), block.dtype)
            shape = (part.shape[0], count, out_w, weight.shape[0])
            result[image : image + images, start : start + count] = block.reshape(shape)
    if result is None:
        empty = finish(np.zeros((0, weight.shape[0]), dtype))
        return np.empty((n, out_h, out_w, weight.shape[0]), empty.dtype)
    return result


def window_columns(part: np.ndarray, window: Window, rows: int, channels: int, dtype: type) -> np.ndarray:
    """Returns the window columns of the first output rows: (n, rows, out_w, kh * kw, c), of 1 × 1 without taps."""
    view = Window(window.size, window.stride, window.dilation, (rows, window.out[1]), window.pad)
    if window.size == (1, 1):
        return next(view.taps(part))[2].astype(dtype, copy=False)
    taps = window.size[0] * window.size[1]
    columns = np.empty((part.shape[0], rows, window.out[1], taps, channels), dtype)
    for index, (_, _, seen) in enumerate(view.taps(part)):
        columns[:, :, :, index] = seen
    return columns
