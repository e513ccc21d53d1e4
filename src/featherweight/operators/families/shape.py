"""Operators that move, repeat, join or cut data. Source: LiteRT op_version.cc and kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.operators.axes import AxesRule
from featherweight.operators.call import Call
from featherweight.operators.limits import refused_padding
from featherweight.operators.record import ALL_INPUTS, Op, kernel, register
from featherweight.operators.relevance import of_moved


def _mover(name: str, options: str, axes: AxesRule, int8: int, int16: int | None, **facts: Any) -> None:
    """Registers an operator that moves data, with the versions of its integer forms."""
    versions = {"int8": int8} | ({} if int16 is None else {"int16": int16})
    facts = {"same_scale": (0,)} | facts
    register(Op(name, options, axes=axes, is_mover=True, versions=versions, relevant=of_moved, **facts))


_mover("RESHAPE", "ReshapeOptions", "reshape", 1, 1, shape_operand=1, is_homogeneous=True, moves_data=True)
_mover("SQUEEZE", "SqueezeOptions", "squeeze", 1, 1, is_homogeneous=True, moves_data=True)
_mover("EXPAND_DIMS", "ExpandDimsOptions", "expand", 1, 1, moves_data=True)
_mover("TRANSPOSE", "TransposeOptions", "transpose", 2, 5, moves_data=True)
_mover("TILE", "TileOptions", "kept", 3, 3, moves_data=True)
_mover("BROADCAST_TO", "BroadcastToOptions", "kept", 3, 3, shape_operand=1, moves_data=True)
_mover("SPACE_TO_DEPTH", "SpaceToDepthOptions", "space_to_depth", 2, None, moves_data=True)
_mover("DEPTH_TO_SPACE", "DepthToSpaceOptions", "depth_to_space", 2, None, moves_data=True)
_mover("REVERSE_V2", "ReverseV2Options", "kept", 3, 3, moves_data=True)
_mover("MIRROR_PAD", "MirrorPadOptions", "mirror", 2, 3, moves_data=True)
_mover("PAD", "PadOptions", "pad", 2, 3, is_homogeneous=True, refused=refused_padding)
_mover("PADV2", "PadV2Options", "pad", 2, 3, same_scale=(0, 2), refused=refused_padding)
_mover("SLICE", "SliceOptions", "slice", 2, 4)
_mover("STRIDED_SLICE", "StridedSliceOptions", "strided_slice", 2, 4)
_mover("SPACE_TO_BATCH_ND", "SpaceToBatchNDOptions", "blocks", 2, 4)
_mover("BATCH_TO_SPACE_ND", "BatchToSpaceNDOptions", "blocks", 2, 4)
_mover("UNPACK", "UnpackOptions", "unpack", 2, 4)
_mover("SPLIT", "SplitOptions", "split", 2, 4, same_scale=(1,))
_mover("SPLIT_V", "SplitVOptions", "kept", 2, 1)
_mover("CONCATENATION", "ConcatenationOptions", "concatenation", 2, 3, same_scale=ALL_INPUTS)
_mover("PACK", "PackOptions", "pack", 2, 3, same_scale=ALL_INPUTS)


def _sized(call: Call, sizes: tuple[int, ...]) -> np.ndarray:
    """Returns the input in another shape; a first size for the file's own batch gives way to the batch that is fed."""
    x = call.array(0)
    fixed = call.input(0).shape
    known = 1
    for size in sizes:
        known *= size
    if -1 not in sizes and known != x.size and sizes and fixed and sizes[0] == fixed[0]:
        sizes = (-1, *sizes[1:])
    return x.reshape(sizes)


@kernel("RESHAPE", "*")
def reshape(call: Call) -> tuple[np.ndarray, ...]:
    """The same values in another shape."""
    given = call.integers(1) if len(call.arrays) > 1 and call.arrays[1] is not None else None
    return (_sized(call, tuple(int(n) for n in call.node.attrs.get("new_shape", ())) if given is None else given),)


@kernel("SQUEEZE", "*")
def squeeze(call: Call) -> tuple[np.ndarray, ...]:
    """Without the named axes of size 1, or without all of them."""
    axes = call.node.attrs.get("squeeze_dims")
    x = call.array(0)
    if axes is None or len(axes) == 0:
        return (np.squeeze(x),)
    return (np.squeeze(x, tuple(int(axis) for axis in axes)),)


