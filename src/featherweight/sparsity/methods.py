"""Which weights of one layer go, and what the others become: magnitude, Wanda, SparseGPT.

A weight is a matrix here, (rows, depth): a row for each output, as the runtime reads it. Every method leaves exactly
the same number of zero units.
"""

from __future__ import annotations

import numpy as np

from featherweight.layouts import Layout, runtime_layout, unview, view
from featherweight.patterns import Pattern, keep_highest

# Added to the diagonal of the Hessian, of its mean (Frantar & Alistarh, 2301.00774, section 4).
_DAMPING = 0.01
_BLOCK = 128


def by_magnitude(weight: np.ndarray, pattern: Pattern, layout: Layout, zeros: int) -> np.ndarray:
    """Returns the weight without its smallest units."""
    return np.where(_mask(np.abs(weight), pattern, layout, zeros), weight, np.float32(0))


def by_wanda(weight: np.ndarray, norms: np.ndarray, pattern: Pattern, layout: Layout, zeros: int) -> np.ndarray:
    """Returns the weight without the units of the smallest ``|w_ij| * ||x_j||`` (Sun et al., 2306.11695, section 3).

    Single weights are compared within their row, blocks within the rows that they share, channels over the kernel.
    `norms` has an element for each weight of a row.
    """
    scores = np.abs(weight) * norms.reshape(weight.shape[1:]).astype(np.float32)
    height = 1 if pattern.name == "unstructured" else _block_height(pattern.name) or len(weight)
    kept: list[np.ndarray] = []
    done, units = 0, pattern.units(layout)
    for start in range(0, len(weight), height):
        part = scores[start : start + height]
        inner = runtime_layout(part.shape)
        quota = zeros * (pattern.units(inner) * (start // height + 1)) // units
        kept.append(_mask(part, pattern, inner, quota - done))
        done = quota
    return np.where(np.concatenate(kept), weight, np.float32(0))


def _block_height(pattern: str) -> int | None:
    """Returns how many rows a block of a pattern R x C covers, None for other patterns."""
    rows, cross, _ = pattern.partition("x")
    return int(rows) if cross else None


def by_sparsegpt(weight: np.ndarray, moments: np.ndarray, pattern: Pattern, zeros: int) -> np.ndarray:
    """Returns the weight pruned and updated so that its products with the inputs change least.

    Frantar & Alistarh, 2301.00774, algorithm 1: with ``H = Σ x xᵀ + damping`` and the upper Cholesky factor U of its
    inverse, the units of the smallest ``w² / U_jj²`` of each 128 columns go, and what they contributed is spread over
    the columns behind them.

    Args:
        weight: (rows, ...).
        moments: ``Σ x xᵀ``, (depth, depth).
        pattern: of single weights, blocks, or N:M; it divides 128 columns.
        zeros: the number of units that go.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    hessian = moments + np.eye(len(moments)) * max(_DAMPING * float(np.diag(moments).mean()), 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    depth, done = rows.shape[1], 0
    units = pattern.units(runtime_layout(rows.shape))
    for start in range(0, depth, _BLOCK):
        end = min(start + _BLOCK, depth)
        layout = runtime_layout((len(rows), end - start))
        # So many units of the columns up to here, of all that go.
        quota = zeros * pattern.units(runtime_layout((len(rows), end))) // units
        part, factor = rows[:, start:end], upper[start:end, start:end]
        kept = _mask((part / np.diag(factor)).astype(np.float32) ** 2, pattern, layout, quota - done)
        done = quota
        errors = np.zeros_like(part)
        for column in range(end - start):
            pruned = np.where(kept[:, column], part[:, column], 0.0)
            errors[:, column] = (part[:, column] - pruned) / factor[column, column]
            part[:, column] = pruned
            part[:, column + 1 :] -= errors[:, column : column + 1] * factor[column, column + 1 :]
        rows[:, end:] -= errors @ upper[start:end, end:]
        part[~kept] = 0.0
    return rows.astype(np.float32).reshape(weight.shape)


def _mask(scores: np.ndarray, pattern: Pattern, layout: Layout, zeros: int) -> np.ndarray:
    """Returns True for what stays."""
    units = keep_highest(pattern.reduce(np, view(np, scores.astype(np.float32), layout), layout), zeros)
    return unview(np, pattern.spread(np, units, layout), layout)
