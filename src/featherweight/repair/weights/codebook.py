"""Weights rounded to a kernel's few levels, in units of each row's largest weight: int8 makes them the same integers.

A file of int8 weights has a scale for every output channel, its largest weight by 127. Levels that are integers of that
unit, the largest among them, are the same integers in every channel: one table of values serves the whole layer, as
TFLite Micro's DECODE, Vela and zip want it. Levels of the real numbers themselves would be other integers in each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from featherweight.clustering.levels import LARGEST, best_levels
from featherweight.repair.weights.gptq import Grid, gptq, settled, with_fitted_scales

# Of a scale: a weight in units of it is next to 0, which is a level where weights are to stay 0.
_ENDLESS = 1e30
_ROUNDS = 3


class Codebook(NamedTuple):
    """The levels that a weight's rows may have: ``real = scale * level``; it stands in for a `Grid`.

    Attributes:
        scale: (groups, rows, 1) or (groups, rows, depth).
        levels: integers, sorted.
    """

    scale: np.ndarray
    levels: np.ndarray

    @property
    def block(self) -> int:
        """As a `Grid` whose rows are not divided into blocks."""
        return 0

    def integers(self, values: np.ndarray) -> np.ndarray:
        """Returns the nearest levels of values, as float64."""
        between = (self.levels[1:] + self.levels[:-1]) / 2
        return self.levels[np.searchsorted(between, values / self.scale)].astype(np.float64)

    def values(self, integers: np.ndarray) -> np.ndarray:
        """Returns what levels stand for."""
        return self.scale * integers

    def scaled(self, factors: np.ndarray | float) -> Codebook:
        """Returns the codebook with scales multiplied by these."""
        return self._replace(scale=self.scale * factors)


class Clustered(NamedTuple):
    """A kernel's rows on few levels.

    Attributes:
        values: (rows, depth), float32.
        integers: what int8 makes of them, (rows, depth).
        levels: the integers that occur.
    """

    values: np.ndarray
    integers: np.ndarray
    levels: np.ndarray


def clustered(rows: np.ndarray, clusters: int, moments: np.ndarray | None, *, per_channel: bool = True) -> Clustered:
    """Returns the rows of a kernel on at most `clusters` levels; weights that are 0 stay 0.

    Levels are those of the smallest squared error, in which a weight counts by the second moment of its input where
    that is known; scales and levels are fitted to each other in turns. With moments, weights are then rounded by GPTQ,
    so that those behind make up for those before.

    Args:
        rows: (rows, depth).
        clusters: 4 to 128.
        moments: ``Σ x xᵀ`` of each group's inputs, (groups, depth, depth), or None.
        per_channel: whether rows have scales of their own.
    """
    groups = 1 if moments is None else len(moments)
    weights = rows.reshape(groups, -1, rows.shape[1]).astype(np.float64)
    is_zero = weights == 0
    unit = np.abs(weights).max(axis=2, keepdims=True)
    unit = np.where(unit > 0, unit, 1.0) if per_channel else np.full_like(unit, max(float(unit.max()), 1e-30))
    importance = np.ones_like(weights) if moments is None else _importance(moments, weights.shape)
    book, integers = _fitted(weights, importance, unit / LARGEST, clusters, is_zero, per_channel=per_channel)
    if moments is not None:
        kept = book._replace(scale=np.where(is_zero, _ENDLESS, np.broadcast_to(book.scale, weights.shape)))
        found = gptq(weights, moments, _as_grid(kept))
        if found is not None:
            found = settled(weights, moments, _as_grid(kept), found)
            integers = _reaching(np.where(is_zero, 0.0, found), weights, book.levels, per_channel=per_channel)
            fitted = with_fitted_scales(weights, moments, _as_grid(book), integers).scale
            # (One scale for all rows can't be fitted row by row.)
            book = book._replace(scale=fitted) if per_channel else book
    values = book.values(integers).reshape(rows.shape).astype(np.float32)
    return Clustered(values, integers.reshape(rows.shape).astype(np.int8), np.unique(integers).astype(np.int64))


def _as_grid(book: Codebook) -> Grid:
    """Returns the codebook as what GPTQ rounds to: it has all that this asks of a grid."""
    return book  # pyright: ignore[reportReturnType]


def _importance(moments: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns how much a weight's error counts at the output, by the diagonal of the moments, dampened a little."""
    diagonal = np.diagonal(moments, axis1=1, axis2=2)
    mean = diagonal.mean(axis=1, keepdims=True)
    return np.broadcast_to((diagonal + np.where(mean > 0, 0.01 * mean, 1.0))[:, None], shape)


def _fitted(
    weights: np.ndarray,
    importance: np.ndarray,
    scale: np.ndarray,
    clusters: int,
    is_zero: np.ndarray,
    *,
    per_channel: bool,
) -> tuple[Codebook, np.ndarray]:
    """Returns the levels and scales of the smallest weighted error, found in turns, and the integers."""
    book, integers = Codebook(scale, np.array([0])), np.zeros_like(weights)
    for _ in range(_ROUNDS):
        units = weights / scale
        largest = np.take_along_axis(units, np.abs(units).argmax(axis=2)[..., None], 2)
        fixed = {LARGEST if one > 0 else -LARGEST for one in largest.ravel() if one}
        fixed |= {0} if is_zero.any() else set()
        matters = importance * scale**2 * ~is_zero
        levels = best_levels(units.ravel(), matters.ravel(), clusters, tuple(sorted(fixed)))
        book = Codebook(scale, levels)
        integers = np.where(is_zero, 0.0, book.integers(weights))
        integers = _reaching(integers, weights, levels, per_channel=per_channel)
        axes = 2 if per_channel else None
        power = (importance * integers**2).sum(axis=axes, keepdims=True)
        fit = (importance * weights * integers).sum(axis=axes, keepdims=True)
        scale = np.where((power > 0) & (fit > 0), fit / np.where(power > 0, power, 1.0), scale)
        scale = np.broadcast_to(scale, book.scale.shape)
    return book._replace(scale=scale), integers


def _reaching(integers: np.ndarray, weights: np.ndarray, levels: np.ndarray, *, per_channel: bool) -> np.ndarray:
    """Returns the integers with the largest weight of each row (of all rows) at the largest level, its unit."""
    shaped = integers if per_channel else integers.reshape(1, 1, -1)
    real = weights if per_channel else weights.reshape(1, 1, -1)
    place = np.abs(real).argmax(axis=2)[..., None]
    sign = np.sign(np.take_along_axis(real, place, 2))
    # (Where a level of the right sign is missing, the other end of the row is as large.)
    ends = np.where(np.isin(sign * LARGEST, levels), sign * LARGEST, np.take_along_axis(shaped, place, 2))
    shaped = shaped.copy()
    np.put_along_axis(shaped, place, ends, 2)
    return shaped.reshape(integers.shape)