@kernel("EXPAND_DIMS", "*")
def expand_dims(call: Call) -> tuple[np.ndarray, ...]:
    """With one more axis of size 1."""
    return (np.expand_dims(call.array(0), call.integers(1)[0]),)


@kernel("TRANSPOSE", "*")
def transpose(call: Call) -> tuple[np.ndarray, ...]:
    """With its axes in another order."""
    return (np.ascontiguousarray(call.array(0).transpose(call.integers(1))),)


@kernel("PAD", "*")
def pad(call: Call) -> tuple[np.ndarray, ...]:
    """With zeros around it: integers of the zero point."""
    quant = call.outputs[0].quant
    zero = quant.zero_point[0] if quant is not None and quant.zero_point else 0
    widths = [(int(before), int(after)) for before, after in call.array(1)]
    return (np.pad(call.array(0), widths, constant_values=zero),)


@kernel("PADV2", "*")
def pad_v2(call: Call) -> tuple[np.ndarray, ...]:
    """With a given value around it."""
    widths = [(int(before), int(after)) for before, after in call.array(1)]
    return (np.pad(call.array(0), widths, constant_values=call.array(2).reshape(-1)[0]),)


@kernel("CONCATENATION", "*")
def concatenation(call: Call) -> tuple[np.ndarray, ...]:
    """Tensors of one scale, one behind the other."""
    for position, tensor in enumerate(call.inputs):
        quant, out = call.input(position).quant, call.outputs[0].quant
        is_same = quant is None or out is None or (quant.scale, quant.zero_point) == (out.scale, out.zero_point)
        if tensor is not None and tensor.dtype in ("int8", "int16") and not is_same:
            raise call.unsupported(f"input {position} with parameters other than the output's is not supported")
    joined = np.concatenate([call.array(i) for i in range(len(call.arrays))], axis=call.attr_int("axis"))
    return (call.clamp(joined) if joined.dtype == np.float32 else joined,)


@kernel("PACK", "*")
def pack(call: Call) -> tuple[np.ndarray, ...]:
    """Tensors stacked along a new axis."""
    return (np.stack([call.array(i) for i in range(len(call.arrays))], axis=call.attr_int("axis")),)


@kernel("UNPACK", "*")
def unpack(call: Call) -> tuple[np.ndarray, ...]:
    """The parts along an axis, without it."""
    return tuple(np.ascontiguousarray(part) for part in np.moveaxis(call.array(0), call.attr_int("axis"), 0))


@kernel("SPLIT", "*")
def split(call: Call) -> tuple[np.ndarray, ...]:
    """Equal parts along an axis."""
    return tuple(np.split(call.array(1), len(call.outputs), axis=call.integers(0)[0]))


@kernel("SPLIT_V", "*")
def split_v(call: Call) -> tuple[np.ndarray, ...]:
    """Parts of given sizes along an axis; one of them may be -1, the rest."""
    x, sizes, axis = call.array(0), list(call.integers(1)), call.integers(2)[0]
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(sizes) - 1
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


@kernel("SLICE", "*")
def slice_part(call: Call) -> tuple[np.ndarray, ...]:
    """A block: begin and size along each axis, -1 for the rest."""
    spans = zip(call.integers(1), call.integers(2), strict=True)
    return (call.array(0)[tuple(slice(b, None if size == -1 else b + size) for b, size in spans)],)


