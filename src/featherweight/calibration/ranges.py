"""Range methods: from what a tensor held to the range that its integers shall cover.

A method is a function ``(stats, dtype, symmetric) -> (low, high)``; every range contains zero and lies within
the extremes (widened to zero). Zeros are exact on every grid, so they carry no error and distort nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from featherweight.calibration.histogram import Histogram
from featherweight.calibration.stats import TensorStats
from featherweight.errors import DataError, RecipeError, listed
from featherweight.graph.numerics import integer_range, params_from_range

RangeMethod = Callable[[TensorStats, str, bool], tuple[float, float]]
# What the clip searches try: these fractions of the extremes.
FRACTIONS = np.linspace(1.0, 0.2, 81)
DEFAULT_PERCENTILE = 99.99


@dataclass(frozen=True)
class _Entry:
    method: RangeMethod
    needs_histogram: bool


RANGE_METHODS: dict[str, _Entry] = {}


def register_range_method(name: str, *, needs_histogram: bool) -> Callable[[RangeMethod], RangeMethod]:
    """Adds a range method under a name; raises ValueError if the name is taken."""

    def add(method: RangeMethod) -> RangeMethod:
        if name in RANGE_METHODS:
            raise ValueError(f"range method {name} is registered twice")
        RANGE_METHODS[name] = _Entry(method, needs_histogram)
        return method

    return add


def needs_histogram(method: str) -> bool:
    """Says whether a range method needs `calibrate(..., histograms=True)`.

    Raises:
        RecipeError: if there is no such method.

    >>> needs_histogram("minmax"), needs_histogram("percentile:99.9")
    (False, True)
    """
    return _resolved(method).needs_histogram


def find_range(
    stats: TensorStats,
    method: str = "minmax",
    dtype: str = "int8",
    *,
    symmetric: bool = False,
    where: str = "tensor",
) -> tuple[float, float]:
    """Returns (low, high), which contains zero, by a method's name; percentiles and clips may carry a number.

    Of a tensor that held one value only, nothing is clipped.

    Raises:
        RecipeError: if there is no such method.
        DataError: if it needs a histogram and there is none.

    >>> find_range(TensorStats(1, 0.5, 3.0))
    (0.0, 3.0)
    """
    entry = _resolved(method)
    if entry.needs_histogram and stats.histogram is None and stats.count:
        raise DataError(f"{where}: range method '{method}' needs a histogram. Calibrate with histograms=True.")
    low, high = _extremes(stats)
    if stats.low == stats.high or not stats.count:
        return low, high
    found = entry.method(stats, dtype, symmetric)
    return min(max(float(found[0]), low), 0.0), max(min(float(found[1]), high), 0.0)


def _resolved(method: str) -> _Entry:
    name, colon, argument = method.partition(":")
    if name not in RANGE_METHODS or (colon and name not in _NUMBERED):
        raise RecipeError(
            f"range method '{method}' is unknown (allowed: {listed(RANGE_METHODS)}, percentile:NUMBER, clip:NUMBER). "
            "Choose one of them."
        )
    if not colon:
        return RANGE_METHODS[name]
    numbered = _NUMBERED[name]
    try:
        number = float(argument)
    except ValueError:
        number = math.nan
    if not numbered.above < number <= numbered.at_most:
        raise RecipeError(f"range method '{method}': {numbered.meaning}.")
    return _Entry(lambda stats, dtype, symmetric: numbered.method(stats, number), RANGE_METHODS[name].needs_histogram)


def _extremes(stats: TensorStats) -> tuple[float, float]:
    return min(stats.low, 0.0), max(stats.high, 0.0)


def _histogram(stats: TensorStats) -> Histogram:
    if stats.histogram is None:
        raise DataError("this range method needs a histogram. Calibrate with histograms=True.")
    return stats.histogram


@register_range_method("minmax", needs_histogram=False)
def minmax(stats: TensorStats, dtype: str, symmetric: bool) -> tuple[float, float]:
    """Returns the extremes: nothing is clipped."""
    return _extremes(stats)


@register_range_method("percentile", needs_histogram=True)
def percentile(stats: TensorStats, dtype: str, symmetric: bool) -> tuple[float, float]:
    """Returns `percentile_range` at 99.99 %."""
    return percentile_range(stats, DEFAULT_PERCENTILE)


def percentile_range(stats: TensorStats, percent: float) -> tuple[float, float]:
    """Returns the range beyond which, on either side, lie at most ``100 - percent`` per cent of all values.

    Within a bin, values count as evenly spread. With 100 it is minmax.
    """
    histogram = _histogram(stats)
    left, right, count = histogram.pieces(stats.low, stats.high)
    allowed = (1 - percent / 100) * histogram.total
    high = _cut(right[::-1], left[::-1], count[::-1], allowed)
    low = _cut(left, right, count, allowed)
    return low, high


def share_beyond(stats: TensorStats, low: float, high: float) -> float:
    """Returns the share (0..1) of a tensor's values that lie outside [low, high], by its histogram.

    >>> share_beyond(TensorStats(1, -1.0, 1.0), -1.0, 1.0)
    0.0
    """
    if low <= stats.low and stats.high <= high:
        return 0.0
    left, right, count = _histogram(stats).pieces(stats.low, stats.high)
    width = right - left
    inside = np.minimum(right, high) - np.maximum(left, low)
    is_inside = (left >= low) & (right <= high)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(is_inside, 1.0, np.where(width > 0, np.clip(inside / width, 0.0, 1.0), 0.0))
    return float(np.sum(count * (1 - kept)) / max(_histogram(stats).total, 1))


def _cut(outer: np.ndarray, inner: np.ndarray, count: np.ndarray, allowed: float) -> float:
    """Returns where `allowed` values lie outside, walking inwards over pieces from the outermost."""
    passed = np.cumsum(count)
    index = int(np.searchsorted(passed, allowed, side="right"))
    if index >= len(count):
        return 0.0
    inside = (allowed - (passed[index] - count[index])) / count[index]
    return float(outer[index] + inside * (inner[index] - outer[index]))


@register_range_method("clip", needs_histogram=False)
def clip(stats: TensorStats, dtype: str, symmetric: bool) -> tuple[float, float]:
    """Returns `clipped_range` at 0.9."""
    return clipped_range(stats, 0.9)


def clipped_range(stats: TensorStats, fraction: float) -> tuple[float, float]:
    """Returns the extremes times a fraction: blunt, and told from the extremes alone."""
    low, high = _extremes(stats)
    return low * fraction, high * fraction


@register_range_method("auto", needs_histogram=True)
def auto(stats: TensorStats, dtype: str, symmetric: bool) -> tuple[float, float]:
    """Raises RecipeError: which range serves the readers of a tensor best can't be told from its statistics."""
    raise RecipeError(
        "range method 'auto' is chosen by running the model on samples. Use quantize(…, ranges='auto'), or choose "
        "another method here."
    )


