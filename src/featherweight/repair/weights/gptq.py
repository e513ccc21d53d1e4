"""GPTQ: weights are rounded one after the other, and those that are not yet rounded make up for the error.

Frantar et al., 2210.17323, algorithm 1, for rows that share a second moment H of their inputs: with the upper Cholesky
factor U of H⁻¹, ``err = (w_j − q_j) / U_jj`` and ``W[:, j+1:] −= err · U[j, j+1:]``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Of the mean of H's diagonal, added to it (2210.17323, section 3.3, step 3).
DAMPING = 0.01
_PASSES = 2
_BLOCK = 128
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


def damped(moments: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Returns H with a part of its mean diagonal added to its diagonal; the identity where H is 0."""
    depth = moments.shape[-1]
    mean = np.diagonal(moments, axis1=-2, axis2=-1).mean(axis=-1)
    return moments + np.where(mean > 0, damping * mean, 1.0)[..., None, None] * np.eye(depth)


def inverse_factor(moments: np.ndarray) -> np.ndarray | None:
    """Returns the upper Cholesky factor of H⁻¹ of each group, more damped where that is singular, or None."""
    damping = DAMPING
    if not np.isfinite(moments).all():
        return None
    for _ in range(_TRIES):
        try:
            found = np.linalg.cholesky(np.linalg.inv(damped(moments, damping))).swapaxes(-1, -2)
        except np.linalg.LinAlgError:
            found = None
        if found is not None and np.isfinite(found).all():
            return found
        damping *= 10
    return None


def gptq(weights: np.ndarray, moments: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Returns the integers, float64, of weights (groups, rows, depth), or None where the moments can't be inverted.

    Columns are rounded in the order of the diagonal of H, the largest first.

    Args:
        weights: the real weights that are wanted.
        moments: Σx̂ x̂ᵀ of each group, (groups, depth, depth).
        grid: the integers that there are.
    """
    depth = weights.shape[2]
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    sorted_moments = np.take_along_axis(np.take_along_axis(moments, order[:, :, None], 1), order[:, None, :], 2)
    upper = inverse_factor(sorted_moments)
    if upper is None:
        return None
    left = np.take_along_axis(weights.astype(np.float64), order[:, None, :], 2)
    scale = np.take_along_axis(np.broadcast_to(grid.scale, weights.shape), order[:, None, :], 2)
    integers = np.empty_like(left)
    for start in range(0, depth, _BLOCK):
        end = min(start + _BLOCK, depth)
        part, factor = left[:, :, start:end], upper[:, start:end, start:end]
        errors = np.empty_like(part)
        for column in range(end - start):
            step = grid._replace(scale=scale[:, :, start + column])
            chosen = step.integers(part[:, :, column])
            integers[:, :, start + column] = chosen
            error = (part[:, :, column] - step.values(chosen)) / factor[:, column, column, None]
            errors[:, :, column] = error
            part[:, :, column + 1 :] -= error[:, :, None] * factor[:, None, column, column + 1 :]
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    back = np.argsort(order, axis=1, kind="stable")
    return np.take_along_axis(integers, back[:, None, :], 2)


def settled(weights: np.ndarray, moments: np.ndarray, grid: Grid, integers: np.ndarray) -> np.ndarray:
    """Returns integers of which hardly one can be changed alone for the better: coordinate descent on ``d H dᵀ``.

    Each integer in turn becomes the best beside all others, ``q_j = Q(v_j + (d H)_j / H_jj)`` for the error
    ``d = w − v`` of the values v; GPTQ, where it can only make up with later columns, leaves 0.2 to 0.3 dB of that.
    """
    hessian, depth = damped(moments), weights.shape[2]
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    integers, scale = integers.copy(), np.broadcast_to(grid.scale, weights.shape)
    carried = (weights - grid.values(integers)) @ hessian
    for start in [*range(0, depth, _BLOCK)] * _PASSES:
        end = min(start + _BLOCK, depth)
        near, moved = carried[:, :, start:end].copy(), np.zeros((*weights.shape[:2], end - start))
        for column in range(end - start):
            at = start + column
            step, old = grid._replace(scale=scale[:, :, at]), integers[:, :, at]
            new = step.integers(step.values(old) + near[:, :, column] / diagonal[:, None, at])
            if (new != old).any():
                moved[:, :, column] = step.scale * (new - old)
                near[:, :, column + 1 :] -= moved[:, :, column, None] * hessian[:, None, at, at + 1 : end]
                integers[:, :, at] = new
        carried -= moved @ hessian[:, start:end]
    return integers


def with_fitted_scales(weights: np.ndarray, moments: np.ndarray, grid: Grid, integers: np.ndarray) -> Grid:
    """Returns the grid with the scales with which these integers fit the weights best: the least of ``d H dᵀ``.

    One scale of a row: ``(w H qᵀ) / (q H qᵀ)``. Those of its blocks together: ``A f = b`` with the parts v_i that the
    blocks have in a row's values, ``A_ij = v_i H v_jᵀ`` and ``b_i = v_i H wᵀ``.
    """
    hessian, values = damped(moments), grid.values(integers)
    if not grid.block:
        carried = values @ hessian
        fitted, power = ((carried * other).sum(axis=2) for other in (weights, values))
        return grid.scaled(_sound(np.divide(fitted, power, out=np.ones_like(power), where=power > 0))[:, :, None])
    groups, rows, depth = weights.shape
    shape = depth // grid.block, grid.block
    wanted = ((weights @ hessian) * values).reshape(groups, rows, *shape).sum(axis=3)
    factors = np.ones(wanted.shape)
    for group in range(groups):
        across = hessian[group].reshape(depth, *shape).transpose(1, 0, 2)
        for start in range(0, rows, _ROWS):
            part = slice(start, start + _ROWS)
            parts = values[group, part].reshape(-1, *shape).transpose(1, 2, 0)
            carried = (across @ parts).reshape(shape[0], *shape, -1)
            shared = (carried * parts).sum(axis=2).transpose(2, 1, 0)
            power = np.diagonal(shared, axis1=1, axis2=2)
            dead = (power <= 0)[:, :, None] * np.eye(shape[0])  # all of its integers are 0
            factors[group, part] = _sound(np.linalg.solve(shared + dead, wanted[group, part, :, None])[:, :, 0])
    return grid.scaled(np.repeat(factors, grid.block, axis=2))


def _sound(factors: np.ndarray) -> np.ndarray:
    """Returns factors of scales; 1 for those that come of hardly anything."""
    return np.where((factors > 0.5) & (factors < 2), factors, 1.0)
