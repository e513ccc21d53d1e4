"""GPTQ: weights are rounded one after the other, and those that are not yet rounded make up for the error.

Frantar et al., 2210.17323, for rows that share a second moment H of their inputs. With the Cholesky factor of
``H = L Lᵀ``, the error of the output is ``|(w − q) L|²``. From the last column to the first, each makes its own part of
that 0, but for rounding: ``q_j = Q(w_j + Σ_{i>j} (w_i − q_i) L_ij / L_jj)``. That is the paper's algorithm 1, which
takes the factor of H⁻¹, without the inverse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Of the mean of H's diagonal, added to it (2210.17323, section 3.3, step 3).
DAMPING = 0.01
_PASSES = 2
_BLOCK = 128
# Matrices from here on are factored in place.
_LARGE = 1024
# Weights that are worked on at a time, in float64: 4 MB of each of some arrays.
_ELEMENTS = 1 << 19
# Rows of a weight whose scales are fitted at a time.
_ROWS = 64
_TRIES = 6


class Grid(NamedTuple):
    """The integers of a weight's rows: ``real = scale * (q − zero_point)``.

    Attributes:
        scale: (groups, rows, 1), or (groups, rows, depth) where blocks have their own.
        zero_point, low, high: of all integers.
        block: how many weights one after the other share a scale; 0 where all of a row do.
    """

    scale: np.ndarray
    zero_point: int
    low: int
    high: int
    block: int = 0

    def integers(self, values: np.ndarray) -> np.ndarray:
        """Returns the nearest integers of (groups, rows, depth) values, as float64."""
        return np.clip(np.rint(values / self.scale) + self.zero_point, self.low, self.high)

    def values(self, integers: np.ndarray) -> np.ndarray:
        """Returns what integers stand for."""
        return self.scale * (integers - self.zero_point)

    def scaled(self, factors: np.ndarray | float) -> Grid:
        """Returns the grid with scales multiplied by these, as files hold them: float32, those of blocks float16."""
        kind = np.float16 if self.block else np.float32
        scale = np.broadcast_to(self.scale * factors, self.scale.shape).astype(kind)
        return self._replace(scale=np.maximum(scale, np.finfo(kind).tiny).astype(np.float64))


def damping_of(moments: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Returns a part of the mean diagonal of each group's H, to be added to its diagonal; 1 where H is 0."""
    mean = np.diagonal(moments, axis1=-2, axis2=-1).mean(axis=-1)
    return np.where(mean > 0, damping * mean, 1.0)


def factor_of(moments: np.ndarray, order: np.ndarray) -> np.ndarray | None:
    """Returns the lower Cholesky factor of each group's H, more damped where that is singular, or None.

    Args:
        moments: (groups, depth, depth).
        order: of columns, (groups, depth): the factor's first is the one named first.
    """
    damping, places = DAMPING, np.arange(moments.shape[-1])
    groups = np.arange(len(moments))[:, None, None]
    if not np.isfinite(moments).all():
        return None
    for _ in range(_TRIES):
        hessian = moments[groups, order[:, :, None], order[:, None, :]]
        hessian[:, places, places] += damping_of(moments, damping)[:, None]
        try:
            found = cholesky(hessian)
        except np.linalg.LinAlgError:
            found = None
        if found is not None and np.isfinite(found).all():
            return found
        damping *= 10
    return None


def cholesky(matrices: np.ndarray) -> np.ndarray:
    """Returns lower Cholesky factors of matrices (groups, depth, depth); large ones are overwritten, without a copy.

    What such a factor holds above its diagonal means nothing.

    Raises:
        LinAlgError: if one is not positive definite.
    """
    depth = matrices.shape[-1]
    if depth <= _LARGE:
        return np.linalg.cholesky(matrices)
    for matrix in matrices:
        for start in range(0, depth, _BLOCK):
            end = min(start + _BLOCK, depth)
            own, below = matrix[start:end, start:end], matrix[end:, start:end]
            own[:] = np.linalg.cholesky(own)
            below[:] = np.linalg.solve(own, below.T).T
            for first in range(end, depth, _BLOCK):
                last = first + _BLOCK
                matrix[first:, first:last] -= below[first - end :] @ below[first - end : last - end].T
    return matrices


def of_rows(grid: Grid, part: slice) -> Grid:
    """Returns the grid of some rows."""
    return grid._replace(scale=grid.scale[:, part])


def _of_column(grid: Grid, column: int) -> Grid:
    """Returns the grid of one column, of scales (groups, rows)."""
    return grid._replace(scale=grid.scale[:, :, column if grid.scale.shape[2] > 1 else 0])


