"""Which weights of one layer go, and what the others become: magnitude, Wanda, SparseGPT.

A weight is a matrix here, (rows, depth), as `as_rows` gives it: a row for each output. What it is multiplied with comes
by groups of rows: each has as many of them, one after the other, and statistics of its own. Every method leaves exactly
the same number of zero units.
"""

from __future__ import annotations

import re

import numpy as np

from featherweight.sparsity.patterns import Pattern, keep_highest
from featherweight.sparsity.weight_layouts import Layout, runtime_layout, unview, view

# Added to the diagonal of the Hessian, of its mean (Frantar & Alistarh, 2301.00774, section 4).
_DAMPING = 0.01
_BLOCK = 128


def as_rows(weight: np.ndarray, layout: Layout) -> np.ndarray:
    """Returns a weight as (rows, depth): a row for each output, also where those are read last.

    >>> depthwise = Layout((1, 3, 3, 8), (0, 1, 2, 3), has_channels_last=True)
    >>> as_rows(np.zeros((1, 3, 3, 8)), depthwise).shape
    (8, 9)
    """
    gates, rows, _, columns = layout.view_shape
    viewed = view(np, weight, layout)
    return viewed.reshape(-1, columns).T if layout.has_channels_last else viewed.reshape(gates * rows, -1)


def from_rows(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """Undoes `as_rows`."""
    return np.ascontiguousarray(unview(np, rows.T if layout.has_channels_last else rows, layout))


def by_magnitude(weight: np.ndarray, pattern: Pattern, layout: Layout, zeros: int) -> np.ndarray:
    """Returns the weight without its smallest units."""
    rows = as_rows(weight, layout)
    return from_rows(np.where(_mask(np.abs(rows), pattern, layout, zeros), rows, np.float32(0)), layout)


def by_wanda(weight: np.ndarray, norms: np.ndarray, pattern: Pattern, layout: Layout, zeros: int) -> np.ndarray:
    """Returns the weight without the units of the smallest ``|w_ij| * ||x_j||`` (Sun et al., 2306.11695, section 3).

    Single weights are compared within their row, blocks within the rows that they share, channels over the kernel.
    `norms` are those of each group's inputs, (groups, depth).
    """
    rows = as_rows(weight, layout)
    scores = np.abs(rows) * np.repeat(norms, len(rows) // len(norms), axis=0).astype(np.float32)
    height = len(rows) if pattern.name == "channel" else _reach(pattern, layout)[0]
    kept: list[np.ndarray] = []
    done, units = 0, pattern.units(layout)
    for start in range(0, len(rows), height):
        part = scores[start : start + height]
        quota = zeros * (pattern.units(_part(layout, part.shape)) * (start // height + 1)) // units
        kept.append(_mask(part, pattern, layout, quota - done))
        done = quota
    return from_rows(np.where(np.concatenate(kept), rows, np.float32(0)), layout)


def by_sparsegpt(weight: np.ndarray, moments: np.ndarray, pattern: Pattern, layout: Layout, zeros: int) -> np.ndarray:
    """Returns the weight pruned and updated so that its products with the inputs change least.

    Frantar & Alistarh, 2301.00774, algorithm 1: with ``H = Σ x xᵀ + damping`` and the upper Cholesky factor U of its
    inverse, the units of the smallest ``w² / U_jj²`` of each 128 columns go, of N:M those of each M, and what they
    contributed is spread over the columns behind them. Each group has its own H; scores are errors of outputs, so that
    those of all groups are compared.

    Args:
        weight: of any operator.
        moments: ``Σ x xᵀ`` of each group, (groups, depth, depth).
        pattern: of single weights, blocks, or N:M.
        layout: how the runtime reads the weight.
        zeros: the number of units that go.
    """
    rows = as_rows(weight, layout).astype(np.float64)
    (count, depth), units, wide = rows.shape, pattern.units(layout), _reach(pattern, layout)[1]
    damping = np.maximum(_DAMPING * np.diagonal(moments, axis1=1, axis2=2).mean(axis=1), 1e-12)
    hessian = moments + damping[:, None, None] * np.eye(depth)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).transpose(0, 2, 1)
    grouped = np.ascontiguousarray(rows).reshape(len(moments), -1, depth)
    done, step = 0, max(wide, _BLOCK // wide * wide)
    chosen = wide if ":" in pattern.name else step
    for start in range(0, depth, step):
        end = min(start + step, depth)
        part, factor = grouped[:, :, start:end], upper[:, start:end, start:end]
        pivots = np.diagonal(factor, axis1=1, axis2=2)[:, None]
        kept, errors = np.ones(part.shape, bool), np.zeros_like(part)
        for column in range(end - start):
            if column % chosen == 0:
                few = slice(column, min(column + chosen, end - start))
                scores = (part[:, :, few] / pivots[:, :, few]).astype(np.float32).reshape(count, -1) ** 2
                # So many units of the columns up to here, of all that go.
                quota = zeros * pattern.units(_part(layout, (count, start + few.stop))) // units
                kept[:, :, few] = _mask(scores, pattern, layout, quota - done).reshape(*part.shape[:2], -1)
                done = quota
            pruned = np.where(kept[:, :, column], part[:, :, column], 0.0)
            errors[:, :, column] = (part[:, :, column] - pruned) / pivots[:, :, column]
            part[:, :, column] = pruned
            part[:, :, column + 1 :] -= errors[:, :, column : column + 1] * factor[:, column : column + 1, column + 1 :]
        grouped[:, :, end:] -= errors @ upper[:, start:end, end:]
        part[~kept] = 0.0
    return from_rows(grouped.astype(np.float32).reshape(count, depth), layout)


def _reach(pattern: Pattern, layout: Layout) -> tuple[int, int]:
    """Returns over how many rows and columns, one after the other, a choice of single weights, blocks or N:M goes."""
    sizes = [int(size) for size in re.findall(r"\d+", pattern.name)]
    rows, columns = (1 if ":" in pattern.name else sizes[0], sizes[1]) if sizes else (1, 1)
    return (columns, rows) if layout.has_channels_last else (rows, columns)


def _part(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """Returns the layout of some rows and columns of a weight, (rows, columns), in the order that it is read in."""
    rows, columns = shape
    if layout.has_channels_last:
        return Layout((1, 1, columns, rows), (0, 1, 2, 3), has_channels_last=True)
    return runtime_layout((rows, columns))


def _mask(scores: np.ndarray, pattern: Pattern, layout: Layout, zeros: int) -> np.ndarray:
    """Returns True for what stays of some rows and columns of a weight, by the scores of these."""
    part = _part(layout, scores.shape)
    viewed = view(np, from_rows(scores.astype(np.float32), part), part)
    units = keep_highest(pattern.reduce(np, viewed, part), zeros)
    return as_rows(unview(np, pattern.spread(np, units, part), part), part)
