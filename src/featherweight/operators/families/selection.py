"""Operators that choose values by conditions, positions or order.

Sources: LiteRT select.cc, gather.cc, topk_v2.cc, where.cc, dynamic_update_slice.cc, cumsum.cc.
"""

from __future__ import annotations

import numpy as np

from featherweight.errors import DataError
from featherweight.operators.call import Call
from featherweight.operators.record import Op, kernel, register
from featherweight.operators.relevance import of_moved

for _name, _options in (("SELECT", "SelectOptions"), ("SELECT_V2", "SelectV2Options")):
    _versions = {"int8": 2 if _name == "SELECT" else 1, "int16": 1}
    register(
        Op(
            _name,
            _options,
            axes="selection" if _name == "SELECT" else "joined",
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
        is_mover=True,
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
        is_mover=True,
        same_scale=(0, 1),
        versions={"int8": 1, "int16": 4},
        relevant=of_moved,
    )
)
register(Op("CUMSUM", "CumsumOptions", axes="kept", same_scale=(0,)))
register(Op("WHERE", "WhereOptions", axes="kept"))


def _check_same(call: Call, *positions: int) -> None:
    """Raises where integers that become outputs as they are have other parameters than the output."""
    out = call.outputs[0].quant
    for position in positions:
        quant = call.input(position).quant
        if quant is not None and out is not None and (quant.scale, quant.zero_point) != (out.scale, out.zero_point):
            raise call.unsupported(f"input {position} with parameters other than the output's is not supported")


@kernel("SELECT", "bool")
def select(call: Call) -> tuple[np.ndarray, ...]:
    """One of two values, by a condition for each, or for each along the first axis."""
    _check_same(call, 1, 2)
    condition, x = call.array(0), call.array(1)
    if condition.ndim == 1 and x.ndim > 1:
        condition = condition.reshape(-1, *(1,) * (x.ndim - 1))
    return (np.where(condition, x, call.array(2)),)


@kernel("SELECT_V2", "bool")
def select_v2(call: Call) -> tuple[np.ndarray, ...]:
    """One of two values, by a condition; all three are broadcast."""
    _check_same(call, 1, 2)
    return (np.where(call.array(0), call.array(1), call.array(2)),)


@kernel("WHERE", "bool", "float32", "int8", "int32", "int64", "uint8")
def where(call: Call) -> tuple[np.ndarray, ...]:
    """Positions of true, or of values other than zero, one in a row."""
    return (np.argwhere(call.array(0)).astype(np.int64),)


@kernel("GATHER", "*")
def gather(call: Call) -> tuple[np.ndarray, ...]:
    """The entries of given positions along an axis; leading axes may be batches of both."""
    x, positions = call.array(0), call.array(1)
    axis, batches = call.attr_int("axis"), call.attr_int("batch_dims")
    axis, batches = axis % x.ndim, batches % (positions.ndim + 1) if batches < 0 else batches
    if batches == 0:
        return (np.take(x, positions, axis=axis),)
    flat_x, flat_p = x.reshape(-1, *x.shape[batches:]), positions.reshape(-1, *positions.shape[batches:])
    parts = [np.take(part, chosen, axis=axis - batches) for part, chosen in zip(flat_x, flat_p, strict=True)]
    return (np.stack(parts).reshape(*x.shape[:batches], *parts[0].shape),)


@kernel("GATHER_ND", "*")
def gather_nd(call: Call) -> tuple[np.ndarray, ...]:
    """The parts at given positions; the last axis of the positions counts axes of the input."""
    return (call.array(0)[tuple(np.moveaxis(call.array(1), -1, 0))],)


@kernel("TOPK_V2", "*")
def largest(call: Call) -> tuple[np.ndarray, ...]:
    """The largest values along the last axis, and their positions; of equal ones, the first."""
    x, count = call.array(0), call.integers(1)[0]
    if x.dtype == np.bool_ or not 0 <= count <= x.shape[-1]:
        raise call.unsupported(f"the {count} largest of {x.shape[-1]} values of {x.dtype} are not supported")
    # Turned around twice: a stable sort from the largest down that keeps the order of equal ones.
    positions = x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    positions = positions[..., :count]
    return np.take_along_axis(x, positions, axis=-1), positions.astype(call.outputs[1].dtype)


@kernel("DYNAMIC_UPDATE_SLICE", "*")
def dynamic_update_slice(call: Call) -> tuple[np.ndarray, ...]:
    """With a block replaced; its beginning is moved so that it fits."""
    _check_same(call, 0, 1)
    x, block = call.array(0).copy(), call.array(1)
    spans: list[slice] = []
    for begin, size, whole in zip(call.integers(2), block.shape, x.shape, strict=True):
        first = min(max(begin, 0), whole - size)
        spans.append(slice(first, first + size))
    x[tuple(spans)] = block
    return (x,)


@kernel("CUMSUM", "float32", "int32", "int64")
def cumulative_sum(call: Call) -> tuple[np.ndarray, ...]:
    """Sums of all values up to each one along an axis, without it where exclusive; integers wrap around.

    Raises:
        DataError: if the axis is not there.
    """
    x, axis = call.array(0), call.integers(1)[0]
    if not -x.ndim <= axis < x.ndim:
        raise DataError(f"{call.place}: axis {axis} is not there in rank {x.ndim}. The file is damaged.")
    x = np.moveaxis(x, axis, 0)
    x = x[::-1] if call.node.attrs.get("reverse") else x
    if call.node.attrs.get("exclusive"):
        x = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    sums = np.cumsum(x, axis=0, dtype=x.dtype)
    sums = sums[::-1] if call.node.attrs.get("reverse") else sums
    return (np.ascontiguousarray(np.moveaxis(sums, 0, axis)),)
