"""Arithmetic profiles: in which integer arithmetic an accumulator becomes an output.

One graph gives different integers on different kernels, always by their rounding. A profile names one arithmetic: it is
data plus the small functions that rescale. Sources: gemmlowp's fixedpoint.h, LiteRT's quantization_util and common.h,
ruy's x86 kernels, XNNPACK's requantization; each was confirmed integer for integer on the installed runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from featherweight.errors import RecipeError, listed
from featherweight.graph.numerics import round_half_away

# (integers, multiplier in [2**30, 2**31), shift) -> round(integers * multiplier * 2**(shift - 31)), int64.
Rescale = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Profile:
    """One integer arithmetic.

    Attributes:
        rescale: multiplies by a real number that is given as multiplier and shift.
        rescale_products: the same after matrix products (convolutions, dense layers).
        rescale_wide: the same for the 64-bit accumulators of int16 activations.
        is_litert: one of LiteRT's own arithmetics, with what its single kernels do differently.
        is_reference: LiteRT's reference kernels where its other kernels compute differently.
        is_delegate: XNNPACK's kernels, which multiply by a float32 scale.
        only_shifts: there is no multiplier: every factor must be a power of two.
        fallback: the profile of the operators that this one's runtime does not take.
    """

    name: str
    description: str
    rescale: Rescale
    rescale_products: Rescale
    rescale_wide: Rescale
    is_litert: bool = False
    is_reference: bool = False
    is_delegate: bool = False
    only_shifts: bool = False
    fallback: Profile | None = None

    @property
    def is_vectorized(self) -> bool:
        """True for LiteRT's optimized kernels: several values at a time in one arithmetic, the rest in another."""
        return self.is_litert and not self.is_reference and not self.is_delegate


def quantize_multiplier(real: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Returns (multiplier, shift), int64, with ``real = multiplier * 2**(shift - 31)``, multiplier in [2**30, 2**31).

    The fraction is rounded half away from zero to 31 bits; numbers below 2**-32 become zero, as LiteRT's
    QuantizeMultiplier does.

    >>> [part.item() for part in quantize_multiplier(0.75)]
    [1610612736, 0]
    """
    fraction, exponent = np.frexp(np.asarray(real, np.float64))
    multiplier = round_half_away(fraction * 2.0**31).astype(np.int64)
    shift = exponent.astype(np.int64)
    is_whole = multiplier == 1 << 31
    multiplier = np.where(is_whole, 1 << 30, multiplier)
    shift = np.where(is_whole, shift + 1, shift)
    vanishes = (shift < -31) | (multiplier == 0)
    return np.where(vanishes, 0, multiplier), np.where(vanishes, 0, shift)


def binary_exponent(scale: np.float32) -> int | None:
    """Returns the exponent of a scale that LiteRT takes for a power of two: within 1e-3 of one (CheckedLog2)."""
    exponent = math.log2(float(scale))
    return round(exponent) if abs(exponent - round(exponent)) < 1e-3 else None


def wrap_int32(x: np.ndarray) -> np.ndarray:
    """Returns what an int32 register would hold, as int64."""
    return x.astype(np.int32).astype(np.int64)


def doubling_high_multiply(x: np.ndarray, y: np.ndarray | int) -> np.ndarray:
    """Returns ``round(x * y / 2**31)``, ties toward positive infinity, saturated: int32 numbers held in int64.

    gemmlowp's SaturatingRoundingDoublingHighMul.
    """
    product = x * y
    # gemmlowp adds 1 - 2**30 to a negative product and divides by 2**31 toward zero. The floor of (p + 2**30) / 2**31
    # is the same number.
    product += 1 << 30
    product >>= 31
    return np.minimum(product, _INT32.max)


def rounding_shift(x: np.ndarray, exponent: np.ndarray | int) -> np.ndarray:
    """Returns ``x / 2**exponent``, ties away from zero (gemmlowp's RoundingDivideByPOT)."""
    one = np.int64(1)
    exponent = np.asarray(exponent, np.int64)
    half = (one << exponent) >> 1
    return (x + half - ((x < 0) & (exponent > 0))) >> exponent


def rescale_twice(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Rescales with two roundings: the high half of the product, then a shift with ties away from zero."""
    return rounding_shift(_high_product(x, multiplier, shift), np.maximum(-shift, 0))


def rescale_twice_up(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Rescales with two roundings, both with ties toward positive infinity."""
    right = np.maximum(-shift, 0)
    return (_high_product(x, multiplier, shift) + ((np.int64(1) << right) >> 1)) >> right


def rescale_once(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Rescales with one rounding, ties toward positive infinity.

    ``(x * multiplier + 2**(30 - shift)) >> (31 - shift)``
    """
    # Factors of 2**30 and more take every output but zero's to its limit.
    total = np.maximum(31 - shift, 1)
    return (x.astype(np.int64) * multiplier + (np.int64(1) << (total - 1))) >> total


def rescale_short(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Rescales 64-bit accumulators with a multiplier of 16 bits and one rounding, ties toward positive infinity."""
    reduced = np.where(multiplier < 0x7FFF0000, (multiplier + (1 << 15)) >> 16, 0x7FFF)
    # A factor of 2**14 or more has nothing to round.
    right, left = np.maximum(15 - shift, 0), np.maximum(shift - 15, 0)
    return ((x.astype(np.int64) * reduced << left) + ((np.int64(1) << right) >> 1)) >> right


def _high_product(x: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Returns the rounded high half of ``(x << max(shift, 0)) * multiplier``."""
    x = x.astype(np.int64)
    if np.any(shift > 0):
        x = wrap_int32(x << np.maximum(shift, 0))
    return doubling_high_multiply(x, multiplier)


_TFLITE_OPT = Profile(
    "tflite_opt",
    "LiteRT's optimized kernels without delegate",
    rescale=rescale_twice,
    rescale_products=rescale_twice_up,
    rescale_wide=rescale_short,
    is_litert=True,
)
PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "tflite_ref",
            "LiteRT's reference kernels",
            rescale=rescale_twice,
            rescale_products=rescale_twice,
            rescale_wide=rescale_short,
            is_litert=True,
            is_reference=True,
        ),
        _TFLITE_OPT,
        replace(
            _TFLITE_OPT,
            name="xnnpack",
            description="LiteRT as devices run it: XNNPACK where it takes a node, else optimized kernels",
            is_delegate=True,
            fallback=_TFLITE_OPT,
        ),
        Profile(
            "integer_multiplier",
            "chips with a 32-bit multiplier, a shift and one rounding",
            rescale=rescale_once,
            rescale_products=rescale_once,
            rescale_wide=rescale_short,
            is_reference=True,
        ),
        Profile(
            "power_of_two",
            "chips that shift only: every scale is a power of two",
            rescale=rescale_once,
            rescale_products=rescale_once,
            rescale_wide=rescale_short,
            is_reference=True,
            only_shifts=True,
        ),
    )
}


def find(name: str) -> Profile:
    """Returns the profile of that name.

    Raises:
        RecipeError: if there is none.

    >>> find("xnnpack").fallback.name
    'tflite_opt'
    """
    if name not in PROFILES:
        raise RecipeError(f"profile '{name}' is unknown (allowed: {listed(PROFILES)}).")
    return PROFILES[name]
