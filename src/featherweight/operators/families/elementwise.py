"""Sums, products and extremes of two tensors. Sources: LiteRT op_version.cc, add.cc, sub.cc, mul.cc; XNNPACK."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.fixed_point import binary_exponent, quantize_multiplier, rescale_once, rounding_shift
from featherweight.operators.limits import refused_product, refused_squared_difference, refused_sum
from featherweight.operators.record import Op, kernel, placed, register
from featherweight.operators.relevance import of_difference, of_larger, of_product, of_smaller, of_sum


def _scales(call: Call) -> tuple[np.float32, np.float32, np.float32]:
    """Returns the scales of both inputs and of the output."""
    x, z, out = (call.affine(tensor)[0] for tensor in (call.input(0), call.input(1), call.outputs[0]))
    return x, z, out


def _delegate_takes_sum(call: Call) -> bool:
    x, z, out = _scales(call)
    ratios = (x / out, z / out)
    return call.input(0).dtype == "int8" and _has_few_axes(call) and all(2.0**-10 <= r < 2.0**8 for r in ratios)


def _delegate_takes_product(call: Call) -> bool:
    x, z, out = _scales(call)
    return call.input(0).dtype == "int8" and _has_few_axes(call) and bool(2.0**-16 <= (x * z) / out < 2.0**8)


def _has_few_axes(call: Call) -> bool:
    """True for as many as XNNPACK takes."""
    return all(len(call.input(position).shape) <= 6 for position in (0, 1))


# A result finer than this beside its operands holds nothing but their rounding; the kernels reach little further.
_FINEST = {"int8": 2.0**-7, "int16": 2.0**-13}


def _finest_sum(dtype: str, largest: float) -> float:
    return largest * _FINEST[dtype]


def _finest_square(dtype: str, largest: float) -> float:
    return largest * largest * 2.0**-11


def _refused_sum(call: Call) -> str | None:
    return refused_sum(call) or (None if _delegate_takes_sum(call) and call.profile.is_delegate else _wraps(call))


def _wraps(call: Call) -> str | None:
    """LiteRT's optimized int8 sum narrows to 16 bits before it clips, but not its other kernels."""
    is_affected = call.node.op == "ADD" and call.input(0).dtype == "int8" and not call.profile.is_reference
    x, z, out = _scales(call)
    return "sums that far beyond its output's range wrap around in it" if is_affected and x + z > 128 * out else None


def _refused_product(call: Call) -> str | None:
    """Its optimized int8 product adds the zero point in 16 bits, too."""
    if refused_product(call) is not None or call.input(0).dtype != "int8" or call.profile.is_reference:
        return refused_product(call)
    is_taken = call.profile.is_delegate and _delegate_takes_product(call)
    (x, z, out), (_, zero_point) = _scales(call), call.affine(call.outputs[0])
    wraps = not is_taken and zero_point and 255.0 * 255.0 * x * z / out > 32767 - 128
    return "products that far beyond its output's range wrap around in it" if wraps else None


_SUM: dict[str, Any] = {
    "axes": "joined",
    "trained": {0: "offset", 1: "offset"},
    "refused": _refused_sum,
    "finest": _finest_sum,
    "integer_attrs": {"int16": {"pot_scale_int16": False}},
}
register(
    Op("ADD", "AddOptions", versions={"int8": 2, "int16": 3}, delegated=_delegate_takes_sum, relevant=of_sum, **_SUM)
)
register(
    Op(
        "SUB",
        "SubOptions",
        versions={"int8": 2, "int16": 5},
        delegated=_delegate_takes_sum,
        relevant=of_difference,
        **_SUM,
    )
)
register(
    Op(
        "MUL",
        "MulOptions",
        axes="joined",
        trained={0: "scale", 1: "scale"},
        versions={"int8": 3, "int16": 4},
        delegated=_delegate_takes_product,
        refused=_refused_product,
        relevant=of_product,
    )
)
register(
    Op(
        "SQUARED_DIFFERENCE",
        "SquaredDifferenceOptions",
        axes="joined",
        versions={"int8": 2, "int16": 2},
        delegated=lambda call: call.input(0).is_float,
        refused=refused_squared_difference,
        finest=_finest_square,
    )
)
for _name, _relevant in (("MAXIMUM", of_larger), ("MINIMUM", of_smaller)):
    register(
        Op(
            _name,
            "MaximumMinimumOptions",
            axes="joined",
            same_scale=(0, 1),
            versions={"int8": 2, "int16": 4},
            relevant=_relevant,
        )
    )
