"""What calibration learns about tensors: plain numbers that merge exactly, in any order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featherweight.calibration.details import Magnitudes, lesser
from featherweight.calibration.histogram import Histogram
from featherweight.errors import DataError, listed

# Exact sums keep one int64 per 32 bits: digit k counts units of 2**(32 * k + _LOWEST). They reach from
# 2**-192 to 2**320: a sum over 2**60 squares of float32 numbers fits; per example, what lies below 2**-192
# is dropped.
_DIGITS, _DIGIT_BITS, _LOWEST = 16, 32, -192


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Sums over all values of each channel (index along the last axis), exact across runs.

    Each run's sums are float64; adding runs up is integer arithmetic, so no order changes a bit.

    Attributes:
        count: values per channel.
        sums: int64 digits of Σx, shape (digits, channels).
        squares: int64 digits of Σx².
    """

    count: int
    sums: np.ndarray
    squares: np.ndarray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChannelMoments):
            return NotImplemented
        same = np.array_equal(self.sums, other.sums) and np.array_equal(self.squares, other.squares)
        return self.count == other.count and same

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def mean(self) -> np.ndarray:
        """E[x] per channel, float64."""
        return _value(self.sums, self.count)

    @property
    def mean_square(self) -> np.ndarray:
        """E[x²] per channel, float64."""
        return _value(self.squares, self.count)

    @property
    def variance(self) -> np.ndarray:
        """E[x²] − E[x]² per channel, float64, not below zero."""
        return np.maximum(self.mean_square - self.mean**2, 0.0)

    def merge(self, other: ChannelMoments) -> ChannelMoments:
        """Returns the moments of both sets of values."""
        return ChannelMoments(self.count + other.count, self.sums + other.sums, self.squares + other.squares)


