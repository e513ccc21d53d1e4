"""Scales of weights by what rounding them does to the layer's output, not to the weights themselves."""

from __future__ import annotations

import numpy as np

from featherweight.repair.weights.gptq import Grid, of_rows, row_parts
from featherweight.repair.weights.moments import InputMoments, total_error

# Parts of the largest weight: at 4 bits, cutting off the largest leaves finer steps for all others.
_FACTORS = {8: np.linspace(0.72, 1.0, 15), 4: np.linspace(0.4, 1.1, 29)}
_POWERS_OF_TWO = np.array([0.25, 0.5, 1.0])
# Multiplications that a search may take; beyond, the diagonal of the moments stands for them.
_MOST_PRODUCTS = 1e10
# Factors beyond these come of channels that hardly vary, and say nothing.
_SPREAD = (0.5, 2.0)


def best_scales(
    weights: np.ndarray, moments: np.ndarray, grid: Grid, *, bits: int, is_shared: bool, is_power_of_two: bool
) -> Grid:
    """Returns the grid with the scale of each row, or block, with which the layer's output changes least.

    Args:
        weights: (groups, rows, depth).
        moments: Σx̂ x̂ᵀ of each group.
        grid: with the scales to start from.
        bits: of the weight.
        is_shared: whether one scale serves all rows.
        is_power_of_two: whether a scale can be changed by powers of two only.
    """
    factors = _POWERS_OF_TWO if is_power_of_two else _FACTORS[bits]
    groups, rows, depth = weights.shape
    block = grid.block or depth
    blocks = depth // block
    is_cheap = float(groups) * rows * depth * block * len(factors) <= _MOST_PRODUCTS
    squares = _diagonal_blocks(moments, block) if is_cheap else np.diagonal(moments, axis1=1, axis2=2)
    chosen, totals = np.ones((groups, rows, blocks)), np.zeros(len(factors))
    for part in row_parts(weights):
        errors = np.empty((len(factors), *chosen[:, part].shape))
        for index, factor in enumerate(factors):
            scaled = of_rows(grid, part).scaled(factor)
            difference = weights[:, part] - scaled.values(scaled.integers(weights[:, part]))
            difference = difference.reshape(groups, -1, blocks, block)
            if is_cheap:
                carried = np.einsum("grbi,gbij->grbj", difference, squares, optimize=True)
                errors[index] = np.einsum("grbi,grbi->grb", carried, difference)
            else:
                errors[index] = np.einsum("grbi,gbi->grb", difference**2, squares.reshape(groups, blocks, block))
        totals += errors.sum(axis=(1, 2, 3))
        chosen[:, part] = factors[errors.argmin(axis=0)]
    if is_shared:
        chosen[:] = factors[totals.argmin()]
    return grid.scaled(np.repeat(chosen, block, axis=2) if grid.block else chosen)


def _diagonal_blocks(moments: np.ndarray, block: int) -> np.ndarray:
    """Returns the blocks on the diagonal of each group's moments, (groups, blocks, block, block)."""
    groups, depth = moments.shape[:2]
    cut = moments.reshape(groups, depth // block, block, depth // block, block)
    return np.ascontiguousarray(np.moveaxis(np.diagonal(cut, axis1=1, axis2=3), -1, 1))


def with_spread(weights: np.ndarray, integers: np.ndarray, moments: InputMoments, grid: Grid) -> Grid:
    """Returns the grid with scales that give each row's output the deviation that it has in the float model.

    Rounding at few bits, and errors of the inputs, make outputs of a layer vary less; equal means alone then put what
    is below zero in the mean further below it (`moments` are centred).
    """
    after = grid.values(integers)
    assert moments.squares is not None
    wanted, found = total_error(weights, moments.squares), total_error(after, moments.rounded_squares)
    factors = np.sqrt(np.divide(wanted, found, out=np.ones_like(wanted), where=(found > 0) & (wanted > 0)))
    return grid.scaled(np.clip(factors, *_SPREAD)[:, :, None])
