"""Exact integer sums of products through floating-point BLAS, and the windows that convolutions and pools slide.

A float32 sum of integers is exact, in any order, while every partial sum stays below 2**24, a float64 one below 2**53.
``sum(|w|) * max(|x|)`` bounds all partial sums of one output channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from featherweight.operators.call import Call

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


@dataclass(frozen=True)
class Span:
    """How a kernel slides over one dimension."""

    stride: int
    dilation: int
    out: int
    pad: tuple[int, int]

    @staticmethod
    def of(call: Call, axis: str, extent: int, size: int) -> Span:
        """Returns the way of a node over dimension ``d``, ``h`` or ``w``; of SAME padding, the odd one is behind.

        Raises:
            UnsupportedOp: if the padding is unknown.
        """
        stride, dilation = call.attr_int(f"stride_{axis}", 1), call.attr_int(f"dilation_{axis}_factor", 1)
        padding = str(call.node.attrs.get("padding", "SAME"))
        if padding not in ("SAME", "VALID"):
            raise call.unsupported(f"padding {padding} is not supported (supported: SAME, VALID)")
        reach = (size - 1) * dilation + 1
        count = -(-extent // stride) if padding == "SAME" else -(-(extent - reach + 1) // stride)
        missing = max((count - 1) * stride + reach - extent, 0) if padding == "SAME" else 0
        return Span(stride, dilation, max(count, 0), (missing // 2, missing - missing // 2))


@dataclass(frozen=True)
class Window:
    """How a kernel slides over (height, width): sizes, strides, dilations, and the padding it needs."""

    size: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    out: tuple[int, int]
    pad: tuple[tuple[int, int], tuple[int, int]]

    @staticmethod
    def of(call: Call, height: int, width: int, size: tuple[int, int]) -> Window:
        """Returns the window of a node over an input of that size."""
        rows, columns = Span.of(call, "h", height, size[0]), Span.of(call, "w", width, size[1])
        stride, dilation = (rows.stride, columns.stride), (rows.dilation, columns.dilation)
        return Window(size, stride, dilation, (rows.out, columns.out), (rows.pad, columns.pad))

    def padded(self, x: np.ndarray, fill: float = 0) -> np.ndarray:
        """Returns x (n, h, w, c) with this window's padding."""
        if not any(sum(part) for part in self.pad):
            return x
        return np.pad(x, ((0, 0), *self.pad, (0, 0)), constant_values=fill)

    def taps(self, padded: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yields (row, column, view): for each position in the window, what it sees at all outputs (n, oh, ow, c)."""
        for row in range(self.size[0]):
            for column in range(self.size[1]):
                top, left = row * self.dilation[0], column * self.dilation[1]
                yield (
                    row,
                    column,
                    padded[
                        :,
                        top : top + (self.out[0] - 1) * self.stride[0] + 1 : self.stride[0],
                        left : left + (self.out[1] - 1) * self.stride[1] + 1 : self.stride[1],
                    ],
                )


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