@dataclass(frozen=True)
class TensorStats:
    """What is known about one tensor.

    Attributes:
        count: examples that it was measured over; 0 if it never held a value.
        low: its smallest value (0.0 if it never held one).
        high: its largest value.
        histogram: its values' distribution, if it was asked for.
        channels: its channels' moments, if they were asked for.
        peak: the smallest of its rows' largest values, where an operator normalizes its rows; masked rows left out.
        is_infinite: True where it also held NaN or infinity, which no output showed.
        is_masked: whether it held infinity, or a mask, where a constant may bring one; None where none can.
        magnitudes: how often values of each size occurred, where an operator follows a curve over them.
    """

    count: int
    low: float
    high: float
    histogram: Histogram | None = None
    channels: ChannelMoments | None = None
    peak: float | None = None
    magnitudes: Magnitudes | None = None
    is_infinite: bool = False
    is_masked: bool | None = None

    def merge(self, other: TensorStats) -> TensorStats:
        """Returns the statistics of both sets of values; exact, and the same in any order.

        Raises:
            DataError: if only one of the two has a histogram or moments, or their channels differ.
        """
        for field in ("histogram", "channels"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if self.count and other.count and (mine is None) != (theirs is None):
                raise DataError(f"statistics with and without {field} can't be merged. Collect both alike.")
        if not (self.count and other.count):
            return self if self.count else other
        histogram, channels = self.histogram, self.channels
        if histogram is not None and other.histogram is not None:
            histogram = histogram.merge(other.histogram)
        if channels is not None and other.channels is not None:
            if channels.sums.shape != other.channels.sums.shape:
                found = f"{channels.sums.shape[1]} and {other.channels.sums.shape[1]}"
                raise DataError(f"statistics of {found} channels can't be merged. Collect both from the same model.")
            channels = channels.merge(other.channels)
        low, high = min(self.low, other.low), max(self.high, other.high)
        magnitudes = self.magnitudes or other.magnitudes
        if self.magnitudes is not None and other.magnitudes is not None:
            magnitudes = self.magnitudes.merge(other.magnitudes)
        peak = lesser(self.peak, other.peak)
        return TensorStats(
            self.count + other.count,
            low,
            high,
            histogram,
            channels,
            peak,
            magnitudes,
            self.is_infinite or other.is_infinite,
            self.is_masked if other.is_masked is None else self.is_masked or other.is_masked,
        )


@dataclass(frozen=True)
class Stats:
    """What calibration has learnt about a model: tensor name → `TensorStats`.

    >>> a = Stats(1, {"x": TensorStats(1, -1.0, 0.5)})
    >>> b = Stats(2, {"x": TensorStats(2, 0.0, 3.0)})
    >>> a.merge(b) == b.merge(a)
    True
    >>> a.merge(b).tensors["x"].high
    3.0
    """

    samples: int
    tensors: Mapping[str, TensorStats]

    def __repr__(self) -> str:
        return f"Stats of {len(self.tensors)} tensors over {self.samples} samples"

    def renamed(self, names: Mapping[str, str]) -> Stats:
        """Returns the statistics by other names of tensors; those that `names` lacks stay."""
        return Stats(self.samples, {names.get(name, name): stats for name, stats in self.tensors.items()})

    def merge(self, other: Stats) -> Stats:
        """Returns the statistics of both sets of samples; exact, and the same in any order.

        Raises:
            DataError: if they are about different tensors.
        """
        only = [name for name in (*self.tensors, *other.tensors) if (name in self.tensors) != (name in other.tensors)]
        if only:
            raise DataError(
                f"statistics of different tensors can't be merged: {listed(only)} occur in one of them only. "
                "Collect both from the same model."
            )
        merged = {name: stats.merge(other.tensors[name]) for name, stats in self.tensors.items()}
        return Stats(self.samples + other.samples, merged)

    def save(self, path: str | Path) -> None:
        """Writes the statistics as a file that `load_stats` reads and `quantize` takes as `calibration`.

        Raises:
            FeatherweightError: if the file can't be written; one that was there stays.
        """
        from featherweight.calibration.stats_file import save_stats

        save_stats(self, path)

    def beside(self, other: Stats) -> Stats:
        """Returns the statistics of the tensors of both: those of another graph of the same model."""
        return Stats(self.samples + other.samples, {**self.tensors, **other.tensors})


def channel_moments(values: np.ndarray, rows: int) -> ChannelMoments:
    """Returns the moments of float32 values of shape (rows, …, channels); each row adds as if alone."""
    channels = values.shape[-1] if values.ndim else 1
    parts = values if values.ndim > 1 and values.shape[0] == rows else [values]
    sums = np.zeros((_DIGITS, channels), np.int64)
    squares = np.zeros((_DIGITS, channels), np.int64)
    for part in parts:
        wide = part.reshape(-1, channels).astype(np.float64)
        sums += _digits(wide.sum(axis=0))
        squares += _digits(np.einsum("nc,nc->c", wide, wide))
    return ChannelMoments(values.size // channels if channels else 0, sums, squares)


def _digits(values: np.ndarray) -> np.ndarray:
    """Splits float64 values (any sign) into int64 digits to the base 2**32; exact down to 2**-192."""
    result = np.zeros((_DIGITS, values.size), np.int64)
    rest = values.copy()
    for digit in reversed(range(_DIGITS)):
        unit = math.ldexp(1.0, digit * _DIGIT_BITS + _LOWEST)
        whole = np.trunc(rest / unit)
        if whole.any():
            result[digit] = whole
            rest -= whole * unit
    return result


def _value(digits: np.ndarray, count: int) -> np.ndarray:
    """Returns ``Σ digit[k] * 2**(32 k - 192) / count``, correctly rounded, per channel."""
    weights = [1 << (k * _DIGIT_BITS) for k in range(_DIGITS)]
    unit = max(count, 1) << -_LOWEST
    return np.array([sum(d * w for d, w in zip(column.tolist(), weights, strict=True)) / unit for column in digits.T])
