"""The best few levels for many numbers: k-means in one dimension, whose optimum can be computed.

In one dimension clusters are intervals, and the best division of sorted numbers into K of them follows from that of the
first ones into K − 1 (Wang & Song, 2011, Ckmeans.1d.dp): no initial levels to choose, and no chance. Numbers are sorted
into narrow bins first; sums of each bin are exact.
"""

from __future__ import annotations

import numpy as np

# Levels are integers of this size: what int8 weights hold at a scale of their largest.
LARGEST = 127
# Bins between one integer and the next.
_FINER = 4
_BINS = 2 * LARGEST * _FINER + 1


def best_levels(values: np.ndarray, weights: np.ndarray, count: int, fixed: tuple[int, ...] = ()) -> np.ndarray:
    """Returns at most `count` integers so that the sum of ``weight * (value − nearest)²`` is smallest.

    Args:
        values: numbers in [−127, 127], 1-D.
        weights: how much each matters, not negative.
        count: how many levels there may be, the fixed ones among them.
        fixed: integers that must be levels.

    >>> best_levels(np.array([1.0, 1.2, 9.0, 9.1, 50.0]), np.ones(5), 3).tolist()
    [1, 9, 50]
    """
    bins = np.rint((np.clip(values, -LARGEST, LARGEST) + LARGEST) * _FINER).astype(np.int64)
    sums = [np.bincount(bins, weights * power, _BINS) for power in (1.0, values, values**2)]
    used = sums[0] > 0
    used[[(level + LARGEST) * _FINER for level in fixed]] = True
    first, second, third = (np.concatenate([[0.0], np.cumsum(part[used])]) for part in sums)
    places = np.arange(_BINS)[used] / _FINER - LARGEST
    cost, level = _segments(first, second, third, places, fixed)
    size = len(places)
    best, cuts = cost[0].copy(), list[np.ndarray]()
    for _ in range(min(count, size) - 1):
        total = np.full((size + 1, size + 1), np.inf)
        total[:, :] = best[:, None] + cost
        cut = total.argmin(axis=0)
        shorter = total[cut, np.arange(size + 1)]
        cuts.append(np.where(shorter < best, cut, 0))
        best = np.minimum(best, shorter)
    found, end = list[int](), size
    for cut in reversed(cuts):
        start = int(cut[end])
        found.append(int(level[start, end]))
        end = start
        if not end:
            break
    if end:
        found.append(int(level[0, end]))
    return np.unique(np.array([*found, *fixed]))


def _segments(
    first: np.ndarray, second: np.ndarray, third: np.ndarray, places: np.ndarray, fixed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (cost, level) of all numbers from bin i on and before bin j, at [i, j]; what has two fixed levels: ∞."""
    weight, mean = first[None] - first[:, None], second[None] - second[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.rint(np.where(weight > 0, mean / weight, 0.0))
    size = len(places)
    ends = np.arange(size + 1)
    held = np.zeros((size + 1, size + 1), np.int64)
    for one in fixed:
        at = int(np.searchsorted(places, one))
        inside = (ends[:, None] <= at) & (ends[None] > at)
        held += inside
        level[inside] = one
    cost = third[None] - third[:, None] - 2 * level * mean + level**2 * weight
    cost = np.where((held > 1) | (ends[None] < ends[:, None]), np.inf, np.maximum(cost, 0.0))
    return cost, level
