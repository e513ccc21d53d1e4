"""Comparisons, logic and bits.

Sources: LiteRT comparisons.cc, reference/comparisons.h, logical.cc, bitwise_xor.cc, right_shift.cc.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.fixed_point import doubling_high_multiply, quantize_multiplier, rounding_shift
from featherweight.operators.limits import refused_comparison
from featherweight.operators.record import Op, kernel, register
from featherweight.operators.relevance import of_compared

# Comparisons share one scale: kernels rescale operands of different scales so coarsely that equal values differ.
for _name, _options, _int16 in (
    ("EQUAL", "EqualOptions", 5),
    ("NOT_EQUAL", "NotEqualOptions", 4),
    ("GREATER_EQUAL", "GreaterEqualOptions", 3),
    ("LESS", "LessOptions", 3),
):
    register(
        Op(
            _name,
            _options,
            axes="joined",
            same_scale=(0, 1),
            versions={"int8": 2, "int16": _int16},
            relevant=of_compared,
            refused=refused_comparison,
        )
    )
for _name, _options in (("GREATER", "GreaterOptions"), ("LESS_EQUAL", "LessEqualOptions")):
    register(
        Op(
            _name,
            _options,
            axes="joined",
            same_scale=(0, 1),
            versions={"int8": 2},
            relevant=of_compared,
            refused=refused_comparison,
        )
    )
for _name, _options in (("LOGICAL_AND", "LogicalAndOptions"), ("LOGICAL_OR", "LogicalOrOptions")):
    register(Op(_name, _options, axes="joined"))
register(Op("LOGICAL_NOT", "LogicalNotOptions", axes="same"))
for _name, _options in (("BITWISE_XOR", "BitwiseXorOptions"), ("RIGHT_SHIFT", "RightShiftOptions")):
    register(Op(_name, _options, axes="joined"))

_FRACTION_BITS = 8
Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _coarse(call: Call, position: int) -> np.ndarray:
    """Returns an operand as LiteRT compares it: its real value in units of 1/256, rounded.

    Raises:
        UnsupportedOp: if its scale is one or larger: LiteRT shifts by a negative number of bits.
    """
    scale, zero_point = call.affine(call.input(position))
    multiplier, shift = quantize_multiplier(np.float64(scale))
    if shift > 0:
        raise call.unsupported(f"a scale of {float(scale):g} is not supported (by LiteRT neither; allowed: below 1)")
    values = (call.array(position).astype(np.int64) - zero_point) << _FRACTION_BITS
    return rounding_shift(doubling_high_multiply(values, multiplier), -shift)


def _attach(op: str, compare: Compare, coarse: tuple[str, ...], plain: tuple[str, ...]) -> None:
    def compare_coarsely(call: Call) -> tuple[np.ndarray, ...]:
        """Compares real values in units of 1/256: nearer ones count as equal."""
        return (compare(_coarse(call, 0), _coarse(call, 1)),)

    def compare_as_they_are(call: Call) -> tuple[np.ndarray, ...]:
        """Compares the values as they are."""
        x, z = call.input(0).quant, call.input(1).quant
        if x is not None and z is not None and (x.scale, x.zero_point) != (z.scale, z.zero_point):
            raise call.unsupported(f"{call.input(0).dtype} inputs of different scales are not supported")
        return (compare(call.array(0), call.array(1)),)

    kernel(op, *coarse)(compare_coarsely)
    kernel(op, *plain)(compare_as_they_are)


_NUMBERS = ("int32", "int64", "float32")
_attach("EQUAL", np.equal, ("int8", "int16"), (*_NUMBERS, "bool"))
_attach("NOT_EQUAL", np.not_equal, ("int8", "int16"), (*_NUMBERS, "bool"))
_attach("GREATER", np.greater, ("int8",), (*_NUMBERS, "int16"))
_attach("GREATER_EQUAL", np.greater_equal, ("int8",), (*_NUMBERS, "int16"))
_attach("LESS", np.less, ("int8",), (*_NUMBERS, "int16"))
_attach("LESS_EQUAL", np.less_equal, ("int8",), (*_NUMBERS, "int16"))


@kernel("LOGICAL_AND", "bool")
def logical_and(call: Call) -> tuple[np.ndarray, ...]:
    """True where both are."""
    return (call.array(0) & call.array(1),)


@kernel("LOGICAL_OR", "bool")
def logical_or(call: Call) -> tuple[np.ndarray, ...]:
    """True where one is."""
    return (call.array(0) | call.array(1),)


@kernel("LOGICAL_NOT", "bool")
def logical_not(call: Call) -> tuple[np.ndarray, ...]:
    """True where the input is not."""
    return (~call.array(0),)


@kernel("BITWISE_XOR", "int32")
def exclusive_or(call: Call) -> tuple[np.ndarray, ...]:
    """Bits that one of two integers has."""
    return (np.bitwise_xor(call.array(0), call.array(1)),)


@kernel("RIGHT_SHIFT", "int32")
def right_shift(call: Call) -> tuple[np.ndarray, ...]:
    """Bits of the first integer moved to the right by the second, at least 0 and at most 31; the sign stays."""
    return (np.right_shift(call.array(0), np.clip(call.array(1), 0, 31)),)
