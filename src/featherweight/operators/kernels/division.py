"""Integer quotients. Sources: LiteRT div.cc, reference/div.h."""

from __future__ import annotations

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.families.elementwise import DIV, check_divisor
from featherweight.operators.fixed_point import doubling_high_multiply, leading_zeros, reciprocal, rounding_shift
from featherweight.operators.record import kernel


@kernel(DIV, "int8", "int16")
def divide(call: Call) -> tuple[np.ndarray, ...]:
    """Quotient by a reciprocal in fixed point, in all of the dividend's bits, then one rescale.

    Raises:
        DataError: if a divisor is zero.
    """
    (x_scale, x_zero), (z_scale, z_zero) = call.affine(call.input(0)), call.affine(call.input(1))
    x, z = call.array(0).astype(np.int64) - x_zero, call.array(1).astype(np.int64) - z_zero
    check_divisor(call, z)
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
        # Its mask of what is shifted out has 64 bits, of which 32 count.
        mask = np.where(right < 64, -1, (np.int64(1) << (right & 63)) - 1)
        is_more = (values & mask) > (mask >> 1) + (values < 0)
        shifted = np.where(right > 31, (values >> (right & 31)) + is_more, shifted)
    return (call.finish(shifted),)
