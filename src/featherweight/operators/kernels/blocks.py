"""Hybrid dense layers whose int4 weights have a scale for every block of a row.

Sources: XNNPACK's fully-connected-nc.c (scales become bfloat16), packing.cc (the zero point's share) and qd8-f32-qb4w
kernels (x86 with VNNI: unsigned activations, fused multiply-add); LiteRT's fully_connected.cc. Confirmed on the
installed runtime.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.kernels import hybrid
from featherweight.operators.kernels.rows import quantize_asymmetric

# Blocks are whole numbers of so many weights; so many at a time give up their zero point's share.
_BLOCK_UNIT, _PACKED = 32, 16
# Rows of weights from which on LiteRT's optimized kernel knows blocks.
_UNITS = 4
# What makes a signed activation unsigned.
_UNSIGNED = np.float32(128)


def is_blocked(call: Call) -> bool:
    """Returns True where an operator's weight has a scale for every block."""
    quant = call.input(1).quant
    return quant is not None and quant.block_size is not None


def fully_connected(call: Call, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Dense layer: x (rows, in), weight (out, in) of int4; float32 (rows, out), bit for bit LiteRT's.

    Raises:
        UnsupportedOp: if LiteRT does not run it, or wrongly: its reference kernel does not know blocks, and its
            optimized one runs them from 4 rows of weights on and forgets the fused activation.
    """
    scales = scales_of(call, weight.shape)
    x, integers = x.astype(np.float32, copy=False), weight.astype(np.float32)
    if call.profile.is_delegate:
        values, row_scales = _delegated(x, integers, scales)
    elif call.profile.is_vectorized and weight.shape[0] >= _UNITS and call.float_bounds() == (-np.inf, np.inf):
        values, row_scales = _optimized(x, integers, scales)
    else:
        raise call.unsupported("weights in blocks, which only XNNPACK always computes rightly, are not supported")
    bias = call.optional(2)
    values = values * row_scales
    return call.clamp(values if bias is None else values + bias)


def _delegated(x: np.ndarray, weight: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """XNNPACK: scales rounded to bfloat16, unsigned activations, the zero point's share from 16 weights at a time."""
    scales = scales.astype(ml_dtypes.bfloat16).astype(np.float32)
    centred, zero_points, row_scales = hybrid.quantize_delegated(x)
    zero_points = zero_points + _UNSIGNED
    size = weight.shape[1] // scales.shape[1]
    sums = np.zeros(weight.shape[0], np.float32)
    for start in range(0, weight.shape[1], _PACKED):
        sums -= weight[:, start : start + _PACKED].sum(axis=1) * scales[:, start // size]
    values = sums * zero_points
    for block, products in enumerate(_products(centred + zero_points, weight, size)):
        values = hybrid.fused(products, scales[:, block], values)
    return values, row_scales


def _optimized(x: np.ndarray, weight: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """LiteRT's own kernel (EvalBlockwise4Bit): block by block, then the zero point's share."""
    centred, zero_points, row_scales = quantize_asymmetric(x)
    size = weight.shape[1] // scales.shape[1]
    values = np.zeros((x.shape[0], weight.shape[0]), np.float32)
    sums = np.zeros(weight.shape[0], np.float32)
    for block, products in enumerate(_products(centred + zero_points, weight, size)):
        values += products * scales[:, block]
        sums += scales[:, block] * weight[:, block * size : (block + 1) * size].sum(axis=1)
    return values - zero_points * sums, row_scales


def _products(x: np.ndarray, weight: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yields the products (rows, out) of each block."""
    for start in range(0, weight.shape[1], size):
        yield x[:, start : start + size] @ weight[:, start : start + size].T


def scales_of(call: Call, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the scales (out, blocks) of a weight of a shape (out, in), as float32.

    Raises:
        UnsupportedOp: if they are no float16 constant, one for each block of a multiple of 32 weights.
    """
    quant = call.input(1).quant
    size = 0 if quant is None or quant.block_size is None else quant.block_size
    tensor = None if quant is None else call.tensors.get(quant.scale_tensor or "")
    scales = None if tensor is None else tensor.array
    if size == 0 or size % _BLOCK_UNIT or shape[1] % size:
        raise call.unsupported(
            f"blocks of {size} in rows of {shape[1]} weights are not supported (multiples of 32 are)"
        )
    if scales is None or scales.dtype != np.float16 or scales.size != shape[0] * (shape[1] // size):
        raise call.unsupported("weights in blocks without a float16 scale for each are not supported")
    return scales.reshape(shape[0], -1).astype(np.float32)
