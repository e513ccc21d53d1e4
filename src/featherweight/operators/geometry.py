"""Where windows slide: strides, dilations and padding of convolutions and pools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from featherweight.operators.call import Call

Pair = tuple[int, int]


def strides_of(call: Call) -> Pair:
    """Returns the (vertical, horizontal) strides."""
    return call.attr_int("stride_h", 1), call.attr_int("stride_w", 1)


def dilations_of(call: Call) -> Pair:
    """Returns the (vertical, horizontal) dilations."""
    return call.attr_int("dilation_h_factor", 1), call.attr_int("dilation_w_factor", 1)


def padding_of(call: Call) -> str:
    """Returns ``same`` or ``valid``.

    Raises:
        UnsupportedOp: if the padding is unknown.
    """
    padding = str(call.node.attrs.get("padding", "SAME"))
    if padding not in ("SAME", "VALID"):
        raise call.unsupported(f"padding {padding} is not supported (supported: SAME, VALID)")
    return padding.lower()


def window_padding(extent: int, taps: int, stride: int, dilation: int, padding: str) -> tuple[int, Pair]:
    """Returns (outputs, (before, after)) along one axis, as TensorFlow counts: the odd pixel of padding comes last."""
    reach = (taps - 1) * dilation + 1
    if padding != "same":
        return max(-(-(extent - reach + 1) // stride), 0), (0, 0)
    count = -(-extent // stride)
    missing = max((count - 1) * stride + reach - extent, 0)
    return count, (missing // 2, missing - missing // 2)


def pixel_counts(extents: Pair, size: Pair, strides: Pair, padding: str) -> np.ndarray | None:
    """Returns how many pixels each window (oh, ow) sees, of padding none; None where there is no padding."""
    seen: list[np.ndarray] = []
    pads: list[int] = []
    for extent, taps, stride in zip(extents, size, strides, strict=True):
        count, pad = window_padding(extent, taps, stride, 1, padding)
        first = np.arange(count) * stride - pad[0]
        seen.append(np.minimum(first + taps, extent) - np.maximum(first, 0))
        pads += pad
    return np.outer(*seen).astype(np.int32) if any(pads) else None


@dataclass(frozen=True)
class Span:
    """How a kernel slides over one dimension."""

    stride: int
    dilation: int
    out: int
    pad: Pair

    @staticmethod
    def of(call: Call, axis: str, extent: int, size: int) -> Span:
        """Returns the way of a node over dimension ``d``, ``h`` or ``w``."""
        stride, dilation = call.attr_int(f"stride_{axis}", 1), call.attr_int(f"dilation_{axis}_factor", 1)
        return Span(stride, dilation, *window_padding(extent, size, stride, dilation, padding_of(call)))


@dataclass(frozen=True)
class Window:
    """How a kernel slides over (height, width): sizes, strides, dilations, and the padding it needs."""

    size: Pair
    stride: Pair
    dilation: Pair
    out: Pair
    pad: tuple[Pair, Pair]

    @staticmethod
    def of(call: Call, height: int, width: int, size: Pair) -> Window:
        """Returns the window of a node over an input of that size."""
        return Window.over((height, width), size, strides_of(call), dilations_of(call), padding_of(call))

    @staticmethod
    def over(extents: Pair, size: Pair, strides: Pair, dilations: Pair, padding: str) -> Window:
        """Returns a window of that size over an input of those extents."""
        (high, above), (wide, left) = (
            window_padding(extents[at], size[at], strides[at], dilations[at], padding) for at in (0, 1)
        )
        return Window(size, strides, dilations, (high, wide), (above, left))

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
