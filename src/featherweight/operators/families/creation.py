"""Operators that make tensors from shapes and numbers, and change types.

Sources: LiteRT shape.cc, range.cc, fill.cc, one_hot.cc, cast.cc.
"""

from __future__ import annotations

import math

import numpy as np

from featherweight.graph.numerics import storage_dtype
from featherweight.operators.call import Array, Call, is_static
from featherweight.operators.record import Op, definition, register

register(Op("SHAPE", "ShapeOptions", axes="shape"))
register(Op("RANK", "RankOptions", axes="shape"))
register(Op("ZEROS_LIKE", "ZerosLikeOptions", axes="kept"))
register(Op("FILL", "FillOptions", axes="kept", indices=(0,), same_scale=(1,)))
register(Op("RANGE", "RangeOptions", axes="kept"))
register(Op("CAST", "CastOptions", axes="same"))
register(Op("ONE_HOT", "OneHotOptions", axes="lookup"))


@definition("SHAPE", "*")
def shape(call: Call) -> tuple[Array, ...]:
    """The sizes of the input: static wherever they are known."""
    xp, dtype = call.xp, call.outputs[0].dtype
    sizes = xp.shape(call.array(0))
    if all(isinstance(size, int) for size in sizes):
        return (np.asarray(sizes, dtype),)
    return (xp.stack([xp.convert_to_tensor(size, dtype=dtype) for size in sizes]),)


@definition("RANK", "*")
def rank(call: Call) -> tuple[Array, ...]:
    """The number of axes of the input."""
    return (np.asarray(len(call.array(0).shape), np.int32),)


@definition("ZEROS_LIKE", "float32", "int32", "int64")
def zeros_like(call: Call) -> tuple[Array, ...]:
    """Zeros in the shape of the input."""
    return (call.xp.zeros_like(call.array(0)),)


@definition("FILL", "int32", "int64")
def fill(call: Call) -> tuple[Array, ...]:
    """One value in a given shape."""
    return (call.xp.broadcast_to(call.xp.reshape(call.array(1), ()), call.integers(0)),)


@definition("RANGE", "int32", "int64", "float32")
def sequence(call: Call) -> tuple[Array, ...]:
    """Numbers from a first one, in steps, up to before a limit."""
    first, limit, step = (call.static(position).reshape(-1)[0] for position in range(3))
    if step == 0 or (limit - first) * step < 0:
        raise call.unsupported(f"a range from {first} to {limit} in steps of {step} is not supported")
    if first.dtype == np.float32:
        count = math.ceil(abs((limit - first) / step))
        return (np.cumsum(np.append(first, np.full(max(count - 1, 0), step)), dtype=np.float32)[:count],)
    return (np.arange(first, limit, step, dtype=first.dtype),)


@definition("ONE_HOT", "int32", "int64")
def one_hot(call: Call) -> tuple[Array, ...]:
    """One value at given positions of a new axis, another elsewhere."""
    xp, positions, depth = call.xp, call.array(0), call.integers(1)[0]
    if call.input(2).dtype == "int16":
        raise call.unsupported("values of int16 are not supported (by LiteRT neither)")
    axis, rank = call.attr_int("axis", -1), len(positions.shape)
    axis = rank if axis == -1 else axis
    places = np.arange(depth, dtype=np.int32).reshape(-1, *(1,) * (rank - axis))
    on, off = (xp.reshape(call.array(position), ()) for position in (2, 3))
    return (xp.where(xp.equal(xp.expand_dims(positions, axis), places), on, off),)


@definition("CAST", "*")
def cast(call: Call) -> tuple[Array, ...]:
    """The same values in another type: floats are cut toward zero, integers wrap around.

    What becomes float in a Keras model takes its precision. Floats below an int32 become the lowest one, on all
    machines.

    Raises:
        UnsupportedOp: if another float does not fit an integer type: what becomes of it depends on the machine.
    """
    x, wanted = call.array(0), call.outputs[0].dtype
    if not is_static(x):
        return (call.xp.cast(x, call.dtype if wanted == "float32" else wanted),)
    dtype = storage_dtype(wanted)
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
