"""Operators that reshape, repeat, join or turn data, and the arithmetic of shapes."""

from __future__ import annotations

import numpy as np

from featherweight.operators.call import Array, is_static
from featherweight.training.graph.registry import Step, function, ops


@function("RESHAPE")
def reshape(step: Step) -> tuple[Array, ...]:
    """The same values in another shape."""
    given = step.optional(1)
    if given is not None and not is_static(given):
        return (ops.reshape(step.array(0), given),)
    sizes = step.node.attrs.get("new_shape", ()) if given is None else given.reshape(-1)
    x = step.array(0)
    wanted = at_batch(step, tuple(int(size) for size in sizes))
    return ((np if is_static(x) else ops).reshape(x, wanted),)


def at_batch(step: Step, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns sizes for the input's values; a first size that is the file's own batch gives way to the one fed."""
    x, tensor = step.array(0), step.inputs[0]
    found = tuple(x.shape)
    if -1 in sizes or not sizes or tensor is None or not tensor.shape or found == tensor.shape:
        return sizes
    if None in found or int(np.prod(found)) != int(np.prod(sizes)):
        return (-1, *sizes[1:]) if sizes[0] == tensor.shape[0] else sizes
    return sizes


@function("SQUEEZE")
def squeeze(step: Step) -> tuple[Array, ...]:
    """Without the named axes of size 1, or without all of them."""
    x, tensor = step.array(0), step.inputs[0]
    named = [int(axis) for axis in step.node.attrs.get("squeeze_dims") or ()]
    sizes = x.shape if tensor is None else tensor.shape
    axes = [axis % len(x.shape) for axis in named] or [axis for axis, size in enumerate(sizes) if size == 1]
    return (step.xp.squeeze(x, tuple(axes)) if axes else x,)


@function("EXPAND_DIMS")
def expand_dims(step: Step) -> tuple[Array, ...]:
    """With one more axis of size 1."""
    x = step.array(0)
    return ((np if is_static(x) else ops).expand_dims(x, step.integers(1)[0]),)


@function("TRANSPOSE")
def transpose(step: Step) -> tuple[Array, ...]:
    """With its axes in another order."""
    x = step.array(0)
    return ((np if is_static(x) else ops).transpose(x, step.integers(1)),)


@function("REVERSE_V2")
def reverse(step: Step) -> tuple[Array, ...]:
    """Turned around along given axes."""
    x = step.array(0)
    return ((np if is_static(x) else ops).flip(x, step.integers(1)),)


@function("CONCATENATION")
def concatenation(step: Step) -> tuple[Array, ...]:
    """Tensors one behind the other."""
    parts = [step.array(position) for position in range(len(step.arrays))]
    joined = step.xp.concatenate(parts, axis=step.attr_int("axis"))
    return (step.clamp(joined),)


@function("PACK")
def pack(step: Step) -> tuple[Array, ...]:
    """Tensors stacked along a new axis."""
    parts = [step.array(position) for position in range(len(step.arrays))]
    return (step.xp.stack(parts, axis=step.attr_int("axis")),)


@function("UNPACK")
def unpack(step: Step) -> tuple[Array, ...]:
    """The parts along an axis, without it."""
    x, axis = step.array(0), step.attr_int("axis")
    if is_static(x):
        return tuple(np.moveaxis(x, axis, 0))
    return tuple(ops.unstack(x, len(step.outputs), axis=axis))


@function("SPLIT")
def split(step: Step) -> tuple[Array, ...]:
    """Equal parts along an axis."""
    x = step.array(1)
    return tuple((np if is_static(x) else ops).split(x, len(step.outputs), axis=step.integers(0)[0]))


@function("SPLIT_V")
def split_v(step: Step) -> tuple[Array, ...]:
    """Parts of given sizes along an axis; one of them may be -1, the rest."""
    x, sizes, axis = step.array(0), list(step.integers(1)), step.integers(2)[0]
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(sizes) - 1
    ends = [int(end) for end in np.cumsum(sizes)[:-1]]
    return tuple((np if is_static(x) else ops).split(x, ends, axis=axis))


@function("PAD", "PADV2")
def pad(step: Step) -> tuple[Array, ...]:
    """With zeros, or a given value, around it."""
    x, value, xp = step.array(0), step.optional(2), step.xp
    widths = [(int(before), int(after)) for before, after in step.static(1)]
    padded = xp.pad(x, widths, mode="constant", constant_values=0)
    if value is None:
        return (padded,)
    inside = np.ones([size if any(width) else 1 for size, width in zip(x.shape, widths, strict=True)], bool)
    return (xp.where(np.pad(inside, widths), padded, xp.reshape(value, ())),)


@function("MIRROR_PAD")
def mirror_pad(step: Step) -> tuple[Array, ...]:
    """With its mirror image around it, without (mode 0) or with (mode 1) the values at the edge."""
    x, mode = step.array(0), "symmetric" if str(step.node.attrs.get("mode", 0)) in ("1", "SYMMETRIC") else "reflect"
    for axis, (before, after) in enumerate(step.static(1)):
        if before or after:
            # Picked one by one: Keras's own symmetric padding repeats the edge on torch.
            positions = np.pad(np.arange(x.shape[axis]), (int(before), int(after)), mode=mode)
            x = (np if is_static(x) else ops).take(x, positions, axis=axis)
    return (x,)


@function("TILE")
def tile(step: Step) -> tuple[Array, ...]:
    """Repeated along each axis."""
    x = step.array(0)
    return ((np if is_static(x) else ops).tile(x, step.integers(1)),)


@function("BROADCAST_TO")
def broadcast_to(step: Step) -> tuple[Array, ...]:
    """Repeated along axes of size 1."""
    x, sizes = step.array(0), step.array(1)
    if is_static(sizes):
        sizes = tuple(int(size) for size in sizes)
    return ((np if is_static(x) and isinstance(sizes, tuple) else ops).broadcast_to(x, sizes),)


@function("FILL")
def fill(step: Step) -> tuple[Array, ...]:
    """A value repeated to a shape."""
    return (step.xp.broadcast_to(step.array(1), step.integers(0)),)


@function("ZEROS_LIKE")
def zeros_like(step: Step) -> tuple[Array, ...]:
    """Zeros of the same shape."""
    return (step.xp.zeros_like(step.array(0)),)


@function("SHAPE")
def shape(step: Step) -> tuple[Array, ...]:
    """The sizes of the input: static wherever the backend knows them."""
    sizes = ops.shape(step.array(0))
    if all(isinstance(size, int) for size in sizes):
        return (np.asarray(sizes, step.outputs[0].dtype),)
    return (ops.stack([ops.convert_to_tensor(size, dtype=step.outputs[0].dtype) for size in sizes]),)


@function("RANK")
def rank(step: Step) -> tuple[Array, ...]:
    """The number of axes."""
    return (np.asarray(len(step.array(0).shape), step.outputs[0].dtype),)


@function("RANGE")
def number_range(step: Step) -> tuple[Array, ...]:
    """Numbers from a first one up to a limit, in steps."""
    first, limit, delta = (step.static(position).item() for position in range(3))
    return (np.arange(first, limit, delta, dtype=step.outputs[0].dtype),)


@function("DEPTH_TO_SPACE")
def depth_to_space(step: Step) -> tuple[Array, ...]:
    """Blocks of channels as blocks of pixels."""
    x, block = step.array(0), step.attr_int("block_size")
    height, width, channels = x.shape[1:]
    parts = ops.reshape(x, (-1, height, width, block, block, channels // block**2))
    turned = ops.transpose(parts, (0, 1, 3, 2, 4, 5))
    return (ops.reshape(turned, (-1, height * block, width * block, channels // block**2)),)


@function("SPACE_TO_DEPTH")
def space_to_depth(step: Step) -> tuple[Array, ...]:
    """Blocks of pixels as blocks of channels."""
    x, block = step.array(0), step.attr_int("block_size")
    height, width, channels = x.shape[1:]
    parts = ops.reshape(x, (-1, height // block, block, width // block, block, channels))
    turned = ops.transpose(parts, (0, 1, 3, 2, 4, 5))
    return (ops.reshape(turned, (-1, height // block, width // block, channels * block**2)),)


@function("SPACE_TO_BATCH_ND")
def space_to_batch_nd(step: Step) -> tuple[Array, ...]:
    """Pixels of blocks as further images, after padding with zeros."""
    (high, wide), x = _two_blocks(step), step.array(0)
    around = [(int(before), int(after)) for before, after in step.static(2)]
    x = ops.pad(x, [(0, 0), *around, (0, 0)])
    height, width, channels = x.shape[1:]
    parts = ops.reshape(x, (-1, height // high, high, width // wide, wide, channels))
    turned = ops.transpose(parts, (2, 4, 0, 1, 3, 5))
    return (ops.reshape(turned, (-1, height // high, width // wide, channels)),)


@function("BATCH_TO_SPACE_ND")
def batch_to_space_nd(step: Step) -> tuple[Array, ...]:
    """Images as pixels of blocks, then cropped."""
    (high, wide), x = _two_blocks(step), step.array(0)
    height, width, channels = x.shape[1:]
    turned = ops.transpose(ops.reshape(x, (high, wide, -1, height, width, channels)), (2, 3, 0, 4, 1, 5))
    joined = ops.reshape(turned, (-1, height * high, width * wide, channels))
    (top, bottom), (left, right) = ((int(before), int(after)) for before, after in step.static(2))
    return (joined[:, top : height * high - bottom, left : width * wide - right],)


def _two_blocks(step: Step) -> tuple[int, int]:
    sizes = step.integers(1)
    if len(sizes) != 2 or len(step.array(0).shape) != 4:
        raise step.unsupported(f"blocks of {len(sizes)} axes in rank {len(step.array(0).shape)} are not supported")
    return sizes[0], sizes[1]
