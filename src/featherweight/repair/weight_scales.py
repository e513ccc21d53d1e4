"""Scales of weights by what rounding them does to the layer's output, not to the weights themselves."""

from __future__ import annotations

import numpy as np

from featherweight.repair.gptq import Grid
from featherweight.repair.input_moments import total_error

# Parts of the largest weight: at 4 bits, cutting off the largest leaves finer steps for all others.
_FACTORS = {8: np.linspace(0.72, 1.0, 15), 4: np.linspace(0.4, 1.1, 29)}
# Multiplications that a search may take; beyond, the diagonal of the moments stands for them.
_MOST_PRODUCTS = 3e10


def best_scales(
    weights: np.ndarray, moments: np.ndarray, grid: Grid, *, bits: int, is_shared: bool, is_power_of_two: bool
) -> np.ndarray:
    """Returns the factor of each row's scale, (groups, rows, 1), with which the layer's output changes least.

    Args:
        weights: (groups, rows, depth).
        moments: Σx̂ x̂ᵀ of each group.
        grid: with the scales that the factors multiply.
        bits: of the weight.
        is_shared: whether one scale serves all rows.
        is_power_of_two: whether only powers of two will do.
    """
    factors = np.array([0.25, 0.5, 1.0]) if is_power_of_two else _FACTORS[bits]
    groups, rows, depth = weights.shape
    is_cheap = float(groups) * rows * depth * depth * len(factors) <= _MOST_PRODUCTS
    diagonal = np.diagonal(moments, axis1=1, axis2=2)
    errors = np.empty((len(factors), groups, rows))
    for index, factor in enumerate(factors):
        scaled = grid.scaled(factor)
        difference = weights - scaled.values(scaled.integers(weights))
        if is_cheap:
            errors[index] = total_error(difference, moments)
        else:
            errors[index] = np.einsum("grd,gd->gr", difference**2, diagonal)
    if is_shared:
        return np.full((groups, rows, 1), factors[int(errors.sum(axis=(1, 2)).argmin())])
    return factors[errors.argmin(axis=0)][:, :, None]