def row_parts(weights: np.ndarray) -> Iterator[slice]:
    """Yields the rows of weights (groups, rows, depth), few at a time: they do not depend on each other."""
    step = max(1, _ELEMENTS // (weights.shape[0] * weights.shape[2]))
    yield from (slice(start, start + step) for start in range(0, weights.shape[1], step))


def gptq(weights: np.ndarray, moments: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Returns the integers, float32, of weights (groups, rows, depth), or None where the moments can't be factored.

    Columns are rounded in the order of the diagonal of H, the largest first.

    Args:
        weights: the real weights that are wanted.
        moments: Σx̂ x̂ᵀ of each group, (groups, depth, depth).
        grid: the integers that there are.
    """
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")[:, ::-1]
    lower = factor_of(moments, order)
    if lower is None:
        return None
    integers = np.empty(weights.shape, np.float32)
    for part in row_parts(weights):
        sorted_grid = of_rows(grid, part)
        if grid.scale.shape[2] > 1:
            sorted_grid = sorted_grid._replace(scale=np.take_along_axis(sorted_grid.scale, order[:, None, :], 2))
        found = _from_the_last(np.take_along_axis(weights[:, part], order[:, None, :], 2), lower, sorted_grid)
        np.put_along_axis(integers[:, part], order[:, None, :], found, 2)
    return integers


def _from_the_last(weights: np.ndarray, lower: np.ndarray, grid: Grid) -> np.ndarray:
    """Returns the integers of weights whose last column is rounded first."""
    integers, errors = np.empty(weights.shape), np.zeros(weights.shape)
    for end in range(weights.shape[2], 0, -_BLOCK):
        start = max(0, end - _BLOCK)
        factor = lower[:, start:end, start:end]
        carried = errors[:, :, end:] @ lower[:, end:, start:end]
        for column in reversed(range(end - start)):
            at = start + column
            step, wanted = _of_column(grid, at), weights[:, :, at]
            chosen = step.integers(wanted + carried[:, :, column] / factor[:, column, column, None])
            integers[:, :, at] = chosen
            errors[:, :, at] = error = wanted - step.values(chosen)
            carried[:, :, :column] += error[:, :, None] * factor[:, None, column, :column]
    return integers


def settled(weights: np.ndarray, moments: np.ndarray, grid: Grid, integers: np.ndarray) -> np.ndarray:
    """Returns integers of which hardly one can be changed alone for the better: coordinate descent on ``d H dᵀ``.

    Each integer in turn becomes the best beside all others, ``q_j = Q(v_j + (d H)_j / H_jj)`` for the error
    ``d = w − v`` of the values v; GPTQ, where it can only make up with later columns, leaves 0.2 to 0.3 dB of that.
    """
    found = np.empty(weights.shape, np.float32)
    for part in row_parts(weights):
        found[:, part] = _settled(weights[:, part], moments, of_rows(grid, part), integers[:, part].astype(np.float64))
    return found


def _settled(weights: np.ndarray, moments: np.ndarray, grid: Grid, integers: np.ndarray) -> np.ndarray:
    depth, damping = weights.shape[2], damping_of(moments)[:, None, None]
    diagonal = np.diagonal(moments, axis1=1, axis2=2) + damping[:, 0]
    difference = weights - grid.values(integers)
    carried = difference @ moments + difference * damping
    for start in [*range(0, depth, _BLOCK)] * _PASSES:
        end = min(start + _BLOCK, depth)
        near, moved = carried[:, :, start:end].copy(), np.zeros((*weights.shape[:2], end - start))
        for column in range(end - start):
            at = start + column
            step, old = _of_column(grid, at), integers[:, :, at]
            new = step.integers(step.values(old) + near[:, :, column] / diagonal[:, None, at])
            if (new != old).any():
                moved[:, :, column] = step.scale * (new - old)
                near[:, :, column + 1 :] -= moved[:, :, column, None] * moments[:, None, at, at + 1 : end]
                integers[:, :, at] = new
        carried -= moved @ moments[:, start:end]
        carried[:, :, start:end] -= moved * damping
    return integers


def with_fitted_scales(weights: np.ndarray, moments: np.ndarray, grid: Grid, integers: np.ndarray) -> Grid:
    """Returns the grid with the scales with which these integers fit the weights best: the least of ``d H dᵀ``.

    One scale of a row: ``(w H qᵀ) / (q H qᵀ)``. Those of its blocks together: ``A f = b`` with the parts v_i that the
    blocks have in a row's values, ``A_ij = v_i H v_jᵀ`` and ``b_i = v_i H wᵀ``.
    """
    groups, rows, depth = weights.shape
    damping = damping_of(moments)[:, None, None]
    shape = (depth // grid.block, grid.block) if grid.block else (1, depth)
    factors = np.ones((groups, rows, shape[0]))
    for part in row_parts(weights):
        values = of_rows(grid, part).values(integers[:, part])
        if not grid.block:
            carried = values @ moments + values * damping
            fitted, power = ((carried * other).sum(axis=2) for other in (weights[:, part], values))
            factors[:, part, 0] = _sound(np.divide(fitted, power, out=np.ones_like(power), where=power > 0))
            continue
        carried = weights[:, part] @ moments + weights[:, part] * damping
        wanted = (carried * values).reshape(groups, -1, *shape).sum(axis=3)
        for group in range(groups):
            factors[group, part] = _of_blocks(values[group], wanted[group], moments[group], damping[group], shape)
    return grid.scaled(np.repeat(factors, grid.block, axis=2) if grid.block else factors)


def _of_blocks(
    values: np.ndarray, wanted: np.ndarray, moments: np.ndarray, damping: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Returns the factors of the blocks of some rows, (rows, blocks)."""
    found = np.empty(wanted.shape)
    across = moments.reshape(-1, *shape).transpose(1, 0, 2)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        parts = values[rows].reshape(-1, *shape).transpose(1, 2, 0)
        carried = (across @ parts).reshape(shape[0], *shape, -1)
        shared = (carried * parts).sum(axis=2).transpose(2, 1, 0)
        own = np.arange(shape[0])
        shared[:, own, own] += damping[0] * np.square(parts).sum(axis=1).T
        power = np.diagonal(shared, axis1=1, axis2=2)
        dead = (power <= 0)[:, :, None] * np.eye(shape[0])  # all of its integers are 0
        found[rows] = _sound(np.linalg.solve(shared + dead, wanted[rows, :, None])[:, :, 0])
    return found


def _sound(factors: np.ndarray) -> np.ndarray:
    """Returns factors of scales; 1 for those that come of hardly anything."""
    return np.where((factors > 0.5) & (factors < 2), factors, 1.0)
