"""Conversions between real numbers and integers."""

from __future__ import annotations

import numpy as np

from featherweight.graph import Node, Tensor
from featherweight.graph.numerics import dequantize, integer_range, round_half_away, storage_dtype
from featherweight.operators.call import Call
from featherweight.operators.fixed_point import truncated
from featherweight.operators.limits import refused_rescaling
from featherweight.operators.record import Op, kernel, lookup, placed, register


def _delegate_takes(call: Call) -> bool:
    """XNNPACK has no int16, and a window of scales where integers become others."""
    x, out = call.input(0), call.outputs[0]
    if x.is_float or out.dtype != "int8":
        return out.dtype == "int8"
    return x.dtype == "int8" and bool(2.0**-8 <= call.affine(x)[0] / call.affine(out)[0] <= 2.0**7)


QUANTIZE = register(
    Op(
        "QUANTIZE",
        axes="kept",
        is_conversion=True,
        versions={"int8": 1, "int16": 2, "int4": 4},
        delegated=_delegate_takes,
        refused=refused_rescaling,
    )
).name
# By the type that is read; "channels" is int8 with a scale per channel.
DEQUANTIZE = register(
    Op(
        "DEQUANTIZE",
        axes="kept",
        is_conversion=True,
        unpacks=True,
        versions={"int8": 2, "int16": 3, "float16": 3, "channels": 5, "int4": 6},
    )
).name
register(Op("FAKE_QUANT", "FakeQuantOptions"))


def conversion(read: Tensor, written: Tensor) -> Node:
    """Returns the operator that makes a tensor's values those of another: integers of real numbers, or the reverse.

    >>> from featherweight.graph.numerics import QuantParams
    >>> conversion(Tensor("x", (1,), "float32"), Tensor("q", (1,), "int8", quant=QuantParams("int8", (1.0,), (0,)))).op
    'QUANTIZE'
    """
    if written.quant is not None:
        kind, op = written.quant.dtype, QUANTIZE
    else:
        kind, op = read.quant.dtype if read.quant else read.dtype, DEQUANTIZE
        if read.quant is not None and read.quant.is_per_channel and kind == "int8":
            kind = "channels"
    return Node(op, (read.name,), (written.name,), version=lookup(op).versions.get(kind, 1))


DENSIFY = register(Op("DENSIFY", "DensifyOptions", unpacks=True)).name

# Integers that LiteRT's optimized conversions compute at a time.
_REQUANTIZE_LANES, _REAL_LANES = 16, 8


@kernel("QUANTIZE", "float32")
def quantize_real(call: Call) -> tuple[np.ndarray, ...]:
    """``round(x / scale) + zero_point``: ties away from zero in the reference, else (but for what is left) to even."""
    scale, zero_point = call.affine(call.outputs[0])
    qmin, qmax = integer_range(call.outputs[0].dtype)
    x, inverse = call.array(0), np.float32(1) / scale
    call = placed(call)
    if call.profile.is_delegate:
        rounded = np.rint(x * inverse)
    elif call.profile.is_vectorized:
        # The optimized kernel multiplies vectors in float32, and divides what is left in float64.
        rounded = round_half_away(x.astype(np.float64) / np.float64(scale))
        whole = x.size - x.size % _REAL_LANES
        rounded.reshape(-1)[:whole] = np.rint(x.reshape(-1)[:whole] * inverse)
    else:
        rounded = round_half_away(x / scale)
    if not call.profile.is_litert or call.profile.is_delegate:
        values = np.clip(rounded + np.float32(zero_point), qmin, qmax)
        # XNNPACK's vectors of x86 take the other operand of a minimum for NaN.
        values = np.where(np.isnan(values), qmax if call.profile.is_delegate else zero_point, values)
        return (values.astype(storage_dtype(call.outputs[0].dtype)),)
    return (call.finish(truncated(rounded), qmin, qmax),)


@kernel("QUANTIZE", "int8", "int16", "uint8")
def quantize_again(call: Call) -> tuple[np.ndarray, ...]:
    """Integers of one scale as integers of another; XNNPACK multiplies by 8 fractional bits."""
    (in_scale, in_zero), (out_scale, _) = call.affine(call.input(0)), call.affine(call.outputs[0])
    x = call.array(0).astype(np.int64) - in_zero
    qmin, qmax = integer_range(call.outputs[0].dtype)
    ratio = in_scale / out_scale
    types = {call.input(0).dtype, call.outputs[0].dtype}
    call = placed(call)
    if call.profile.is_delegate:
        multiplier = int(np.rint(np.float32(256) * ratio))
        return (call.finish((x * multiplier + 128) >> 8, qmin, qmax),)
    factor = np.float64(in_scale) / np.float64(out_scale)
    values = call.rescaled(x, factor)
    if call.profile.is_vectorized and types == {"int8"}:
        # The optimized kernel takes vectors of integers with the rounding of matrix products, and the rest one by one.
        whole = x.size - x.size % _REQUANTIZE_LANES
        values.reshape(-1)[:whole] = call.profile.rescale_products(x.reshape(-1)[:whole], *call.multiplier(factor))
    return (call.finish(values, qmin, qmax),)


@kernel("DEQUANTIZE", "int4", "int8", "int16", "uint8")
def dequantize_integers(call: Call) -> tuple[np.ndarray, ...]:
    """``scale * (q - zero_point)`` in float32."""
    quant = call.input(0).quant
    if quant is None:
        raise call.unsupported("integers without parameters are not supported")
    values = dequantize(call.array(0), quant)
    if call.profile.is_vectorized and call.input(0).dtype != "int16" and not quant.is_per_channel:
        # The optimized kernel multiplies vectors of integers before it subtracts, and the rest after.
        scale, zero_point = call.affine(call.input(0))
        q = call.array(0).reshape(-1)
        whole = q.size - q.size % _REAL_LANES
        values.reshape(-1)[:whole] = q[:whole].astype(np.float32) * scale + np.float32(-zero_point) * scale
    return (values,)


@kernel("DEQUANTIZE", "float16")
def widen(call: Call) -> tuple[np.ndarray, ...]:
    """float16 as float32."""
    return (call.array(0).astype(np.float32),)
