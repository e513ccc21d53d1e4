"""Operators that move, repeat, join or cut data. Source: LiteRT op_version.cc and kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from featherweight.operators.axes import AxesRule
from featherweight.operators.call import Array, Call, is_static
from featherweight.operators.limits import refused_padding
from featherweight.operators.record import ALL_INPUTS, Op, definition, register
from featherweight.operators.relevance import of_moved
from featherweight.operators.scratch import for_mirror


def _mover(name: str, options: str, axes: AxesRule, int8: int, int16: int | None, **facts: Any) -> None:
    """Registers an operator that moves data, with the versions of its integer forms."""
    versions = {"int8": int8} | ({} if int16 is None else {"int16": int16})
    facts = {"same_scale": (0,)} | facts
    register(Op(name, options, axes=axes, is_mover=True, versions=versions, relevant=of_moved, **facts))


_mover(
    "RESHAPE", "ReshapeOptions", "reshape", 1, 1, shape_operand=1, is_homogeneous=True, moves_data=True, indices=(1,)
)
_mover("SQUEEZE", "SqueezeOptions", "squeeze", 1, 1, is_homogeneous=True, moves_data=True)
_mover("EXPAND_DIMS", "ExpandDimsOptions", "expand", 1, 1, moves_data=True, indices=(1,))
_mover("TRANSPOSE", "TransposeOptions", "transpose", 2, 5, moves_data=True, indices=(1,))
_mover("TILE", "TileOptions", "kept", 3, 3, moves_data=True, indices=(1,))
_mover("BROADCAST_TO", "BroadcastToOptions", "kept", 3, 3, shape_operand=1, moves_data=True, indices=(1,))
_mover("SPACE_TO_DEPTH", "SpaceToDepthOptions", "space_to_depth", 2, None, moves_data=True)
_mover("DEPTH_TO_SPACE", "DepthToSpaceOptions", "depth_to_space", 2, None, moves_data=True)
_mover("REVERSE_V2", "ReverseV2Options", "kept", 3, 3, moves_data=True, indices=(1,))
_mover("MIRROR_PAD", "MirrorPadOptions", "mirror", 2, 3, moves_data=True, indices=(1,), scratch=for_mirror)
_mover("PAD", "PadOptions", "pad", 2, 3, is_homogeneous=True, refused=refused_padding, indices=(1,))
_mover("PADV2", "PadV2Options", "pad", 2, 3, same_scale=(0, 2), refused=refused_padding, indices=(1,))
_mover("SLICE", "SliceOptions", "slice", 2, 4, indices=(1, 2))
_mover("STRIDED_SLICE", "StridedSliceOptions", "strided_slice", 2, 4, indices=(1, 2, 3))
_mover("SPACE_TO_BATCH_ND", "SpaceToBatchNDOptions", "blocks", 2, 4, indices=(1, 2))
_mover("BATCH_TO_SPACE_ND", "BatchToSpaceNDOptions", "blocks", 2, 4, indices=(1, 2))
_mover("UNPACK", "UnpackOptions", "unpack", 2, 4)
_mover("SPLIT", "SplitOptions", "split", 2, 4, same_scale=(1,), indices=(0,))
_mover("SPLIT_V", "SplitVOptions", "kept", 2, 1, indices=(1, 2))
_mover("CONCATENATION", "ConcatenationOptions", "concatenation", 2, 3, same_scale=ALL_INPUTS)
_mover("PACK", "PackOptions", "pack", 2, 3, same_scale=ALL_INPUTS)


def at_batch(call: Call, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns sizes for the first input's values: a first size that is the file's own batch gives way to the one fed.

    In a Keras model, the batch may be unknown.
    """
    found, fixed = tuple(call.array(0).shape), call.input(0).shape
    if -1 in sizes or not sizes or not fixed or found == fixed:
        return sizes
    is_other = None in found or math.prod(found) != math.prod(sizes)
    return (-1, *sizes[1:]) if is_other and sizes[0] == fixed[0] else sizes


@definition("RESHAPE", "*")
def reshape(call: Call) -> tuple[Array, ...]:
    """The same values in another shape."""
    given = call.optional(1)
    if given is None:
        given = np.asarray(call.node.attrs.get("new_shape", ()))
    sizes = at_batch(call, tuple(int(size) for size in given.reshape(-1))) if is_static(given) else given
    return (call.xp.reshape(call.array(0), sizes),)


