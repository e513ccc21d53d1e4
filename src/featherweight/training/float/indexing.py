"""Operators that cut out, pick or replace parts of data."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.operators.call import Array, is_static
from featherweight.training.graph.registry import Step, function, ops


@function("SLICE")
def slice_part(step: Step) -> tuple[Array, ...]:
    """A block: begin and size along each axis, -1 for the rest."""
    x, begins = step.array(0), step.array(1)
    sizes = step.integers(2)
    if is_static(begins):
        spans = zip((int(begin) for begin in begins), sizes, strict=True)
        return (x[tuple(slice(b, None if size == -1 else b + size) for b, size in spans)],)
    if -1 in sizes:
        raise step.unsupported("a computed begin with a size of -1 is not supported")
    return (ops.slice(x, begins, sizes),)


@function("STRIDED_SLICE")
def strided_slice(step: Step) -> tuple[Array, ...]:
    """A block with strides; bits of the masks open ends, add axes, or drop them."""
    masks = {name: step.attr_int(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    is_offset = bool(step.node.attrs.get("offset"))
    parts: list[Any] = []
    spans = zip(step.integers(1), step.integers(2), step.integers(3), strict=True)
    for index, (begin, end, stride) in enumerate(spans):
        bit = 1 << index
        if masks["ellipsis"] & bit:
            parts.append(Ellipsis)
        elif masks["new_axis"] & bit:
            parts.append(None)
        elif masks["shrink_axis"] & bit:
            parts.append(0 if masks["begin"] & bit else begin)
        else:
            last = begin + end if is_offset else end
            parts.append(slice(None if masks["begin"] & bit else begin, None if masks["end"] & bit else last, stride))
    return (_taken(step.array(0), parts),)


def _taken(x: Array, parts: list[Any]) -> Array:
    """Returns ``x[parts]``; torch takes no negative strides, so such axes are turned around first."""
    if is_static(x) or not any(isinstance(part, slice) and (part.step or 1) < 0 for part in parts):
        return x[tuple(parts)]
    if Ellipsis in parts or None in parts:
        return x[tuple(parts)]
    for axis, part in enumerate(parts):
        if isinstance(part, slice) and (part.step or 1) < 0:
            positions = np.arange(x.shape[axis])[part]
            x = ops.take(x, positions, axis=axis)
            parts = [*parts[:axis], slice(None), *parts[axis + 1 :]]
    return x[tuple(parts)]


@function("GATHER")
def gather(step: Step) -> tuple[Array, ...]:
    """The entries of given positions along an axis; leading axes may be batches of both."""
    x, positions = step.array(0), step.array(1)
    axis, batches = step.attr_int("axis"), step.attr_int("batch_dims")
    axis = axis % len(x.shape)
    batches = batches % (len(positions.shape) + 1) if batches < 0 else batches
    if batches == 0:
        return (step.xp.take(x, positions, axis=axis),)
    if batches != 1 or axis != 1 or len(positions.shape) != 2:
        raise step.unsupported(f"batch_dims {batches} with axis {axis} is not supported")
    rest = len(x.shape) - 2
    wide = step.xp.reshape(positions, (-1, positions.shape[1], *([1] * rest)))
    tiled = step.xp.broadcast_to(wide, (wide.shape[0] or -1, positions.shape[1], *x.shape[2:])) if rest else wide
    return (step.xp.take_along_axis(x, tiled, axis=1),)


@function("GATHER_ND")
def gather_nd(step: Step) -> tuple[Array, ...]:
    """The parts at given positions; the last axis of the positions counts axes of the input."""
    x, positions = step.array(0), step.array(1)
    depth = positions.shape[-1]
    sizes = x.shape[:depth]
    if None in sizes[1:]:
        raise step.unsupported("an input of unknown size is not supported")
    strides = [int(np.prod(sizes[axis + 1 :])) for axis in range(depth)]
    flat = sum(positions[..., axis] * stride for axis, stride in enumerate(strides))
    return (step.xp.take(step.xp.reshape(x, (-1, *x.shape[depth:])), flat, axis=0),)


@function("DYNAMIC_UPDATE_SLICE")
def dynamic_update_slice(step: Step) -> tuple[Array, ...]:
    """The first value with the second one put into it at given positions, moved inside where they are outside."""
    x, part, starts = step.array(0), step.array(1), step.array(2)
    limits = [size - width for size, width in zip(x.shape, part.shape, strict=True)]
    if not is_static(starts):
        inside = [ops.clip(starts[axis], 0, limit) for axis, limit in enumerate(limits)]
        return (ops.slice_update(x, ops.stack(inside), part),)
    starts = [int(np.clip(start, 0, limit)) for start, limit in zip(starts, limits, strict=True)]
    moved = [axis for axis, limit in enumerate(limits) if limit]
    if not moved:
        return (part,)
    if len(moved) > 1:
        return (ops.slice_update(x, starts, part),)
    axis = moved[0]
    before: list[Any] = [slice(None)] * len(limits)
    after = list(before)
    before[axis], after[axis] = slice(0, starts[axis]), slice(starts[axis] + part.shape[axis], None)
    return (step.xp.concatenate([x[tuple(before)], part, x[tuple(after)]], axis=axis),)


@function("TOPK_V2")
def top_k(step: Step) -> tuple[Array, ...]:
    """The largest values along the last axis, and their positions."""
    values, positions = ops.top_k(step.array(0), step.integers(1)[0], sorted=True)
    return values, positions


@function("ONE_HOT")
def one_hot(step: Step) -> tuple[Array, ...]:
    """1 (or a given value) where a new axis counts to the number, 0 (or a given value) elsewhere."""
    depth, axis = step.integers(1)[0], step.attr_int("axis", -1)
    marks = ops.one_hot(step.array(0), depth, axis=axis, dtype=step.dtype)
    high, low = step.array(2), step.array(3)
    return (ops.where(marks > 0, high, low),)
