"""Reference kernels of transposed convolutions. Weights: (out, kh, kw, in). Source: LiteRT transpose_conv.h."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.families.conv import TRANSPOSE_CONV
from featherweight.operators.geometry import Window
from featherweight.operators.kernels import hybrid
from featherweight.operators.kernels.matrix import finisher, prepare
from featherweight.operators.kernels.rows import quantize_asymmetric
from featherweight.operators.record import HYBRID_FORMS, INTEGER_FORMS, kernel, placed

# (row, column) of a tap -> what it adds to the output, in order.
Parts = Callable[[int, int], Iterable[np.ndarray]]


@kernel(TRANSPOSE_CONV, *INTEGER_FORMS)
def transpose_conv(call: Call) -> tuple[np.ndarray, ...]:
    """Transposed convolution: output shape, weight (out, kh, kw, c), x (n, h, w, c), bias (out)."""
    weight = call.array(1)
    call = placed(call)
    operands = prepare(call, weight.reshape(weight.shape[0], -1), x_position=2, bias_position=3)
    taps = operands.weight.reshape(weight.shape)
    sums = _sums(call, operands.x, taps.shape, _products(operands.x, taps))
    return (finisher(call, operands, is_product=False)(sums),)


@kernel(TRANSPOSE_CONV, "float32")
def transpose_conv_float(call: Call) -> tuple[np.ndarray, ...]:
    """Transposed convolution in float32."""
    x, weight, bias = call.array(2), call.array(1), call.optional(3)
    sums = _sums(call, x, weight.shape, _products(x, weight))
    return (call.clamp(sums if bias is None else sums + bias),)


@kernel(TRANSPOSE_CONV, *HYBRID_FORMS)
def transpose_conv_hybrid(call: Call) -> tuple[np.ndarray, ...]:
    """Transposed convolution that quantizes every image, bit for bit LiteRT's.

    LiteRT's own kernel scales and adds the product of every two numbers in float32, in the order of the input.
    """
    call, weight = placed(call), call.array(1)
    hybrid.check_scales(call, weight.shape[0])
    flat = weight.reshape(weight.shape[0], -1)
    rows = (call.array(2).shape[0], 1, 1, 1)
    operands = hybrid.prepare_hybrid(call, flat, rows=rows, quantize=quantize_asymmetric, x_position=2, bias_position=3)
    x, taps = operands.x, operands.weight.reshape(weight.shape)
    if call.profile.is_delegate:
        return (operands.finish(call, _sums(call, x, taps.shape, _products(x, taps)), hybrid.delegated),)
    x, taps = x.astype(np.float32), taps.astype(np.float32)

    def parts(row: int, column: int) -> Iterator[np.ndarray]:
        for channel in range(x.shape[3]):
            product = x[..., channel : channel + 1] * taps[:, row, column, channel]
            yield product * operands.weight_scales * operands.row_scales

    return (call.clamp(_sums(call, x, taps.shape, parts) + operands.bias),)


def _products(x: np.ndarray, weight: np.ndarray) -> Parts:
    """Returns the matrix products of x (n, h, w, c) with the taps of a weight (out, kh, kw, c)."""
    return lambda row, column: ((x.reshape(-1, x.shape[3]) @ weight[:, row, column].T).reshape(*x.shape[:3], -1),)


def _sums(call: Call, x: np.ndarray, shape: tuple[int, ...], parts: Parts) -> np.ndarray:
    """Returns what every input pixel adds to the output around it, in the order of the input's pixels.

    `parts` gives, for a tap (row, column) of the weight, what it adds: arrays (n, in_h, in_w, out), one after another.
    """
    _, height, width, _ = call.integers(0)
    n, in_h, in_w, _ = x.shape
    outputs, size_h, size_w, _ = shape
    # The padding is that of the convolution from the output's size to the input's.
    window = Window.of(call, height, width, (size_h, size_w))
    stride_h, stride_w = window.stride
    room_h, room_w = (in_h - 1) * stride_h + size_h, (in_w - 1) * stride_w + size_w
    top, left = window.pad[0][0], window.pad[1][0]
    sums = np.zeros((n, max(room_h, height + top), max(room_w, width + left), outputs), x.dtype)
    # Of the input's pixels that an output pixel hears of, the first one meets the weight's last tap.
    for row in reversed(range(size_h)):
        for column in reversed(range(size_w)):
            seen = sums[:, row : row + in_h * stride_h : stride_h, column : column + in_w * stride_w : stride_w]
            for part in parts(row, column):
                seen[:, :in_h, :in_w] += part
    return np.ascontiguousarray(sums[:, top : top + height, left : left + width])
