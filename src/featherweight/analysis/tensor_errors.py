"""How far two tensors are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.graph.numerics import QuantParams, integer_range

# Elements per step: float64 copies of so many stay in the cache.
_CHUNK = 1 << 16


@dataclass(frozen=True)
class ErrorSums:
    """What a tensor's error is computed from, summed in float64 over elements; ``a + b`` covers both.

    With x the float value, y the other's, e = x - y: `signal` is Σx², `other_signal` Σy², `product` Σxy,
    `noise` Σe², `clipping_noise` the part of `noise` where x lies outside of the integers' range, `clipped`
    the number of such elements, `largest` max|e|, `differing` the number of elements with e ≠ 0. Elements where
    x itself is not finite count in `skipped` only.
    """

    count: int = 0
    skipped: int = 0
    signal: float = 0.0
    other_signal: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    clipping_noise: float = 0.0
    clipped: int = 0
    largest: float = 0.0
    differing: int = 0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.count + other.count,
            self.skipped + other.skipped,
            self.signal + other.signal,
            self.other_signal + other.other_signal,
            self.product + other.product,
            self.noise + other.noise,
            self.clipping_noise + other.clipping_noise,
            self.clipped + other.clipped,
            max(self.largest, other.largest),
            self.differing + other.differing,
        )


def error_sums(x: np.ndarray, y: np.ndarray, params: QuantParams | None = None) -> ErrorSums:
    """Returns the sums for float values `x` and their counterparts `y`, of one shape.

    `params` are those of the integers behind `y`. A value counts as clipped if it lies more than half a step
    outside of [scale * (qmin - zero_point), scale * (qmax - zero_point)]: up to there its error is no larger
    than rounding makes it anyway. Parameters in blocks give no range, so nothing counts as clipped.

    >>> sums = error_sums(np.array([0.1, 9.0]), np.array([0.0, 2.0]), QuantParams("int8", (2 / 127,), (0,)))
    >>> sums.clipped, sums.clipping_noise
    (1, 49.0)
    """
    x, y = np.asarray(x), np.asarray(y)
    low, high = (-np.inf, np.inf) if params is None or not params.scale else _clip_bounds(params, x.ndim)
    if np.ndim(low):  # per channel: constants only, which are small
        return _chunk_sums(x.astype(np.float64), y.astype(np.float64), low, high)
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    sums = ErrorSums()
    for start in range(0, flat_x.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        sums += _chunk_sums(flat_x[part].astype(np.float64), flat_y[part].astype(np.float64), low, high)
    return sums


@np.errstate(invalid="ignore", over="ignore")
def _chunk_sums(x: np.ndarray, y: np.ndarray, low: Any, high: Any) -> ErrorSums:
    error = x - y
    signal, noise = _dot(x, x), _dot(error, error)
    skipped = 0
    if not math.isfinite(signal + noise):
        finite = np.isfinite(x)
        skipped = int(x.size - np.count_nonzero(finite))
        x, y = np.where(finite, x, 0.0), np.where(finite, np.where(np.isnan(y), np.inf, y), 0.0)
        error = x - y
        signal, noise = float(np.square(x).sum()), float(np.square(error).sum())
    outside = (x < low) | (x > high)
    clipped = int(np.count_nonzero(outside))
    return ErrorSums(
        count=x.size - skipped,
        skipped=skipped,
        signal=signal,
        other_signal=float(np.square(y).sum()) if skipped else _dot(y, y),
        product=float(np.where(x == 0, 0.0, x * y).sum()) if math.isinf(noise) else _dot(x, y),
        noise=noise,
        clipping_noise=float(np.square(error[outside]).sum()) if clipped else 0.0,
        clipped=clipped,
        largest=float(np.abs(error).max(initial=0.0)),
        differing=int(np.count_nonzero(error)),
    )


def _dot(x: np.ndarray, y: np.ndarray) -> float:
    """Σxy without BLAS, whose threads would contend with the runtime's for so few elements."""
    return float(np.einsum("i,i->", x.reshape(-1), y.reshape(-1)))


def _clip_bounds(params: QuantParams, ndim: int) -> tuple[Any, Any]:
    qmin, qmax = integer_range(params.dtype)
    shape = [-1 if d == params.axis else 1 for d in range(ndim)] if len(params.scale) > 1 else []
    scale = np.asarray(params.scale, np.float64).reshape(shape)
    zero_point = np.asarray(params.zero_point, np.float64).reshape(shape)
    return scale * (qmin - 0.5 - zero_point), scale * (qmax + 0.5 - zero_point)


def power_ratio_db(signal: float, noise: float) -> float:
    """Returns ``10 * log10(signal / noise)``: inf without noise, -inf for noise without (or beyond) signal.

    >>> power_ratio_db(100.0, 1.0), power_ratio_db(0.0, 0.0)
    (20.0, inf)
    """
    if noise == 0:
        return math.inf
    if signal == 0 or not math.isfinite(noise):
        return -math.inf
    return 10 * (math.log10(signal) - math.log10(noise))


def sqnr_db(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the signal-to-quantization-noise ratio ``10 * log10(Σx² / Σ(x - y)²)`` in dB.

    >>> round(sqnr_db(np.array([1.0, -1.0]), np.array([1.1, -1.1])), 3)
    20.0
    """
    sums = error_sums(x, y)
    return power_ratio_db(sums.signal, sums.noise)


def cosine(sums: ErrorSums) -> float:
    """Returns ``Σxy / sqrt(Σx² Σy²)`` in -1..1; 1 where both are zero, 0 where one is."""
    if sums.signal == 0 or sums.other_signal == 0:
        return 1.0 if sums.signal == sums.other_signal else 0.0
    if not math.isfinite(sums.other_signal):
        return 0.0
    value = sums.product / (math.sqrt(sums.signal) * math.sqrt(sums.other_signal))
    return min(max(value, -1.0), 1.0)
