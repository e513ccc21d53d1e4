"""Histograms whose merge is exact: the same values give the same bits, in whatever order and shards.

Bins are ``2**exponent`` wide and aligned to zero, and the exponent depends on the largest magnitude alone.
Halving the resolution joins whole bins, so counting finely first and joining later equals counting coarsely
from the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Bins on either side of zero. Between half and all of them are in use: 2048 is what KL calibration was
# designed with.
BINS = 2048
# The smallest width: its reciprocal must be a float32 number. Magnitudes below it fall into the middle bin.
_FINEST = -126
# Values that are worked on at a time: few enough for the cache, enough that threads don't wait for each
# other.
_CHUNK = 1 << 17


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often values occurred.

    Of large tensors a part is counted (`calibration.subsets`), each value for those that it stands for.

    Attributes:
        exponent: bins are ``w = 2**exponent`` wide.
        counts: int64, ``2 * BINS - 1`` bins. Bin ``BINS - 1 + i`` counts values in ``[i * w, (i + 1) * w)`` for
            i > 0, ``(-w, w)`` for i = 0, and ``((i - 1) * w, i * w]`` for i < 0.
        zeros: values that are exactly zero; they are not in `counts`.
        counted: how many values were looked at for all these.
    """

    exponent: int
    counts: np.ndarray
    zeros: int
    counted: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        mine, theirs = ((each.exponent, each.zeros, each.counted) for each in (self, other))
        return mine == theirs and np.array_equal(self.counts, other.counts)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def total(self) -> int:
        """Number of values that the counts stand for, zeros included."""
        return int(self.counts.sum()) + self.zeros

    def merge(self, other: Histogram) -> Histogram:
        """Returns the histogram of both sets of values."""
        exponent = max(self.exponent, other.exponent)
        counts = coarsened(self.counts, exponent - self.exponent) + coarsened(other.counts, exponent - other.exponent)
        return Histogram(exponent, counts, self.zeros + other.zeros, self.counted + other.counted)

    def pieces(self, low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (left, right, count) of all bins that hold something, cut to the known extremes; float64.

        Within a piece nothing is known: take the values as spread evenly over [left, right], maybe one point. An
        extreme beyond all bins, which was not among the counted values, is a piece of one value.
        """
        used = np.flatnonzero(self.counts)
        index = (used - (BINS - 1)).astype(np.float64)
        width = math.ldexp(1.0, self.exponent)
        left = np.clip(np.where(index > 0, index, index - 1) * width, low, high)
        right = np.clip(np.where(index < 0, index, index + 1) * width, low, high)
        count = self.counts[used].astype(np.float64)
        below = [low] if low < 0 and low < left.min(initial=math.inf) else []
        above = [high] if high > 0 and high > right.max(initial=-math.inf) else []
        ones = [[1.0] * len(below), [1.0] * len(above)]
        return (
            np.concatenate([below, left, above]),
            np.concatenate([below, right, above]),
            np.concatenate([ones[0], count, ones[1]]),
        )


def bin_exponent(largest: float) -> int:
    """Returns the exponent of the bin width for values up to a magnitude: ``largest < BINS * 2**exponent``.

    >>> bin_exponent(1.0), bin_exponent(0.999)
    (-10, -11)
    """
    if largest == 0:
        return _FINEST
    return max(math.frexp(largest)[1] - BINS.bit_length() + 1, _FINEST)


def coarsened(counts: np.ndarray, steps: int) -> np.ndarray:
    """Returns the counts of bins that are ``2**steps`` times as wide; exact."""
    if steps == 0:
        return counts
    index = np.arange(1 - BINS, BINS)
    joined = np.sign(index) * (np.abs(index) >> min(steps, 63))
    result = np.zeros_like(counts)
    np.add.at(result, joined + BINS - 1, counts)
    return result


class Scratch:
    """Room to count in, which accumulators of one thread share."""

    def __init__(self) -> None:
        self.scaled = np.empty(_CHUNK, np.float32)
        self.short = np.empty(_CHUNK, np.int32)
        self.index = np.empty(_CHUNK, np.int64)
        self.is_zero = np.empty(_CHUNK, np.bool_)


def extremes(values: np.ndarray) -> tuple[float, float]:
    """Returns the smallest and largest of float32 values; NaN if one is, and (∞, −∞) of none."""
    low, high = math.inf, -math.inf
    flat = values.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        low, high = np.minimum(low, chunk.min()), np.maximum(high, chunk.max())
    return float(low), float(high)


class Accumulator:
    """Collects extremes, and with a `Scratch` a histogram, of one tensor over many runs."""

    def __init__(self, scratch: Scratch | None = None) -> None:
        self.low, self.high = math.inf, -math.inf
        self._scratch = scratch
        self._exponent, self._zeros, self._counted = _FINEST, 0, 0
        self._counts = np.zeros(0 if scratch is None else 2 * BINS - 1, np.int64)

    def widen(self, low: float, high: float) -> None:
        """Adds the extremes of some values, to be followed by the values that are counted."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def count(self, values: np.ndarray, each: int = 1) -> None:
        """Counts finite float32 values (within the extremes by now), each of which stands for so many."""
        if self._scratch is None or not values.size:
            return
        self._counted += values.size
        exponent = bin_exponent(max(-self.low, self.high))
        if exponent > self._exponent:
            self._counts = coarsened(self._counts, exponent - self._exponent)
            self._exponent = exponent
        flat = values.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            self._count(flat[start : start + _CHUNK], each, self._scratch)

    def result(self) -> Histogram | None:
        """Returns the histogram, if one was asked for."""
        if self._scratch is None:
            return None
        return Histogram(self._exponent, self._counts.copy(), self._zeros, self._counted)

    def _count(self, chunk: np.ndarray, each: int, scratch: Scratch) -> None:
        scaled, short, index = (room[: chunk.size] for room in (scratch.scaled, scratch.short, scratch.index))
        is_zero = np.equal(chunk, 0, out=scratch.is_zero[: chunk.size])
        zeros = int(np.count_nonzero(is_zero))
        # The product is exact (or so small that it belongs to the middle bin); the cast cuts towards zero.
        # Two casts, because only those are vectorized.
        np.multiply(chunk, np.float32(math.ldexp(1.0, -self._exponent)), out=scaled)
        np.copyto(short, scaled, casting="unsafe")
        first = 0 if self.low < 0 else BINS - 1
        if self.low < 0:
            np.add(short, BINS - 1, out=short)
        np.copyto(index, short)
        self._counts[first:] += each * np.bincount(index, minlength=2 * BINS - 1 - first)
        self._counts[BINS - 1] -= each * zeros
        self._zeros += each * zeros