register(Op("ADD_N", "AddNOptions", axes="joined"))

_LANES = 16  # int16 values that LiteRT's optimized kernel adds at a time


@kernel("ADD", "int8", "int16")
def add(call: Call) -> tuple[np.ndarray, ...]:
    """Sum of two tensors."""
    return (_sum(call, 1),)


@kernel("SUB", "int8", "int16")
def sub(call: Call) -> tuple[np.ndarray, ...]:
    """Difference of two tensors."""
    return (_sum(call, -1),)


def _sum(call: Call, sign: int) -> np.ndarray:
    """Returns x + sign * z: both shifted left, brought to twice the larger scale, added, rescaled (add.cc)."""
    (x_scale, x_zero), (z_scale, z_zero) = call.affine(call.input(0)), call.affine(call.input(1))
    out_scale, _ = call.affine(call.outputs[0])
    x, z = call.array(0).astype(np.int64) - x_zero, call.array(1).astype(np.int64) - z_zero
    is_byte = call.input(0).dtype == "int8"
    call = placed(call)
    if call.profile.is_delegate:
        return _delegated_sum(call, x, z, (x_scale / out_scale, z_scale / out_scale), sign)
    if call.profile.is_litert and not is_byte and call.node.attrs.get("pot_scale_int16", True):
        exponents = [binary_exponent(scale) for scale in (x_scale, z_scale, out_scale)]
        if None not in exponents:
            x_exponent, z_exponent, out_exponent = (int(exponent or 0) for exponent in exponents)
            return _shifted_sum(call, x, sign * z, (x_exponent - out_exponent, z_exponent - out_exponent))
    left = 20 if is_byte else 15
    twice = np.float64(np.float32(2) * max(x_scale, z_scale))
    factors = np.float64(x_scale) / twice, np.float64(z_scale) / twice
    total = call.rescaled(x << left, factors[0]) + sign * call.rescaled(z << left, factors[1])
    shape = np.broadcast_shapes(x.shape, z.shape)
    is_repeating = not x.size == z.size == math.prod(shape)
    if call.profile.is_vectorized and not is_byte and call.node.op == "ADD" and not is_repeating:
        # optimized/integer_ops/add.h, AddElementwiseInt16: whole vectors shift left before they multiply, and so round
        # the operands once; the rest, SUB, and sums that broadcast round them twice.
        once = rescale_once(x << left, *quantize_multiplier(factors[0]))
        once += rescale_once(z << left, *quantize_multiplier(factors[1]))
        is_rest = np.arange(x.size).reshape(shape) >= x.size - x.size % _LANES
        total = np.where(is_rest, total, once)
    return call.finish(call.rescaled(total, twice / np.float64(np.float32(1 << left) * out_scale)))


def _shifted_sum(call: Call, x: np.ndarray, z: np.ndarray, shifts: tuple[int, int]) -> np.ndarray:
    """LiteRT's int16 sum where all scales are powers of two: one operand is shifted right to the output's scale."""
    if call.node.op == "ADD" and x.shape != z.shape:
        raise call.unsupported(
            "int16 broadcasting between scales that are powers of two is not supported (by LiteRT neither, which ends "
            "the process; allowed: other scales, or pot_scale_int16 false)"
        )
    if max(shifts) != 0:
        raise call.unsupported(
            f"int16 scales of 2**{shifts[0]} and 2**{shifts[1]} of the output's are not supported (by LiteRT neither; "
            "allowed: one equal, one not larger)"
        )
    return call.finish(rounding_shift(x, -shifts[0]) + rounding_shift(z, -shifts[1]))