@definition("SQUEEZE", "*")
def squeeze(call: Call) -> tuple[Array, ...]:
    """Without the named axes of size 1, or without all of them."""
    x = call.array(0)
    axes = [int(axis) % len(x.shape) for axis in call.node.attrs.get("squeeze_dims") or ()]
    if not axes:  # sizes that are unknown are the file's
        known = zip(x.shape, call.input(0).shape, strict=True)
        axes = [axis for axis, (found, fixed) in enumerate(known) if (fixed if found is None else found) == 1]
    return (call.xp.squeeze(x, tuple(axes)) if axes else x,)


@definition("EXPAND_DIMS", "*")
def expand_dims(call: Call) -> tuple[Array, ...]:
    """With one more axis of size 1."""
    return (call.xp.expand_dims(call.array(0), call.integers(1)[0]),)


@definition("TRANSPOSE", "*")
def transpose(call: Call) -> tuple[Array, ...]:
    """With its axes in another order."""
    return (call.xp.transpose(call.array(0), call.integers(1)),)


@definition("PAD", "*")
def pad(call: Call) -> tuple[Array, ...]:
    """With zeros around it."""
    return (_padded(call, _pairs(call.static(1))),)


@definition("PADV2", "*")
def pad_v2(call: Call) -> tuple[Array, ...]:
    """With a given value around it, which may be computed."""
    x, widths = call.array(0), _pairs(call.static(1))
    inside = np.ones([size if any(width) else 1 for size, width in zip(x.shape, widths, strict=True)], bool)
    value = call.xp.reshape(call.array(2), ())
    return (call.xp.where(np.pad(inside, widths), _padded(call, widths), value),)


def _pairs(widths: np.ndarray) -> list[tuple[int, int]]:
    return [(int(before), int(after)) for before, after in widths]


def _padded(call: Call, widths: list[tuple[int, int]]) -> Array:
    return call.xp.pad(call.array(0), widths, mode="constant", constant_values=call.fill)


@definition("MIRROR_PAD", "*")
def mirror_pad(call: Call) -> tuple[Array, ...]:
    """With its mirror image around it, without (mode 0) or with (mode 1) the values at the edge."""
    x, mode = call.array(0), "symmetric" if str(call.node.attrs.get("mode", 0)) in ("1", "SYMMETRIC") else "reflect"
    for axis, width in enumerate(_pairs(call.static(1))):
        if any(width):
            # Picked one by one: Keras's own symmetric padding repeats the edge on torch.
            x = call.xp.take(x, np.pad(np.arange(x.shape[axis]), width, mode=mode), axis=axis)
    return (x,)


@definition("CONCATENATION", "*")
def concatenation(call: Call) -> tuple[Array, ...]:
    """Tensors of one scale, one behind the other."""
    call.check_same(*range(len(call.arrays)))
    parts = [call.array(position) for position in range(len(call.arrays))]
    joined = call.xp.concatenate(parts, axis=call.attr_int("axis"))
    return (call.clamp(joined) if call.outputs[0].is_float else joined,)


@definition("PACK", "*")
def pack(call: Call) -> tuple[Array, ...]:
    """Tensors stacked along a new axis."""
    parts = [call.array(position) for position in range(len(call.arrays))]
    return (call.xp.stack(parts, axis=call.attr_int("axis")),)


@definition("UNPACK", "*")
def unpack(call: Call) -> tuple[Array, ...]:
    """The parts along an axis, without it."""
    return tuple(call.xp.unstack(call.array(0), len(call.outputs), axis=call.attr_int("axis")))


@definition("SPLIT", "*")
def split(call: Call) -> tuple[Array, ...]:
    """Equal parts along an axis."""
    return tuple(call.xp.split(call.array(1), len(call.outputs), axis=call.integers(0)[0]))


@definition("SPLIT_V", "*")
def split_v(call: Call) -> tuple[Array, ...]:
    """Parts of given sizes along an axis; one of them may be -1, the rest."""
    x, sizes, axis = call.array(0), list(call.integers(1)), call.integers(2)[0]
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(sizes) - 1
    return tuple(call.xp.split(x, [int(end) for end in np.cumsum(sizes)[:-1]], axis=axis))


@definition("SLICE", "*")
def slice_part(call: Call) -> tuple[Array, ...]:
    """A block: begin and size along each axis, -1 for the rest."""
    x, begins, sizes = call.array(0), call.array(1), call.integers(2)
    if is_static(begins):
        spans = zip((int(begin) for begin in begins), sizes, strict=True)
        return (x[tuple(slice(b, None if size == -1 else b + size) for b, size in spans)],)
    if -1 in sizes:
        raise call.unsupported("a computed begin with a size of -1 is not supported")
    return (call.xp.slice(x, begins, sizes),)


