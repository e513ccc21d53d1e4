"""Comparisons, logic and bits.

Sources: LiteRT comparisons.cc, reference/comparisons.h, logical.cc, bitwise_xor.cc, right_shift.cc.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.operators.call import Array, Call
from featherweight.operators.fixed_point import doubling_high_multiply, quantize_multiplier, rounding_shift
from featherweight.operators.limits import coarse_equality, coarse_order, refused_equality, refused_order
from featherweight.operators.record import Op, definition, kernel, register
from featherweight.operators.relevance import of_compared

# Comparisons share one scale: kernels rescale operands of different scales so coarsely that equal values differ.
for _name, _options, _int16 in (
    ("EQUAL", "EqualOptions", 5),
    ("NOT_EQUAL", "NotEqualOptions", 4),
    ("GREATER_EQUAL", "GreaterEqualOptions", 3),
    ("LESS", "LessOptions", 3),
    ("GREATER", "GreaterOptions", None),
    ("LESS_EQUAL", "LessEqualOptions", None),
):
    _is_equality = _name in ("EQUAL", "NOT_EQUAL")
    register(
        Op(
            _name,
            _options,
            axes="joined",
            same_scale=(0, 1),
            versions={"int8": 2} | ({"int16": _int16} if _int16 else {}),
            relevant=of_compared,
            refused=refused_equality if _is_equality else refused_order,
            coarse=coarse_equality if _is_equality else coarse_order,
        )
    )
for _name, _options in (("LOGICAL_AND", "LogicalAndOptions"), ("LOGICAL_OR", "LogicalOrOptions")):
    register(Op(_name, _options, axes="joined"))
register(Op("LOGICAL_NOT", "LogicalNotOptions", axes="same"))
for _name, _options in (("BITWISE_XOR", "BitwiseXorOptions"), ("RIGHT_SHIFT", "RightShiftOptions")):
    register(Op(_name, _options, axes="joined"))
register(Op("BITCAST", "BitcastOptions", axes="same"))

_FRACTION_BITS = 8


def _coarse(call: Call, position: int) -> np.ndarray:
    """Returns an operand as LiteRT compares it: its real value in units of 1/256, rounded."""
    scale, zero_point = call.affine(call.input(position))
    multiplier, shift = quantize_multiplier(np.float64(scale))
    # Steps of 1 and more, which LiteRT refuses, have nothing to round; beyond 2**30 all that differs is far apart.
    left, right = np.clip(shift, 0, 30), np.maximum(-shift, 0)
    values = (call.array(position).astype(np.int64) - zero_point) << _FRACTION_BITS
    return rounding_shift(doubling_high_multiply(values, multiplier) << left, right)


def _attach(op: str, compare: str, coarse: tuple[str, ...], plain: tuple[str, ...]) -> None:
    def compare_as_they_are(call: Call) -> tuple[Array, ...]:
        """Compares the values as they are."""
        return (getattr(call.xp, compare)(call.array(0), call.array(1)),)

    def compare_coarsely(call: Call) -> tuple[np.ndarray, ...]:
        """Compares real values in units of 1/256: nearer ones count as equal."""
        return compare_as_they_are(replace(call, arrays=(_coarse(call, 0), _coarse(call, 1))))

    def compare_integers(call: Call) -> tuple[np.ndarray, ...]:
        """Compares integers of one scale as they are."""
        x, z = call.input(0).quant, call.input(1).quant
        if x is not None and z is not None and (x.scale, x.zero_point) != (z.scale, z.zero_point):
            raise call.unsupported(f"{call.input(0).dtype} inputs of different scales are not supported")
        return compare_as_they_are(call)

    definition(op, "int32", "int64", "float32", *plain)(compare_as_they_are)
    kernel(op, *coarse)(compare_coarsely)
    if "int16" not in coarse:
        kernel(op, "int16")(compare_integers)


_attach("EQUAL", "equal", ("int8", "int16"), ("bool",))
_attach("NOT_EQUAL", "not_equal", ("int8", "int16"), ("bool",))
for _name in ("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"):
    _attach(_name, _name.lower(), ("int8",), ())


@definition("LOGICAL_AND", "bool")
def logical_and(call: Call) -> tuple[Array, ...]:
    """True where both are."""
    return (call.xp.logical_and(call.array(0), call.array(1)),)


@definition("LOGICAL_OR", "bool")
def logical_or(call: Call) -> tuple[Array, ...]:
    """True where one is."""
    return (call.xp.logical_or(call.array(0), call.array(1)),)


@definition("LOGICAL_NOT", "bool")
def logical_not(call: Call) -> tuple[Array, ...]:
    """True where the input is not."""
    return (call.xp.logical_not(call.array(0)),)


@definition("BITWISE_XOR", "int32")
def exclusive_or(call: Call) -> tuple[Array, ...]:
    """Bits that one of two integers has."""
    return (call.xp.bitwise_xor(call.array(0), call.array(1)),)


@definition("RIGHT_SHIFT", "int32")
def right_shift(call: Call) -> tuple[Array, ...]:
    """Bits of the first integer moved to the right by the second, at least 0 and at most 31; the sign stays."""
    return (call.xp.right_shift(call.array(0), call.xp.clip(call.array(1), 0, 31)),)


@definition("BITCAST", "float32", "int32")
def same_bits(call: Call) -> tuple[Array, ...]:
    """The bits of a number as those of another type of 32 bits (LiteRT bitcast.cc)."""
    types = call.input(0).dtype, call.outputs[0].dtype
    if not {*types} <= {"float32", "int32"}:
        raise call.unsupported(f"bits of {types[0]} as {types[1]} are not supported (supported: float32, int32)")
    return (call.xp.view(call.array(0), types[1]),)
