"""Sums, means, products and extremes over axes.

Sources: LiteRT reduce.cc, reference and optimized reduce.h, integer_ops/mean.h; XNNPACK's reductions.
"""

from __future__ import annotations

import math

import numpy as np

from featherweight.graph.numerics import round_half_away
from featherweight.operators.call import Array, Call
from featherweight.operators.fixed_point import divided, quantize_multiplier, rescale_short, truncated
from featherweight.operators.limits import refused_factors, refused_mean, refused_total
from featherweight.operators.record import Op, definition, kernel, placed, register
from featherweight.operators.relevance import of_largest, of_smallest
from featherweight.operators.scratch import for_axes, for_sums

for _name, _relevant in (("REDUCE_MAX", of_largest), ("REDUCE_MIN", of_smallest)):
    register(
        Op(
            _name,
            "ReducerOptions",
            axes="reduction",
            indices=(1,),
            picks=True,
            same_scale=(0,),
            versions={"int8": 2, "int16": 3},
            relevant=_relevant,
            scratch=for_axes,
        )
    )
for _name, _int16 in (("MEAN", 3), ("SUM", 2)):
    _versions = {"int8": 2, "int16": _int16}
    register(
        Op(
            _name,
            "ReducerOptions",
            axes="reduction",
            indices=(1,),
            channels_first=True,
            is_homogeneous=_name == "MEAN",
            versions=_versions,
            delegated=lambda call: call.input(0).dtype != "int16",
            refused=refused_mean if _name == "MEAN" else refused_total,
            scratch=for_sums,
        )
    )
register(Op("REDUCE_PROD", "ReducerOptions", axes="reduction", indices=(1,), refused=refused_factors))
for _name in ("REDUCE_ANY", "REDUCE_ALL"):
    register(Op(_name, "ReducerOptions", axes="decision", indices=(1,), scratch=for_axes))
for _name, _options in (("ARG_MAX", "ArgMaxOptions"), ("ARG_MIN", "ArgMinOptions")):
    register(Op(_name, _options, axes="decision", indices=(1,), picks=True, versions={"int8": 2}))


def axes_of(call: Call) -> tuple[int, ...]:
    """Returns the axes to reduce, counted from the front."""
    rank = max(len(call.array(0).shape), 1)
    return tuple(dict.fromkeys(axis % rank for axis in call.integers(1)))


def _reduced(call: Call) -> tuple[Array, tuple[int, ...], bool]:
    """Returns x, the axes to reduce, and whether they stay as size 1."""
    return call.array(0), axes_of(call), bool(call.node.attrs.get("keep_dims"))