@kernel("STRIDED_SLICE", "*")
def strided_slice(call: Call) -> tuple[np.ndarray, ...]:
    """A block with strides; bits of the masks open ends, add axes, or drop them."""
    masks = {name: call.attr_int(f"{name}_mask") for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    is_offset = bool(call.node.attrs.get("offset"))
    parts: list[Any] = []
    for index, (begin, end, stride) in enumerate(
        zip(call.integers(1), call.integers(2), call.integers(3), strict=True)
    ):
        bit = 1 << index
        if masks["ellipsis"] & bit:
            parts.append(Ellipsis)
        elif masks["new_axis"] & bit:
            parts.append(np.newaxis)
        elif masks["shrink_axis"] & bit:
            parts.append(0 if masks["begin"] & bit else begin)
        else:
            last = begin + end if is_offset else end
            parts.append(slice(None if masks["begin"] & bit else begin, None if masks["end"] & bit else last, stride))
    selected = call.array(0)[tuple(parts)]
    return (np.ascontiguousarray(selected),)


@kernel("DEPTH_TO_SPACE", "*")
def depth_to_space(call: Call) -> tuple[np.ndarray, ...]:
    """Blocks of channels as blocks of pixels."""
    x, block = call.array(0), call.attr_int("block_size")
    n, height, width, channels = x.shape
    parts = x.reshape(n, height, width, block, block, channels // block**2).transpose(0, 1, 3, 2, 4, 5)
    return (parts.reshape(n, height * block, width * block, channels // block**2),)


@kernel("SPACE_TO_DEPTH", "*")
def space_to_depth(call: Call) -> tuple[np.ndarray, ...]:
    """Blocks of pixels as blocks of channels."""
    x, block = call.array(0), call.attr_int("block_size")
    n, height, width, channels = x.shape
    parts = x.reshape(n, height // block, block, width // block, block, channels).transpose(0, 1, 3, 2, 4, 5)
    return (parts.reshape(n, height // block, width // block, channels * block**2),)


@kernel("TILE", "*")
def tile(call: Call) -> tuple[np.ndarray, ...]:
    """Repeated along each axis."""
    return (np.tile(call.array(0), call.integers(1)),)


@kernel("BROADCAST_TO", "*")
def broadcast_to(call: Call) -> tuple[np.ndarray, ...]:
    """Repeated along axes of size 1."""
    return (np.ascontiguousarray(np.broadcast_to(call.array(0), call.integers(1))),)


@kernel("REVERSE_V2", "*")
def reverse(call: Call) -> tuple[np.ndarray, ...]:
    """Turned around along given axes."""
    return (np.ascontiguousarray(np.flip(call.array(0), call.integers(1))),)


@kernel("MIRROR_PAD", "*")
def mirror_pad(call: Call) -> tuple[np.ndarray, ...]:
    """With its mirror image around it, without (mode 0) or with (mode 1) the values at the edge."""
    widths = [(int(before), int(after)) for before, after in call.array(1)]
    return (np.pad(call.array(0), widths, mode="symmetric" if call.attr_int("mode") else "reflect"),)


@kernel("SPACE_TO_BATCH_ND", "*")
def space_to_batch_nd(call: Call) -> tuple[np.ndarray, ...]:
    """Pixels of blocks as further images, after padding with zeros (the zero point)."""
    (high, wide), x = _two_blocks(call), call.array(0)
    quant = call.outputs[0].quant
    zero = quant.zero_point[0] if quant is not None and quant.zero_point else 0
    widths = [(0, 0), *((int(before), int(after)) for before, after in call.array(2)), (0, 0)]
    n, height, width, channels = (x := np.pad(x, widths, constant_values=zero)).shape
    parts = x.reshape(n, height // high, high, width // wide, wide, channels).transpose(2, 4, 0, 1, 3, 5)
    return (parts.reshape(n * high * wide, height // high, width // wide, channels),)


@kernel("BATCH_TO_SPACE_ND", "*")
def batch_to_space_nd(call: Call) -> tuple[np.ndarray, ...]:
    """Images as pixels of blocks, then cropped."""
    (high, wide), x = _two_blocks(call), call.array(0)
    n, height, width, channels = x.shape[0] // (high * wide), *x.shape[1:]
    parts = x.reshape(high, wide, n, height, width, channels).transpose(2, 3, 0, 4, 1, 5)
    joined = parts.reshape(n, height * high, width * wide, channels)
    (top, bottom), (left, right) = ((int(before), int(after)) for before, after in call.array(2))
    return (joined[:, top : height * high - bottom, left : width * wide - right],)


def _two_blocks(call: Call) -> tuple[int, int]:
    """Returns the sizes of a block of pixels."""
    sizes = call.integers(1)
    if len(sizes) != 2 or call.array(0).ndim != 4:
        raise call.unsupported(f"blocks of {len(sizes)} axes in rank {call.array(0).ndim} are not supported")
    return sizes[0], sizes[1]
