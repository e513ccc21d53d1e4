"""Quotients, remainders, powers and angles.

Sources: LiteRT div.cc, reference/div.h, floor_div.cc, floor_mod.cc, pow.cc, atan2_custom.cc.
"""

from __future__ import annotations

import numpy as np

from featherweight.errors import DataError
from featherweight.operators.call import Call
from featherweight.operators.fixed_point import doubling_high_multiply, leading_zeros, reciprocal, rounding_shift
from featherweight.operators.record import Op, kernel, register

register(Op("DIV", "DivOptions", axes="joined", trained={0: "scale", 1: "scale"}))
register(Op("FLOOR_DIV", "FloorDivOptions", axes="joined"))
register(Op("FLOOR_MOD", "FloorModOptions", axes="joined"))
register(Op("POW", "PowOptions", axes="joined"))
register(Op("ATAN2", "ATan2Options", axes="joined"))


def _check_divisor(call: Call, divisor: np.ndarray) -> None:
    """Raises where LiteRT ends a run with an error: at a quotient by zero.

    Raises:
        DataError: naming the node and how many divisors are zero.
    """
    zeros = int((divisor == 0).sum())
    if zeros:
        raise DataError(
            f"{call.place}: {zeros} of {divisor.size} divisors are zero (LiteRT ends with an error). Keep this layer "
            "float, or its divisor away from zero."
        )


@kernel("DIV", "int8", "int16")
def divide(call: Call) -> tuple[np.ndarray, ...]:
    """Quotient by a reciprocal in fixed point, in all of the dividend's bits, then one rescale.

    Raises:
        DataError: if a divisor is zero.
    """
    (x_scale, x_zero), (z_scale, z_zero) = call.affine(call.input(0)), call.affine(call.input(1))
    x, z = call.array(0).astype(np.int64) - x_zero, call.array(1).astype(np.int64) - z_zero
    _check_divisor(call, z)
    call = call.fallen_back()
    fraction, bits = reciprocal(np.abs(z))
    x = np.where(z < 0, -x, x)
    # How far the dividend can be shifted left (CountLeadingSignBits).
    headroom = leading_zeros(np.where(x >= 0, x, -x - 1)) - 1
    quotient = doubling_high_multiply(x << headroom, fraction)
    multiplier, shift = call.multiplier(np.float64(x_scale / (z_scale * call.affine(call.outputs[0])[0])))
    right = bits + headroom - shift
    if (right < 0).any():
        raise call.unsupported("an output scale this far below the quotient of the inputs' is not supported")
    values = doubling_high_multiply(quotient, multiplier)
    shifted = rounding_shift(values, np.minimum(right, 32))
    if call.profile.is_litert:
        # Beyond 31 bits, x86 shifts by what is left of a multiple of 32, and LiteRT then adds one: 0 / 100 can be 1.
        shifted = np.where(right > 31, (values >> (right & 31)) + (values >= 0), shifted)
    return (call.finish(shifted),)


@kernel("DIV", "float32")
def divide_float(call: Call) -> tuple[np.ndarray, ...]:
    """Quotient in float32."""
    with np.errstate(all="ignore"):
        return (call.clamp(call.array(0) / call.array(1)),)


@kernel("DIV", "int32")
def divide_integers(call: Call) -> tuple[np.ndarray, ...]:
    """Quotient of integers, cut toward zero.

    Raises:
        DataError: if a divisor is zero.
    """
    x, z = call.array(0).astype(np.int64), call.array(1).astype(np.int64)
    _check_divisor(call, z)
    return (np.clip(np.sign(x) * np.sign(z) * (np.abs(x) // np.abs(z)), *call.float_bounds()).astype(np.int32),)


@kernel("FLOOR_DIV", "int8", "int16", "int32", "float32")
def floor_divide(call: Call) -> tuple[np.ndarray, ...]:
    """Quotient, cut toward negative infinity.

    Raises:
        DataError: if a divisor is zero.
    """
    _check_divisor(call, call.array(1))
    _check_plain(call)
    if call.array(0).dtype == np.float32:
        return (np.floor(call.array(0).astype(np.float64) / call.array(1)).astype(np.float32),)
    return (call.array(0) // call.array(1),)


@kernel("FLOOR_MOD", "int8", "int16", "int32", "int64", "float32")
def floor_modulo(call: Call) -> tuple[np.ndarray, ...]:
    """Remainder with the divisor's sign.

    Raises:
        DataError: if a divisor of integers is zero.
    """
    _check_plain(call)
    if call.array(0).dtype == np.float32:
        with np.errstate(all="ignore"):
            rest = np.fmod(call.array(0), call.array(1))
            turned = (rest != 0) & ((call.array(1) < 0) != (rest < 0))
            return (np.where(turned, rest + call.array(1), rest),)
    _check_divisor(call, call.array(1))
    return (call.array(0) % call.array(1),)


def _check_plain(call: Call) -> None:
    """Raises where integers stand for real numbers: LiteRT computes with the integers as they are."""
    if any(tensor is not None and tensor.quant is not None and tensor.quant.scale for tensor in call.inputs):
        raise call.unsupported("integers with a scale are not supported (LiteRT ignores the scale)")


@kernel("POW", "float32", "int32")
def power(call: Call) -> tuple[np.ndarray, ...]:
    """Power; of floats through float64."""
    x, exponent = call.array(0), call.array(1)
    if x.dtype == np.float32:
        with np.errstate(all="ignore"):
            return (np.power(x.astype(np.float64), exponent.astype(np.float64)).astype(np.float32),)
    if (exponent < 0).any():
        raise DataError(f"{call.place}: an exponent of integers is negative (LiteRT ends with an error).")
    return (np.power(x, exponent),)


@kernel("ATAN2", "float32")
def angle(call: Call) -> tuple[np.ndarray, ...]:
    """Angle of the point (second operand, first operand), in radians."""
    return (np.arctan2(call.array(0), call.array(1)),)