@definition("STRIDED_SLICE", "*")
def strided_slice(call: Call) -> tuple[Array, ...]:
    """A block with strides; bits of the masks open ends, add axes, or drop them."""
    masks = {name: call.attr_int(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    is_offset = bool(call.node.attrs.get("offset"))
    parts: list[Any] = []
    spans = zip(call.integers(1), call.integers(2), call.integers(3), strict=True)
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
    return (_taken(call, parts),)


def _taken(call: Call, parts: list[Any]) -> Array:
    """Returns the input's ``[parts]``; torch takes no negative strides, so such axes are turned around first."""
    x = call.array(0)
    if not is_static(x) and Ellipsis not in parts and None not in parts:
        for axis, part in enumerate(parts):
            if isinstance(part, slice) and (part.step or 1) < 0:
                x = call.xp.take(x, np.arange(x.shape[axis])[part], axis=axis)
                parts = [*parts[:axis], slice(None), *parts[axis + 1 :]]
    return x[tuple(parts)]


@definition("TILE", "*")
def tile(call: Call) -> tuple[Array, ...]:
    """Repeated along each axis."""
    return (call.xp.tile(call.array(0), call.integers(1)),)


@definition("BROADCAST_TO", "*")
def broadcast_to(call: Call) -> tuple[Array, ...]:
    """Repeated along axes of size 1."""
    sizes = call.array(1)
    return (call.xp.broadcast_to(call.array(0), call.integers(1) if is_static(sizes) else sizes),)


@definition("REVERSE_V2", "*")
def reverse(call: Call) -> tuple[Array, ...]:
    """Turned around along given axes."""
    return (call.xp.flip(call.array(0), call.integers(1)),)


@definition("DEPTH_TO_SPACE", "*")
def depth_to_space(call: Call) -> tuple[Array, ...]:
    """Blocks of channels as blocks of pixels."""
    (_, height, width, channels), block = call.array(0).shape, call.attr_int("block_size")
    depth = channels // block**2
    blocks, sizes = (-1, height, width, block, block, depth), (-1, height * block, width * block, depth)
    return (_turned(call, call.array(0), blocks, (0, 1, 3, 2, 4, 5), sizes),)


@definition("SPACE_TO_DEPTH", "*")
def space_to_depth(call: Call) -> tuple[Array, ...]:
    """Blocks of pixels as blocks of channels."""
    (_, height, width, channels), block = call.array(0).shape, call.attr_int("block_size")
    blocks = (-1, height // block, block, width // block, block, channels)
    sizes = (-1, height // block, width // block, channels * block**2)
    return (_turned(call, call.array(0), blocks, (0, 1, 3, 2, 4, 5), sizes),)


@definition("SPACE_TO_BATCH_ND", "*")
def space_to_batch_nd(call: Call) -> tuple[Array, ...]:
    """Pixels of blocks as further images, after padding with zeros."""
    high, wide = _two_blocks(call)
    x = _padded(call, [(0, 0), *_pairs(call.static(2)), (0, 0)])
    _, height, width, channels = x.shape
    blocks = (-1, height // high, high, width // wide, wide, channels)
    sizes = (-1, height // high, width // wide, channels)
    return (_turned(call, x, blocks, (2, 4, 0, 1, 3, 5), sizes),)


@definition("BATCH_TO_SPACE_ND", "*")
def batch_to_space_nd(call: Call) -> tuple[Array, ...]:
    """Images as pixels of blocks, then cropped."""
    (high, wide), x = _two_blocks(call), call.array(0)
    _, height, width, channels = x.shape
    blocks, sizes = (high, wide, -1, height, width, channels), (-1, height * high, width * wide, channels)
    joined = _turned(call, x, blocks, (2, 3, 0, 4, 1, 5), sizes)
    (top, bottom), (left, right) = _pairs(call.static(2))
    return (joined[:, top : sizes[1] - bottom, left : sizes[2] - right],)


def _turned(call: Call, x: Array, blocks: tuple[int, ...], order: tuple[int, ...], sizes: tuple[int, ...]) -> Array:
    """Returns x in a shape of blocks, its axes in another order, in a shape of images."""
    return call.xp.reshape(call.xp.transpose(call.xp.reshape(x, blocks), order), sizes)


def _two_blocks(call: Call) -> tuple[int, int]:
    """Returns the sizes of a block of pixels."""
    sizes, rank = call.integers(1), len(call.array(0).shape)
    if len(sizes) != 2 or rank != 4:
        raise call.unsupported(f"blocks of {len(sizes)} axes in rank {rank} are not supported")
    return sizes[0], sizes[1]