def _delegated_sum(
    call: Call, x: np.ndarray, z: np.ndarray, ratios: tuple[np.float32, np.float32], sign: int
) -> np.ndarray:
    """XNNPACK: both scales over the output's as multipliers of 21 bits, one sum, one rounding shift."""
    exponent = int(np.frexp(max(ratios))[1]) - 1
    shift = 20 - exponent
    x_multiplier, z_multiplier = (int(np.rint(np.ldexp(ratio, shift))) for ratio in ratios)
    total = x * x_multiplier + sign * z * z_multiplier
    return call.finish((total + (1 << (shift - 1))) >> shift)


@kernel("MUL", "int8", "int16")
def mul(call: Call) -> tuple[np.ndarray, ...]:
    """Product of two tensors: one integer product, one rescale by a factor computed in float32."""
    (x_scale, x_zero), (z_scale, z_zero) = call.affine(call.input(0)), call.affine(call.input(1))
    factor = (x_scale * z_scale) / call.affine(call.outputs[0])[0]
    product = (call.array(0).astype(np.int64) - x_zero) * (call.array(1).astype(np.int64) - z_zero)
    call = placed(call)
    if call.profile.is_delegate:
        return (call.delegated(product, factor),)
    return (call.finish(call.rescaled(product, np.float64(factor))),)


@kernel("ADD", "float32", "int32", "int64")
def add_plain(call: Call) -> tuple[np.ndarray, ...]:
    """Sum; integers wrap around."""
    return (_clamped(call, call.array(0) + call.array(1)),)


@kernel("SUB", "float32", "int32", "int64")
def sub_plain(call: Call) -> tuple[np.ndarray, ...]:
    """Difference; integers wrap around."""
    return (_clamped(call, call.array(0) - call.array(1)),)


@kernel("MUL", "float32", "int32", "int64")
def mul_plain(call: Call) -> tuple[np.ndarray, ...]:
    """Product; integers wrap around."""
    return (_clamped(call, call.array(0) * call.array(1)),)


def _clamped(call: Call, x: np.ndarray) -> np.ndarray:
    """Returns plain numbers after the fused activation."""
    if x.dtype == np.float32:
        return call.clamp(x)
    ends, (low, high) = np.iinfo(x.dtype), call.float_bounds()
    return np.clip(x, ends.min if low == -np.inf else int(low), ends.max if high == np.inf else int(high))


@kernel("MAXIMUM", "int8", "int16", "int32", "int64", "float32")
def maximum(call: Call) -> tuple[np.ndarray, ...]:
    """The larger of two values of the same scale."""
    return (np.maximum(call.array(0), call.array(1)),)


@kernel("MINIMUM", "int8", "int16", "int32", "int64", "float32")
def minimum(call: Call) -> tuple[np.ndarray, ...]:
    """The smaller of two values of the same scale."""
    return (np.minimum(call.array(0), call.array(1)),)


@kernel("SQUARED_DIFFERENCE", "int8")
def squared_difference(call: Call) -> tuple[np.ndarray, ...]:
    """Square of a difference: both shifted left by 7 bits, brought to twice the larger scale, rescaled."""
    (x_scale, x_zero), (z_scale, z_zero) = call.affine(call.input(0)), call.affine(call.input(1))
    out_scale, _ = call.affine(call.outputs[0])
    call = placed(call)
    x, z = call.array(0).astype(np.int64) - x_zero, call.array(1).astype(np.int64) - z_zero
    twice = np.float64(2) * np.float64(max(x_scale, z_scale))
    difference = call.rescaled(x << 7, float(x_scale / twice)) - call.rescaled(z << 7, float(z_scale / twice))
    return (call.finish(call.rescaled(difference * difference, twice * twice / (2.0**14 * np.float64(out_scale)))),)


@kernel("SQUARED_DIFFERENCE", "float32", "int32")
def squared_difference_plain(call: Call) -> tuple[np.ndarray, ...]:
    """Square of a difference; integers wrap around."""
    return (np.square(call.array(0) - call.array(1)),)


@kernel("ADD_N", "float32", "int32")
def add_all(call: Call) -> tuple[np.ndarray, ...]:
    """Sum of all operands, one after another; integers wrap around."""
    total = call.array(0)
    for position in range(1, len(call.arrays)):
        total = total + call.array(position)
    return (total,)
