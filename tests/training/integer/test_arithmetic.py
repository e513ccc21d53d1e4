"""The arithmetic of exact training against NumPy's, compiled: compilers must not change a bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from keras import ops

from featherweight.graph.numerics import round_half_away
from featherweight.operators import fixed_point as reference
from featherweight.operators.kernels.hybrid import fused
from featherweight.training.integer import fixed_point
from featherweight.training.integer import straight_through as exact
from featherweight.training.integer.int64_scope import real_product_sum, wide

RANDOM = np.random.default_rng(0)
SCALES = np.exp(RANDOM.normal(-9, 2, 500)).astype(np.float32)


pytestmark = pytest.mark.usefixtures("optimized_module")


def compiled(function: Callable[..., Any], *arrays: Any) -> np.ndarray:
    return np.asarray(jax.jit(function)(*arrays))


def test_quotients_are_correctly_rounded() -> None:
    for divisor in np.exp(RANDOM.normal(0, 1, 20)).astype(np.float32):
        found = compiled(exact.quotient, SCALES, divisor, np.float32(0))
        np.testing.assert_array_equal(found, SCALES / divisor)


def test_requantized_rounds_once_and_half_to_even() -> None:
    accumulators = RANDOM.integers(-60000, 60000, (100, 500)).astype(np.float32)
    accumulators[:, 0] = np.arange(-50, 50)
    factors = SCALES.copy()
    factors[0] = 0.5
    found = compiled(exact.requantized, accumulators, factors, np.float32(-133), np.float32(122))
    np.testing.assert_array_equal(found, np.rint(np.clip(accumulators * factors, -133, 122)))


@pytest.mark.parametrize("half_away", [False, True])
@pytest.mark.parametrize("is_static", [False, True])
def test_the_fast_form_is_its_parts(half_away: bool, is_static: bool) -> None:
    x = RANDOM.integers(-300, 300, (50, 500)).astype(np.float32)
    factors, low, high = np.full(500, 0.5, np.float32), np.float32(-100), np.float32(100)
    limits: Any = (low, high) if is_static else (ops.convert_to_tensor(low), ops.convert_to_tensor(high))
    rounded = exact.rounded_half_away if half_away else exact.rounded

    def fast_form(x: Any) -> Any:
        return exact.requantized(x, factors, *limits, half_away=half_away)

    def in_parts(x: Any) -> Any:
        return rounded(exact.bounded(x * factors, low, high))

    np.testing.assert_array_equal(compiled(fast_form, x), compiled(in_parts, x))
    fast, parts = (jax.grad(lambda x, f=f: ops.sum(f(x) ** 2))(x) for f in (fast_form, in_parts))
    np.testing.assert_array_equal(fast, parts)
    assert fast[x == 200].all()  # the ends are inside
    assert not fast[np.abs(x) > 200].any()


def test_learned_step_sizes_get_the_gradient_of_lsq() -> None:
    """Esser et al., 1902.08153, equation 3: round(v) - v inside, the bound outside."""
    v = np.array([-9.0, -2.3, 0.4, 1.6, 30.0], np.float32)

    def quantized(step: Any) -> Any:
        return ops.sum(exact.rounded(exact.bounded(v * 0.5 / step, np.float32(-8), np.float32(7))) * step)

    expected = np.array([-8.0, -2 + 2.3, 0 - 0.4, 2 - 1.6, 7.0]).sum()
    np.testing.assert_allclose(jax.grad(quantized)(np.float32(0.5)), expected, rtol=1e-5)


NAMES = ["rescale_twice", "rescale_twice_up", "rescale_once", "rescale_once_even", "rescale_short"]


@pytest.mark.parametrize("name", NAMES)
def test_fixed_point_is_the_profile_s(name: str) -> None:
    rescale = getattr(reference, name)
    x = RANDOM.integers(-(2**24), 2**24, (200, 500)).astype(np.float32)
    scale, divisor = np.float32(0.0137), np.float32(0.071)

    def function(x: Any, scales: Any, zero: Any) -> Any:
        with wide():
            return fixed_point.leave(
                fixed_point.rescaled(x, fixed_point.factor((scale, scales), divisor, zero), rescale)
            )

    multipliers = reference.quantize_multiplier(np.float64(scale) * SCALES.astype(np.float64) / np.float64(divisor))
    expected = np.clip(rescale(x.astype(np.int64), *multipliers), -(2**23), 2**23)
    np.testing.assert_array_equal(compiled(function, x, SCALES, np.float32(0)), expected)


def test_products_and_sums_round_once() -> None:
    x, y, z = (RANDOM.normal(size=100_000).astype(np.float32) for _ in range(3))
    np.testing.assert_array_equal(compiled(real_product_sum, x, y, z), fused(x, y, z))


def test_ties_round_away() -> None:
    x = np.concatenate([np.arange(-50, 50) / 2, [0.49999997, -0.49999997, 8388607.5]]).astype(np.float32)
    np.testing.assert_array_equal(compiled(exact.rounded_half_away, x), round_half_away(x))


def test_powers_of_two_come_from_bits() -> None:
    values = np.concatenate([SCALES, np.float32([0.25, 1.0, 2.0])])
    np.testing.assert_array_equal(compiled(exact.binary_exponent, values), np.frexp(values)[1] - 1)
    np.testing.assert_array_equal(
        compiled(exact.power_of_two_above, values), np.exp2(np.ceil(np.log2(values.astype(np.float64))))
    )
