"""Sums, products, quotients, extremes, powers and angles of two tensors.

Sources: LiteRT op_version.cc, mul.cc, div.cc, floor_div.cc, floor_mod.cc, pow.cc, atan2_custom.cc; XNNPACK.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.errors import DataError
from featherweight.operators.call import Array, Call, is_static
from featherweight.operators.limits import refused_product, refused_squared_difference, refused_sum
from featherweight.operators.record import Op, definition, kernel, placed, register
from featherweight.operators.relevance import of_difference, of_larger, of_product, of_smaller, of_sum
from featherweight.operators.scratch import for_operands


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


# A result finer than this beside its operands holds nothing but their rounding; the kernels reach little further, and
# the sum of two int8 operands does not wrap around in any of them.
_FINEST = {"int8": 2.0**-6, "int16": 2.0**-13}


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
    "is_joint": True,
    "fuses": True,
    "trained": {0: "offset", 1: "offset"},
    "refused": _refused_sum,
    "finest": _finest_sum,
    "integer_attrs": {"int16": {"pot_scale_int16": False}},
}
ADD = register(
    Op(
        "ADD",
        "AddOptions",
        channels_first=True,
        versions={"int8": 2, "int16": 3},
        delegated=_delegate_takes_sum,
        relevant=of_sum,
        **_SUM,
    )
).name
SUB = register(
    Op(
        "SUB",
        "SubOptions",
        versions={"int8": 2, "int16": 5},
        delegated=_delegate_takes_sum,
        relevant=of_difference,
        **_SUM,
    )
).name
register(
    Op(
        "MUL",
        "MulOptions",
        axes="joined",
        is_product=True,
        fuses=True,
        channels_first=True,
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
            is_joint=True,
            picks=True,
            same_scale=(0, 1),
            versions={"int8": 2, "int16": 4},
            relevant=_relevant,
        )
    )

register(Op("ADD_N", "AddNOptions", axes="joined", is_joint=True, scratch=for_operands))
DIV = register(
    Op("DIV", "DivOptions", axes="joined", is_product=True, fuses=True, trained={0: "scale", 1: "scale"}, divisor=1)
).name
register(Op("FLOOR_DIV", "FloorDivOptions", axes="joined", divisor=1))
register(Op("FLOOR_MOD", "FloorModOptions", axes="joined", divisor=1))
register(Op("POW", "PowOptions", axes="joined", is_steep_at_zero=True))
register(Op("ATAN2", "ATan2Options", axes="joined"))


@kernel("MUL", "int8", "int16")
def mul(call: Call) -> tuple[np.ndarray, ...]:
    """Product of two tensors: one integer product, one rescale by a factor computed in float32 (on TFLM in float64)."""
    (x_scale, x_zero), (z_scale, z_zero) = call.affine(call.input(0)), call.affine(call.input(1))
    real = np.float64 if call.profile.is_micro else np.float32
    factor = (real(x_scale) * real(z_scale)) / real(call.affine(call.outputs[0])[0])
    product = (call.array(0).astype(np.int64) - x_zero) * (call.array(1).astype(np.int64) - z_zero)
    call = placed(call)
    if call.profile.is_delegate:
        return (call.delegated(product, factor),)
    return (call.finish(call.rescaled(product, np.float64(factor))),)


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


def _paired(op: str, function: str, *dtypes: str) -> None:
    def computed(call: Call) -> tuple[Array, ...]:
        with np.errstate(all="ignore"):  # infinities and NaN go through, as in LiteRT
            return (call.clamp(getattr(call.xp, function)(call.array(0), call.array(1))),)

    computed.__doc__ = f"{function} of two values, then the fused activation; integers wrap around."
    definition(op, *dtypes)(computed)


_paired("ADD", "add", "float32", "int32", "int64")
_paired("SUB", "subtract", "float32", "int32", "int64")
_paired("MUL", "multiply", "float32", "int32", "int64")
_paired("MAXIMUM", "maximum", "int8", "int16", "int32", "int64", "float32")
_paired("MINIMUM", "minimum", "int8", "int16", "int32", "int64", "float32")


@definition("SQUARED_DIFFERENCE", "float32", "int32")
def squared_difference_plain(call: Call) -> tuple[Array, ...]:
    """Square of a difference; integers wrap around."""
    return (call.xp.square(call.xp.subtract(call.array(0), call.array(1))),)


@definition("ADD_N", "float32", "int32")
def add_n(call: Call) -> tuple[Array, ...]:
    """Sum of several values."""
    total = call.array(0)
    for position in range(1, len(call.arrays)):
        total = call.xp.add(total, call.array(position))
    return (total,)


def check_divisor(call: Call, divisor: Array) -> None:
    """Raises where LiteRT ends a run with an error: at a quotient by a zero that is known.

    Raises:
        DataError: naming the node and how many divisors are zero.
    """
    zeros = int((divisor == 0).sum()) if is_static(divisor) else 0
    if zeros:
        raise DataError(
            f"{call.place}: {zeros} of {divisor.size} divisors are zero (LiteRT ends with an error). Keep this layer "
            "float, or its divisor away from zero."
        )


@definition("DIV", "float32", "int32")
def divide_plain(call: Call) -> tuple[Array, ...]:
    """Quotient; of integers, cut toward zero.

    Raises:
        DataError: if a divisor of integers is zero.
    """
    xp, x, z = call.xp, call.array(0), call.array(1)
    if call.outputs[0].is_float:
        with np.errstate(all="ignore"):
            return (call.clamp(xp.divide(x, z)),)
    check_divisor(call, z)
    return (call.clamp(xp.sign(x) * xp.sign(z) * xp.floor_divide(xp.abs(x), xp.abs(z))),)


@definition("FLOOR_DIV", "int8", "int16", "int32", "float32")
def floor_divide(call: Call) -> tuple[Array, ...]:
    """Quotient, cut toward negative infinity.

    Raises:
        DataError: if a divisor is zero.
    """
    check_divisor(call, call.array(1))
    _check_plain(call)
    return (call.xp.floor_divide(call.array(0), call.array(1)),)


@definition("FLOOR_MOD", "int8", "int16", "int32", "int64", "float32")
def floor_modulo(call: Call) -> tuple[Array, ...]:
    """Remainder with the divisor's sign.

    Raises:
        DataError: if a divisor of integers is zero.
    """
    _check_plain(call)
    if not call.outputs[0].is_float:
        check_divisor(call, call.array(1))
    with np.errstate(all="ignore"):
        return (call.xp.mod(call.array(0), call.array(1)),)


def _check_plain(call: Call) -> None:
    """Raises where integers stand for real numbers: LiteRT computes with the integers as they are."""
    if any(tensor is not None and tensor.quant is not None and tensor.quant.scale for tensor in call.inputs):
        raise call.unsupported("integers with a scale are not supported (LiteRT ignores the scale)")


@definition("POW", "float32", "int32")
def power(call: Call) -> tuple[Array, ...]:
    """Power.

    Raises:
        DataError: if an exponent of integers is negative.
    """
    x, exponent = call.array(0), call.array(1)
    if is_static(exponent) and exponent.dtype.kind == "i" and (exponent < 0).any():
        raise DataError(f"{call.place}: an exponent of integers is negative (LiteRT ends with an error).")
    with np.errstate(all="ignore"):
        return (call.xp.power(x, exponent),)


@kernel("ATAN2", "float32")
def angle(call: Call) -> tuple[np.ndarray, ...]:
    """Angle of the point (second operand, first operand), in radians."""
    return (np.arctan2(call.array(0), call.array(1)),)