@register_range_method("mse", needs_histogram=True)
def mse(stats: TensorStats, dtype: str, symmetric: bool) -> tuple[float, float]:
    """Returns the clipping with the least mean squared error of rounding and clipping together (L2, p = 2).

    Tries 81 fractions of the larger end, both ends alike first, then of each end alone. Wider wins a tie.
    """
    pieces = _histogram(stats).pieces(stats.low, stats.high)
    low, high = _extremes(stats)

    def error(low: float, high: float) -> float:
        return squared_error(pieces, low, high, dtype, symmetric)

    together = _best([(low * f, high * f) for f in FRACTIONS], error)
    if symmetric or low == 0 or high == 0:
        return together
    first = _best([together, *((together[0], high * f) for f in FRACTIONS)], error)
    return _best([first, *((low * f, first[1]) for f in FRACTIONS)], error)


def _best(candidates: list[tuple[float, float]], loss: Callable[[float, float], float]) -> tuple[float, float]:
    losses = [loss(low, high) for low, high in candidates]
    return candidates[int(np.argmin(losses))]


def squared_error(
    pieces: tuple[np.ndarray, np.ndarray, np.ndarray], low: float, high: float, dtype: str, symmetric: bool
) -> float:
    """Returns the sum of squared errors that the grid of [low, high] makes on a histogram's pieces.

    Exact for values spread evenly within each piece: ``∫ (x − Q(x))² dx`` has a closed form, in units of the
    scale, u = x / s: each grid cell contributes 1/12, a part of a cell (e³ + 1/8) / 3 with e the distance
    from its grid point, and beyond the outermost grid point p the error is (u − p)².
    """
    params = params_from_range(low, high, dtype, symmetric=symmetric)
    scale, zero_point = params.scale[0], params.zero_point[0]
    qmin, qmax = integer_range(dtype)
    bottom, top = qmin - zero_point, qmax - zero_point
    edges, count = np.concatenate([pieces[0], pieces[1]]) / scale, pieces[2]
    inside = np.minimum(np.maximum(edges, bottom), top)
    cell = np.floor(inside + 0.5)
    part, beyond = inside - cell, edges - inside
    # The antiderivative of the squared error, at both edges of each piece; products, because powers are slow.
    integral = (cell - bottom) / 12 + (part * part * part + 0.125) / 3 + beyond * beyond * beyond / 3
    size = len(count)
    width = edges[size:] - edges[:size]
    is_spread = width > 1e-6 * np.maximum(np.abs(edges[:size]), 1.0)
    mean = np.square((edges - cell)[:size])
    np.divide(integral[size:] - integral[:size], width, out=mean, where=is_spread)
    return float(np.dot(np.maximum(mean, 0.0), count)) * scale * scale


