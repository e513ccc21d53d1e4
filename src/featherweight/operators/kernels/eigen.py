"""Eigen's float32 sigmoid and hyperbolic tangent, bit for bit, as LiteRT's float kernels call them.

Eigen computes four values at a time by polynomials, without fused multiply-add as LiteRT is built for x86, and what is
left over by the C library's exp. Sources: Eigen's UnaryFunctors.h (scalar_logistic_op), GenericPacketMathFunctions.h
(ptanh_float) and AssignEvaluator.h (where a vector's values begin to be taken by four); each was confirmed on the
installed runtime.
"""

from __future__ import annotations

import numpy as np

from featherweight.operators.kernels import interpolation

LANES = 4
_TANH_ABOVE = (1.394553628e-8, 2.102733560e-5, 3.520756727e-3, 1.340216100e-1)
_TANH_BELOW = (8.015776984e-7, 3.326951409e-4, 2.597254514e-2, 4.673548340e-1, 1.0)
_TANH_LARGEST = np.float32(7.90738964080810547)
_SIGMOID_LEAST, _SIGMOID_LARGEST = np.float32(-104), np.float32(16.6355324)
_ONE, _HALF = np.float32(1), np.float32(0.5)
# exp(r) = 1 + r + r**2 (p[0] + p[1] r + p[2] r**2 + p[3] r**3); ln 2 in two parts.
_EXP = tuple(
    np.float32(c)
    for c in (0.49999141693115234375, 0.16666877269744873046875, 4.1898667812347412109375e-2, 8.33471305668354034e-3)
)
_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504088896341), np.float32(0.693359375), np.float32(-2.12194440e-4)


def tanh(x: np.ndarray) -> np.ndarray:
    """Returns the hyperbolic tangent of float32 values, a quotient of polynomials."""
    x = np.clip(x, -_TANH_LARGEST, _TANH_LARGEST)
    square = x * x
    return (square * x * _polynomial(square, _TANH_ABOVE) + x) / _polynomial(square, _TANH_BELOW)


def sigmoid(x: np.ndarray, by_four: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)) of float32 values; `by_four` says which ones Eigen takes four at a time."""
    result, by_four = _sigmoid_by_four(x), np.broadcast_to(by_four, x.shape)
    if not by_four.all():
        power = interpolation.libm("exp")(np.minimum(x[~by_four], _SIGMOID_LARGEST))
        result[~by_four] = power / (_ONE + power)
    return result


def taken_by_four(start: int, size: int) -> np.ndarray:
    """Returns a mask of so many values that lie `start` values behind an aligned place in memory."""
    head = min(-start % LANES, size)
    position = np.arange(size) - head
    return (position >= 0) & (position < (size - head) // LANES * LANES)


def _polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    result = np.full(x.shape, np.float32(coefficients[0]))
    for coefficient in coefficients[1:]:
        result = result * x + np.float32(coefficient)
    return result


def _sigmoid_by_four(x: np.ndarray) -> np.ndarray:
    """Returns e / (1 + e) with e = exp(x / 2)**2."""
    half = np.minimum(x, _SIGMOID_LARGEST) * _HALF
    exponent = np.floor(half * _LOG2_E + _HALF)
    rest = half - exponent * _LN2_HIGH
    rest = rest - exponent * _LN2_LOW
    square = rest * rest
    even, odd = square * _EXP[2] + _EXP[0], square * _EXP[3] + _EXP[1]
    power = square * (rest * odd + even) + (rest + _ONE)
    power = np.ldexp(power, exponent.astype(np.int32))
    power = power * power
    return np.where(x < _SIGMOID_LEAST, np.float32(0), power / (_ONE + power))
