"""Operators that make tensors from shapes and numbers, and change types.

Sources: LiteRT shape.cc, range.cc, fill.cc, one_hot.cc, cast.cc.
"""

from __future__ import annotations

import math

import numpy as np

from featherweight.graph.numerics import storage_dtype
from featherweight.operators.call import Call
from featherweight.operators.record import Op, kernel, register

register(Op("SHAPE", "ShapeOptions", axes="shape"))
register(Op("RANK", "RankOptions", axes="shape"))
register(Op("ZEROS_LIKE", "ZerosLikeOptions", axes="kept"))
register(Op("FILL", "FillOptions", axes="kept"))
register(Op("RANGE", "RangeOptions", axes="kept"))
register(Op("CAST", "CastOptions", axes="same"))
register(Op("ONE_HOT", "OneHotOptions", axes="lookup"))


@kernel("SHAPE", "*")
def shape(call: Call) -> tuple[np.ndarray, ...]:
    """The sizes of the input."""
    return (np.asarray(call.array(0).shape, call.outputs[0].dtype),)


@kernel("RANK", "*")
def rank(call: Call) -> tuple[np.ndarray, ...]:
    """The number of axes of the input."""
    return (np.asarray(call.array(0).ndim, np.int32),)


@kernel("ZEROS_LIKE", "float32", "int32", "int64")
def zeros_like(call: Call) -> tuple[np.ndarray, ...]:
    """Zeros in the shape of the input."""
    return (np.zeros_like(call.array(0)),)


@kernel("FILL", "int32", "int64")
def fill(call: Call) -> tuple[np.ndarray, ...]:
    """One value in a given shape."""
    return (np.full(call.integers(0), call.array(1).reshape(-1)[0]),)


@kernel("RANGE", "int32", "int64", "float32")
def sequence(call: Call) -> tuple[np.ndarray, ...]:
    """Numbers from a first one, in steps, up to before a limit."""
    first, limit, step = (call.array(position).reshape(-1)[0] for position in range(3))
    if step == 0 or (limit - first) * step < 0:
        raise call.unsupported(f"a range from {first} to {limit} in steps of {step} is not supported")
    if first.dtype == np.float32:
        count = math.ceil(abs((limit - first) / step))
        return (np.cumsum(np.append(first, np.full(max(count - 1, 0), step)), dtype=np.float32)[:count],)
    return (np.arange(first, limit, step, dtype=first.dtype),)


@kernel("ONE_HOT", "int32", "int64")
def one_hot(call: Call) -> tuple[np.ndarray, ...]:
    """One value at given positions of a new axis, another elsewhere."""
    positions, depth = call.array(0), call.integers(1)[0]
    on, off = call.array(2).reshape(-1)[0], call.array(3).reshape(-1)[0]
    if on.dtype == np.int16:
        raise call.unsupported("values of int16 are not supported (by LiteRT neither)")
    axis = call.attr_int("axis", -1)
    axis = positions.ndim if axis == -1 else axis
    places = np.arange(depth).reshape(-1, *(1,) * (positions.ndim - axis))
    return (np.where(np.expand_dims(positions, axis) == places, on, off),)


@kernel("CAST", "*")
def cast(call: Call) -> tuple[np.ndarray, ...]:
    """The same values in another type: floats are cut toward zero, integers wrap around.

    Floats below an int32 become the lowest one, on all machines.

    Raises:
        UnsupportedOp: if another float does not fit an integer type: what becomes of it depends on the machine.
    """
    x, dtype = call.array(0), storage_dtype(call.outputs[0].dtype)
    if x.dtype.kind == "f" and dtype.kind in "iu":
        ends = np.iinfo(dtype)
        if dtype == np.int32:
            x = np.maximum(x, np.float32(ends.min))  # NaN stays NaN
        with np.errstate(invalid="ignore"):
            fits = (np.trunc(x.astype(np.float64)) >= ends.min) & (np.trunc(x.astype(np.float64)) <= ends.max)
        if not fits.all():
            raise call.unsupported(f"{(~fits).sum()} of {x.size} floats that do not fit {dtype} are not supported")
        return (np.trunc(x).astype(np.int64).astype(dtype),)
    return (x.astype(dtype),)
