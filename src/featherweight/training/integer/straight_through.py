"""Integer arithmetic inside a training step: forward the kernel's integers, backward the straight-through estimate.

Activations are *centred* integers, ``q - zero_point``, held in float32: sums of their products are exact below 2**24.
Three things that compilers do would break the equality, and are kept from happening (each was seen on XLA's CPUs):

* a division by a constant or by one broadcast number becomes a product with its reciprocal: `quotient`;
* a product whose reader is a sum is contracted with it, one rounding instead of two: a clip stands between them;
* ``log2`` and ``power`` are approximations: exponents and powers of two come from the bits of a number.

Source of the estimator: Bengio et al., 1308.3432; of its mask, no gradient outside the clipping range: Jacob et al.,
1712.05877, section 3. Gradients of scales (Esser et al., 1902.08153, section 2.1) follow by the chain rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.operators.call import Array, is_static
from featherweight.training.graph.own_gradients import with_gradient
from featherweight.training.graph.registry import ops

ALMOST_HALF = float(np.nextafter(np.float32(0.5), np.float32(0)))


def quotient(dividend: Array, divisor: Array, zero: Array) -> Array:
    """Returns the correctly rounded float32 quotient; `zero` is a variable that holds 0, so that nothing folds it."""
    if is_static(dividend) and is_static(divisor):
        return np.divide(dividend, divisor, dtype=np.float32)
    return ops.divide(dividend, ops.add(divisor, ops.multiply(zero, dividend)))


def reciprocal(x: Array, zero: Array) -> Array:
    """Returns the correctly rounded float32 reciprocal (TensorFlow approximates that of a constant dividend)."""
    return np.float32(1) / x if is_static(x) else quotient(zero + np.float32(1), x, zero)


def joined(x: Array, y: Array) -> Array:
    """Returns the float32 product of two scales."""
    return x * y if is_static(x) and is_static(y) else ops.multiply(x, y)


def bounded(x: Array, low: Array, high: Array) -> Array:
    """Clips to [low, high]; the gradient passes to x inside, ends included, and to the bound that holds outside."""
    return ops.where(x > high, high, ops.where(x < low, low, x))


def rounded(x: Array) -> Array:
    """Rounds half to even; the gradient passes."""
    return _ROUNDED(x)


def rounded_half_away(x: Array) -> Array:
    """Rounds ties away from zero; the gradient passes. `x` must not be a bare product (see above)."""
    return _ROUNDED_HALF_AWAY(x)


def rounded_away(x: Array, xp: Any = ops) -> Array:
    """Returns float32 numbers rounded, ties away from zero; without a gradient."""
    return xp.sign(x) * xp.floor(xp.abs(x) + np.float32(ALMOST_HALF))


def standing_for(value: Array, surrogate: Array) -> Array:
    """Returns `value` with the gradient of `surrogate`, which has its shape."""
    return _STANDING_FOR(value, surrogate)


def requantized(x: Array, factor: Array, low: Array, high: Array, *, half_away: bool = False) -> Array:
    """Returns ``round(clip(x * factor, low, high))``, ties to even: what XNNPACK makes of an accumulator.

    As ``rounded(bounded(x * factor, low, high))`` with constants for the last three, but it keeps one mask for the
    gradient and nothing else, and takes few operations of a compiled step.

    Args:
        x: accumulators, or real numbers.
        factor: what broadcasts along them.
        low: the smallest result.
        high: the largest.
        half_away: ties go away from zero, as in `rounded_half_away`.
    """
    numbers = (ops.convert_to_tensor(number, dtype="float32") for number in (factor, low, high))
    return (_REQUANTIZED_AWAY if half_away else _REQUANTIZED)(x, *numbers)


def _clipped_product(x: Array, factor: Array, low: Array, high: Array) -> tuple[Array, tuple[Array, ...]]:
    product = ops.multiply(x, factor)
    clipped = ops.minimum(ops.maximum(product, low), high)
    return clipped, (product, clipped, factor)


def _to_even(x: Array, factor: Array, low: Array, high: Array) -> tuple[Array, tuple[Array, ...]]:
    clipped, kept = _clipped_product(x, factor, low, high)
    return ops.round(clipped), kept


def _away(x: Array, factor: Array, low: Array, high: Array) -> tuple[Array, tuple[Array, ...]]:
    clipped, kept = _clipped_product(x, factor, low, high)
    return rounded_away(clipped), kept


def _inside(kept: tuple[Array, ...], upstream: Array) -> tuple[Array, ...]:
    product, clipped, factor = kept
    gradient = ops.where(ops.equal(product, clipped), upstream * factor, 0.0)
    return gradient, None, None, None


def _passed(kept: Any, upstream: Array) -> tuple[Array]:
    return (upstream,)


_ROUNDED = with_gradient(lambda x: (ops.round(x), None), _passed)
_ROUNDED_HALF_AWAY = with_gradient(lambda x: (rounded_away(x), None), _passed)
_STANDING_FOR = with_gradient(lambda value, surrogate: (value, None), lambda kept, upstream: (None, upstream))
_REQUANTIZED, _REQUANTIZED_AWAY = with_gradient(_to_even, _inside), with_gradient(_away, _inside)
_DAMPED = with_gradient(lambda x, factor: (x, factor), lambda factor, upstream: (upstream * factor, None))


def binary_exponent(x: Array) -> Array:
    """Returns ``floor(log2(x))`` of positive normal float32 numbers, int32."""
    if is_static(x):
        return np.int32(np.frexp(x)[1] - 1)
    return ops.right_shift(ops.view(x, "int32"), 23) - 127


def power_of_two(exponent: Array) -> Array:
    """Returns ``2**exponent`` in float32 for int32 exponents in [-126, 127]."""
    if is_static(exponent):
        return np.ldexp(np.float32(1), exponent)
    return ops.view(ops.left_shift(exponent + 127, 23), "float32")


def power_of_two_above(x: Array) -> Array:
    """Returns the smallest power of two that is not below positive normal float32 numbers."""
    exponent = binary_exponent(x)
    return power_of_two(exponent + ops.cast(x > power_of_two(exponent), "int32"))


def damped(x: Array, factor: float) -> Array:
    """Returns x; its gradient is multiplied by a factor."""
    return _DAMPED(x, ops.convert_to_tensor(factor, dtype="float32"))
