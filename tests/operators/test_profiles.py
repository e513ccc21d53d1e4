"""Rescaling against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import RecipeError
from featherweight.operators import fixed_point, profiles

REALS = st.floats(2.0**-20, 2.0**6, allow_nan=False)
INTEGERS = st.integers(-(2**24), 2**24)


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def half_away(x: Fraction) -> int:
    return half_up(x) if x >= 0 else -half_up(-x)


def first(x: int, multiplier: int, shift: int) -> int:
    return half_up(Fraction(x * 2 ** max(shift, 0) * multiplier, 2**31))


@given(REALS)
def test_a_multiplier_holds_31_bits(real: float) -> None:
    multiplier, shift = (int(v) for v in fixed_point.quantize_multiplier(real))
    assert 2**30 <= multiplier < 2**31
    assert abs(Fraction(multiplier, 2**31) * Fraction(2) ** shift / Fraction(real) - 1) <= Fraction(1, 2**31)


def test_multipliers_at_the_ends() -> None:
    multiplier, shift = fixed_point.quantize_multiplier(np.array([0.0, 2.0**-33, 2.0**-32, 1.0 - 2.0**-40, 0.5]))
    assert multiplier.tolist() == [0, 0, 1 << 30, 1 << 30, 1 << 30]
    assert shift.tolist() == [0, 0, -31, 1, 0]


@given(INTEGERS, REALS)
def test_one_rounding(x: int, real: float) -> None:
    multiplier, shift = fixed_point.quantize_multiplier(real)
    exact = Fraction(x * int(multiplier)) * Fraction(2) ** (int(shift) - 31)
    assert fixed_point.rescale_once(np.array([x]), multiplier, shift).tolist() == [half_up(exact)]
    assert fixed_point.rescale_once_even(np.array([x]), multiplier, shift).tolist() == [round(exact)]


@given(INTEGERS, REALS)
def test_two_roundings(x: int, real: float) -> None:
    multiplier, shift = fixed_point.quantize_multiplier(real)
    high = first(x, int(multiplier), int(shift)) if abs(x) * 2 ** max(int(shift), 0) < 2**31 else None
    if high is None:
        return
    scaled = Fraction(high, 2 ** max(-int(shift), 0))
    assert fixed_point.rescale_twice(np.array([x]), multiplier, shift).tolist() == [half_away(scaled)]
    assert fixed_point.rescale_twice_up(np.array([x]), multiplier, shift).tolist() == [half_up(scaled)]


def test_profiles_are_found_by_name() -> None:
    names = ["tflite_ref", "tflm", "tflite_opt", "xnnpack", "integer_multiplier", "power_of_two"]
    names += ["power_of_two_even"]
    assert list(profiles.PROFILES) == names
    with pytest.raises(
        RecipeError, match=r"profile 'neon' is unknown \(allowed: tflite_ref, tflm, tflite_opt, xnnpack, "
    ):
        profiles.find("neon")