@kernel("MEAN", "int8", "int16")
def mean(call: Call) -> tuple[np.ndarray, ...]:
    """Mean over axes: an integer sum, then one rescale into which 1 / count is folded."""
    x, axes, keep = _reduced(call)
    in_scale, in_zero = call.affine(call.input(0))
    out_scale, _ = call.affine(call.outputs[0])
    count = math.prod(x.shape[axis] for axis in axes)
    raw = np.asarray(x.sum(axis=axes, dtype=np.int64, keepdims=keep))
    sums = raw - count * in_zero
    call.check_accumulator(sums, 32)
    call = placed(call)
    if call.profile.is_delegate:
        return (_delegated(call, raw, count, (in_scale / out_scale) / np.float32(count)),)
    if call.profile.is_vectorized and keep and set(axes) == {1, 2} and x.ndim == 4 and x.dtype == np.int8:
        return (_image_mean(call, raw, count),)
    if call.profile.only_shifts:
        return (call.finish(call.rescaled(divided(sums, np.asarray(count)), np.float64(in_scale / out_scale))),)
    multiplier, shift = call.multiplier(np.float64(in_scale) / np.float64(out_scale))
    # reduce.cc: as many bits as the count has are shifted in before the multiplier is divided by the count.
    bits = min(count.bit_length() - 1, 32, 31 + int(shift))
    folded = np.asarray((int(multiplier) << bits) // count, np.int64)
    return (call.finish(call.profile.rescale(sums, folded, shift - bits)),)


def _delegated(call: Call, sums: np.ndarray, count: int, scale: np.float32) -> np.ndarray:
    """XNNPACK's sums and means: both zero points are folded into one float32 number, then rounded half to even."""
    in_zero, out_zero = call.affine(call.input(0))[1], call.affine(call.outputs[0])[1]
    offset = np.float32(-count * in_zero) * scale + np.float32(out_zero)
    return np.clip(np.rint(sums.astype(np.float32) * scale + offset), -128, 127).astype(np.int8)


def _image_mean(call: Call, sums: np.ndarray, count: int) -> np.ndarray:
    """LiteRT's optimized mean over (height, width): zero points folded into one offset (integer_ops/mean.h)."""
    (in_scale, in_zero), (out_scale, out_zero) = call.affine(call.input(0)), call.affine(call.outputs[0])
    offset = out_zero - int(round_half_away(np.asarray(np.float32(in_zero) * in_scale / out_scale)))
    factor = in_scale / (np.float32(count) * out_scale)
    return np.clip(call.rescaled(sums, np.float64(factor)) + offset, -128, 127).astype(np.int8)


@kernel("SUM", "int8", "int16")
def total(call: Call) -> tuple[np.ndarray, ...]:
    """Sum over axes: an integer sum, rescaled in float32; in fixed point by chips and TFLite Micro.

    Raises:
        UnsupportedOp: in the arithmetic of LiteRT's reference kernels, which read the integers as uint8.
    """
    x, axes, keep = _reduced(call)
    (in_scale, in_zero), (out_scale, _) = call.affine(call.input(0)), call.affine(call.outputs[0])
    sums, count = np.asarray(x.sum(axis=axes, dtype=np.int64, keepdims=keep)), math.prod(x.shape[a] for a in axes)
    call.check_accumulator(sums - count * in_zero, 32)
    call = placed(call)
    if call.profile.is_delegate:
        return (_delegated(call, sums, count, in_scale / out_scale),)
    if call.profile.is_micro or not call.profile.is_litert:
        factor = np.float64(in_scale) / np.float64(out_scale)
        return (call.finish(call.rescaled(sums - count * in_zero, factor)),)
    if call.profile.is_reference:
        raise call.unsupported(
            f"sums of {call.input(0).dtype} in profile '{call.profile.name}' are not supported (LiteRT's reference "
            "kernel reads the integers as uint8, and gives garbage; supported: profiles 'tflite_opt', 'xnnpack' and "
            "'tflm')"
        )
    scale = in_scale / out_scale
    bias = np.float32(-in_zero) * scale * np.float32(count)
    return (call.finish(truncated(round_half_away(sums.astype(np.float32) * scale + bias))),)


@kernel("REDUCE_PROD", "int8", "int16")
def product(call: Call) -> tuple[np.ndarray, ...]:
    """Product over axes, one factor after another, each rescaled by in_scale / out_scale**(1 / count)."""
    x, axes, keep = _reduced(call)
    (in_scale, in_zero), (out_scale, _) = call.affine(call.input(0)), call.affine(call.outputs[0])
    factors = _in_front(x.astype(np.int64) - in_zero, axes)
    root = math.pow(float(out_scale), 1.0 / factors.shape[0])
    scaling = quantize_multiplier(float(in_scale) / root)
    values = factors[0]
    for factor in factors[1:]:
        values = rescale_short(values * factor, *scaling).astype(np.int32).astype(np.int64)
    values = call.finish(rescale_short(values, *scaling))
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)] if keep else values.shape
    return (values.reshape(shape),)


def _in_front(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Returns x with the axes to reduce as one, the first, in the order of memory."""
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    moved = x.transpose(*sorted(axes), *rest)
    return moved.reshape(-1, *(x.shape[axis] for axis in rest))


def _reduction(op: str, function: str, *dtypes: str) -> None:
    def reduced(call: Call) -> tuple[Array, ...]:
        x, axes, keep = _reduced(call)
        return (getattr(call.xp, function)(x, axis=axes, keepdims=keep),)

    reduced.__doc__ = f"{function} over axes; integers wrap around."
    definition(op, *dtypes)(reduced)


_reduction("MEAN", "mean", "float32", "int32", "int64")
_reduction("SUM", "sum", "float32", "int32", "int64")
_reduction("REDUCE_PROD", "prod", "float32", "int32", "int64")
_reduction("REDUCE_ANY", "any", "bool")
_reduction("REDUCE_ALL", "all", "bool")
_reduction("REDUCE_MAX", "max", "int8", "int16", "int32", "int64", "float32")
_reduction("REDUCE_MIN", "min", "int8", "int16", "int32", "int64", "float32")


def _position(op: str, function: str) -> None:
    def found(call: Call) -> tuple[Array, ...]:
        return (call.counted(getattr(call.xp, function)(call.array(0), axis=call.integers(1)[0])),)

    found.__doc__ = f"{function} along an axis; of equal values, the first."
    definition(op, "int8", "int32", "float32", "bool")(found)


_position("ARG_MAX", "argmax")
_position("ARG_MIN", "argmin")