@register_range_method("entropy", needs_histogram=True)
def entropy(stats: TensorStats, dtype: str, symmetric: bool) -> tuple[float, float]:
    """Returns the clipping with the least Kullback–Leibler divergence of the quantized distribution.

    After Migacz, "8-bit inference with TensorRT" (2017), on 1024 to 2048 bins either side of zero: P is the
    histogram with what is clipped added to its outermost bins; Q spreads each grid cell's count over the
    occupied bins of the cell. Grids finer than the bins are not tried: they would look perfect. Wider wins a
    tie.
    """
    left, right, count = _histogram(stats).pieces(stats.low, stats.high)
    width = math.ldexp(1.0, _histogram(stats).exponent)
    low, high = _extremes(stats)
    qmin, qmax = integer_range(dtype)
    centre = (left + right) / 2
    candidates: list[tuple[float, float]] = []
    for fraction in FRACTIONS:
        span = 2 * max(-low, high) if symmetric else high - low
        if fraction == 1.0 or span * fraction / (qmax - qmin) >= width:
            candidates.append((low * fraction, high * fraction))
    return _best(candidates, lambda lo, hi: _divergence(centre, count, lo, hi, dtype, symmetric))


def _divergence(centre: np.ndarray, count: np.ndarray, low: float, high: float, dtype: str, symmetric: bool) -> float:
    """Returns KL(P ‖ Q) in nats for one clipping; bins ascend."""
    params = params_from_range(low, high, dtype, symmetric=symmetric)
    scale, zero_point = params.scale[0], params.zero_point[0]
    qmin, qmax = integer_range(dtype)
    bottom, top = (qmin - zero_point) * scale, (qmax - zero_point) * scale
    kept = (centre >= bottom) & (centre <= top)
    if not kept.any():
        return math.inf
    inside = count[kept]
    expected = inside.copy()
    expected[0] += count[centre < bottom].sum()
    expected[-1] += count[centre > top].sum()
    cell = np.floor(centre[kept] / scale + 0.5).astype(np.int64)
    _, member = np.unique(cell, return_inverse=True)
    shared = (np.bincount(member, weights=inside) / np.bincount(member))[member]
    p, q = expected / expected.sum(), shared / shared.sum()
    return float(np.sum(p * np.log(p / q)))


@dataclass(frozen=True)
class _Numbered:
    """A method that takes a number behind a colon, within bounds."""

    method: Callable[[TensorStats, float], tuple[float, float]]
    above: float
    at_most: float
    meaning: str


_NUMBERED = {
    "percentile": _Numbered(
        percentile_range, 50.0, 100.0, "the percentile must be a number above 50, at most 100, as in 99.99"
    ),
    "clip": _Numbered(clipped_range, 0.0, 1.0, "the fraction must be a number above 0, at most 1, as in 0.9"),
}
