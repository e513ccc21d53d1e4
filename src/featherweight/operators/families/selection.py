"""Operators that choose values by conditions, positions or order.

Sources: LiteRT select.cc, gather.cc, topk_v2.cc, where.cc, dynamic_update_slice.cc, cumsum.cc.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from featherweight.errors import DataError
from featherweight.operators.call import Array, Call, is_static
from featherweight.operators.record import Op, definition, kernel, register
from featherweight.operators.relevance import of_moved

for _name, _options in (("SELECT", "SelectOptions"), ("SELECT_V2", "SelectV2Options")):
    _versions = {"int8": 2 if _name == "SELECT" else 1, "int16": 1}
    register(
        Op(
            _name,
            _options,
            axes="selection" if _name == "SELECT" else "joined",
            activation=1,
            is_mover=True,
            same_scale=(1, 2),
            versions=_versions,
            relevant=of_moved,
        )
    )
register(
    Op(
        "GATHER",
        "GatherOptions",
        axes="gather",
        indices=(1,),
        is_mover=True,
        weight_kind="embedding",
        trained={0: "embeddings"},
        same_scale=(0,),
        versions={"int8": 2, "int16": 4},
        relevant=of_moved,
    )
)
for _name, _options, _int8, _int16 in (("GATHER_ND", "GatherNdOptions", 1, 3), ("TOPK_V2", "TopKV2Options", 2, 3)):
    register(
        Op(
            _name,
            _options,
            axes="slices" if _name == "GATHER_ND" else "kept",
            indices=(1,),
            is_mover=True,
            same_scale=(0,),
            versions={"int8": _int8, "int16": _int16},
            relevant=of_moved,
        )
    )
register(
    Op(
        "DYNAMIC_UPDATE_SLICE",
        "DynamicUpdateSliceOptions",
        axes="kept",
        indices=(2,),
        is_mover=True,
        same_scale=(0, 1),
        versions={"int8": 1, "int16": 4},
        relevant=of_moved,
    )
)
register(Op("CUMSUM", "CumsumOptions", axes="kept", indices=(1,), same_scale=(0,)))
register(Op("WHERE", "WhereOptions", axes="kept"))
DETECTION = register(Op("TFLite_Detection_PostProcess", axes="kept")).name  # the custom code of its node


@definition("SELECT", "*")
def select(call: Call) -> tuple[Array, ...]:
    """One of two values, by a condition for each, or for each along the first axis."""
    call.check_same(1, 2)
    condition, x = call.array(0), call.array(1)
    if len(condition.shape) == 1 and len(x.shape) > 1:
        condition = call.xp.reshape(condition, (-1, *(1,) * (len(x.shape) - 1)))
    return (call.xp.where(condition, x, call.array(2)),)


@definition("SELECT_V2", "*")
def select_v2(call: Call) -> tuple[Array, ...]:
    """One of two values, by a condition; all three are broadcast."""
    call.check_same(1, 2)
    return (call.xp.where(call.array(0), call.array(1), call.array(2)),)


@kernel("WHERE", "bool", "float32", "int8", "int32", "int64", "uint8")
def where(call: Call) -> tuple[np.ndarray, ...]:
    """Positions of true, or of values other than zero, one in a row."""
    return (np.argwhere(call.array(0)).astype(np.int64),)


@definition("GATHER", "*")
def gather(call: Call) -> tuple[Array, ...]:
    """The entries of given positions along an axis; leading axes may be batches of both."""
    xp, x, positions = call.xp, call.array(0), call.array(1)
    axis, batches = call.attr_int("axis") % len(x.shape), call.attr_int("batch_dims")
    batches = batches % (len(positions.shape) + 1) if batches < 0 else batches
    if batches == 0:
        return (xp.take(x, positions, axis=axis),)
    if is_static(x) and is_static(positions):
        flat_x, flat_p = x.reshape(-1, *x.shape[batches:]), positions.reshape(-1, *positions.shape[batches:])
        parts = [np.take(part, chosen, axis=axis - batches) for part, chosen in zip(flat_x, flat_p, strict=True)]
        return (np.stack(parts).reshape(*x.shape[:batches], *parts[0].shape),)
    if batches != 1 or axis != 1 or len(positions.shape) != 2:
        raise call.unsupported(f"batch_dims {batches} with axis {axis} is not supported")
    rest = len(x.shape) - 2
    wide = xp.reshape(positions, (-1, positions.shape[1], *([1] * rest)))
    tiled = xp.broadcast_to(wide, (wide.shape[0] or -1, positions.shape[1], *x.shape[2:])) if rest else wide
    return (xp.take_along_axis(x, tiled, axis=1),)


@definition("GATHER_ND", "*")
def gather_nd(call: Call) -> tuple[Array, ...]:
    """The parts at given positions; the last axis of the positions counts axes of the input."""
    xp, x, positions = call.xp, call.array(0), call.array(1)
    depth = positions.shape[-1]
    sizes = x.shape[:depth]
    if None in sizes[1:]:
        raise call.unsupported("an input of unknown size is not supported")
    flat = sum(positions[..., axis] * math.prod(sizes[axis + 1 :]) for axis in range(depth))
    return (xp.take(xp.reshape(x, (-1, *x.shape[depth:])), flat, axis=0),)


@definition("TOPK_V2", "*")
def largest(call: Call) -> tuple[Array, ...]:
    """The largest values along the last axis, and their positions."""
    x, count = call.array(0), call.integers(1)[0]
    if call.input(0).dtype == "bool" or not 0 <= count <= x.shape[-1]:
        raise call.unsupported(
            f"the {count} largest of {x.shape[-1]} values of {call.input(0).dtype} are not supported"
        )
    values, positions = call.xp.top_k(x, count)
    return values, call.counted(positions, 1)


@definition("DYNAMIC_UPDATE_SLICE", "*")
def dynamic_update_slice(call: Call) -> tuple[Array, ...]:
    """With a block replaced; its beginning is moved so that it fits."""
    call.check_same(0, 1)
    xp, x, block, starts = call.xp, call.array(0), call.array(1), call.array(2)
    limits = [size - width for size, width in zip(x.shape, block.shape, strict=True)]
    if not is_static(starts):
        inside = [xp.clip(starts[axis], 0, limit) for axis, limit in enumerate(limits)]
        return (xp.slice_update(x, xp.stack(inside), block),)
    starts = [int(np.clip(start, 0, limit)) for start, limit in zip(starts, limits, strict=True)]
    moved = [axis for axis, limit in enumerate(limits) if limit]
    if not moved:
        return (block,)
    if len(moved) > 1:
        return (xp.slice_update(x, starts, block),)
    axis = moved[0]
    before: list[Any] = [slice(None)] * len(limits)
    after = list(before)
    before[axis], after[axis] = slice(0, starts[axis]), slice(starts[axis] + block.shape[axis], None)
    return (xp.concatenate([x[tuple(before)], block, x[tuple(after)]], axis=axis),)


@definition("CUMSUM", "float32", "int32", "int64")
def cumulative_sum(call: Call) -> tuple[Array, ...]:
    """Sums of all values up to each one along an axis, without it where exclusive; integers wrap around.

    Raises:
        DataError: if the axis is not there.
    """
    xp, x, axis = call.xp, call.array(0), call.integers(1)[0]
    if not -len(x.shape) <= axis < len(x.shape):
        raise DataError(f"{call.place}: axis {axis} is not there in rank {len(x.shape)}. The file is damaged.")
    x = xp.flip(x, axis) if call.node.attrs.get("reverse") else x
    if call.node.attrs.get("exclusive"):
        front = xp.moveaxis(x, axis, 0)
        x = xp.moveaxis(xp.concatenate([xp.zeros_like(front[:1]), front[:-1]], axis=0), 0, axis)
    sums = xp.cumsum(x, axis=axis)
    return (xp.flip(sums, axis) if call.node.attrs.get("reverse") else sums,)
