"""Weights that a training step leaves on few levels: which level each is on, and what a step makes of the levels.

A weight of few values is w = s·c[m]: a scale s for each output channel, its largest weight; levels c in [−1, 1], the
same in all channels, so that int8 makes the same integers of them; and the number m of each weight's level. The levels
−1, 1 and, where there are zeros, 0 stay; the others and the scales are trained. A step goes

1. along what such weights can move along: the gradient g becomes s·A[m] + c[m]·B, with the least squares
   B = Σ c·g / Σ c² of each channel and A[k] = Σ s·(g − c·B) / Σ s² of each level (the gradients of a level's members
   together are that of the level: Han et al., 1510.00149, section 3.2);
2. and back to few values by the least squares of scales, s' = Σ w·c / Σ c², and the mean of each level's members by the
   squares of their scales, c[k] = Σ s²·w/s' / Σ s².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from featherweight.clustering.levels import LARGEST, best_levels
from featherweight.pruning.prunable import Kernel
from featherweight.sparsity.weight_layouts import unview, view
from featherweight.training.graph.apart import apart
from featherweight.training.graph.registry import Array, ops

INITIALS = ("k-means", "density", "linear", "random")
# Levels so near to the middle of two integers are moved out of it: members must round alike.
_NEAR, _STEP = np.float32(1e-3), np.float32(2e-3)
# The outermost level inside of the ends, which stay the only ones there.
_INSIDE = np.float32(1 - 1 / LARGEST)


class Members(NamedTuple):
    """The weights of a kernel before a step, as `view` has them.

    Attributes:
        value: the weights.
        scale: the largest of each channel (of all, where they share it); 1 where all are 0.
        levels: sorted.
        members: of each weight, the number of the nearest level.
        share: the scales by the largest of them.
        shares: of each level, the sum of its members' shares, squared.
    """

    value: Array
    scale: Array
    levels: Array
    members: Array
    share: Array
    shares: Array


@dataclass(frozen=True, eq=False)
class Clustered:
    """A kernel that gets few values.

    Attributes:
        kernel: how its channels lie.
        variable: its weights.
        levels: the variable of its levels, sorted.
        per_channel: whether each output channel has a scale of its own.
    """

    kernel: Kernel
    variable: Any
    levels: Any
    per_channel: bool

    def members(self) -> Members:
        """Returns which level each weight is nearest to."""
        value = self._viewed(self.variable)
        largest = ops.max(ops.abs(value), axis=self._axes, keepdims=True)
        scale = ops.where(largest > 0, largest, np.float32(1))
        levels = ops.convert_to_tensor(self.levels)
        between, units = (levels[1:] + levels[:-1]) / 2, value / scale
        # (Compilers fuse these; a binary search takes XLA a hundred times as long.)
        above = [ops.cast(units > between[number], "int32") for number in range(between.shape[0])]
        members, share = apart(sum(above[1:], above[0])), scale / ops.max(scale)
        shares = self._by_level(ops.broadcast_to(share * share, value.shape), members, levels)
        return Members(value, scale, levels, members, share, shares)

    def along(self, gradient: Array, known: Members, strength: Array) -> Array:
        """Returns the gradient as a weight on a level can follow it; unchanged before weights are on levels."""
        given = self._viewed(gradient)
        placed = apart(ops.take(known.levels, known.members))
        of_scale = _ratio(self._sum(given * placed), self._sum(placed * placed))
        rest = self._by_level(known.share * (given - placed * of_scale), known.members, known.levels)
        moves = ops.logical_and(ops.abs(known.levels) < 1, known.levels != 0)
        of_level = ops.where(moves, _ratio(rest, known.shares), np.float32(0))
        followed = placed * of_scale + known.share * ops.take(of_level, known.members)
        found = ops.where(strength >= 1, followed, given)
        return ops.cast(unview(ops, apart(found), self.kernel.layout), gradient.dtype)

    def held(self, known: Members, strength: Array) -> tuple[Array, Array]:
        """Returns (weights, levels) after a step.

        Args:
            known: the members before it.
            strength: how far weights are drawn to their levels: 0, not at all; 1, they are on them.
        """
        value = self._viewed(self.variable)
        placed = apart(ops.take(known.levels, known.members))
        scale = _ratio(self._sum(value * placed), self._sum(placed * placed))
        scale = ops.where(scale > 0, scale, known.scale)
        sums = self._by_level(known.share * known.share * value / scale, known.members, known.levels)
        means = ops.clip(_ratio(sums, known.shares), -_INSIDE, _INSIDE)
        levels = ops.where(known.shares > 0, means, known.levels)
        is_zero = ops.logical_or(value == 0, known.value == 0)
        nearest = ops.argmin(ops.abs(known.levels))
        is_fixed_zero = ops.logical_and(ops.any(is_zero), ops.equal(ops.arange(levels.shape[0]), nearest))
        levels = ops.where(is_fixed_zero, np.float32(0), _out_of_the_middle(levels))
        levels = ops.where(ops.abs(known.levels) < 1, levels, known.levels)
        wanted = ops.where(is_zero, np.float32(0), scale * ops.take(levels, known.members))
        # (In full: an average would leave rounding errors beside the levels.)
        drawn = ops.where(strength >= 1, wanted, value + strength * (wanted - value))
        weights = unview(ops, apart(ops.where(strength > 0, drawn, value)), self.kernel.layout)
        return ops.cast(weights, self.variable.dtype), ops.sort(levels)

    def _viewed(self, values: Array) -> Array:
        """Returns values as `view` has them; what is computed while it is transposed misses the caches."""
        given = apart(ops.cast(ops.convert_to_tensor(values), "float32"))
        return apart(view(ops, given, self.kernel.layout))

    @property
    def _axes(self) -> tuple[int, ...]:
        """Those of one channel in (gates, rows, positions, columns)."""
        if not self.per_channel:
            return (0, 1, 2, 3)
        return (0, 1, 2) if self.kernel.layout.has_channels_last else (2, 3)

    def _sum(self, values: Array) -> Array:
        return ops.sum(values, axis=self._axes, keepdims=True)

    def _by_level(self, values: Array, members: Array, levels: Array) -> Array:
        flat = apart(ops.reshape(values, (-1,)))
        return ops.segment_sum(flat, ops.reshape(members, (-1,)), num_segments=levels.shape[0])


def initial_levels(weights: np.ndarray, kernel: Kernel, count: int, initial: str, *, per_channel: bool) -> np.ndarray:
    """Returns the levels that training starts from, sorted, −1 and 1 among them; 0 where there are zeros.

    Args:
        weights: of the kernel, as it is stored.
        kernel: how its channels lie.
        count: how many.
        initial: ``k-means`` (the best there are), ``density`` (as many weights between any two), ``linear`` (equally
            far from each other) or ``random`` (of the weights, always the same ones).
        per_channel: whether each output channel has a scale of its own.
    """
    value = view(np, np.asarray(weights, np.float64), kernel.layout)
    layout = kernel.layout
    axes = (0, 1, 2, 3) if not per_channel else (0, 1, 2) if layout.has_channels_last else (2, 3)
    largest = np.abs(value).max(axis=axes, keepdims=True)
    units = value / np.where(largest > 0, largest, 1.0)
    kept = units[units != 0] if (units == 0).any() else units.ravel()
    fixed = (-1.0, 0.0, 1.0) if kept.size < units.size else (-1.0, 1.0)
    free = count - len(fixed)
    if initial == "k-means":
        importance = np.broadcast_to(largest**2, units.shape)[units != 0]
        ends = tuple(int(LARGEST * one) for one in fixed)
        found = best_levels(LARGEST * units[units != 0], importance, count, ends) / LARGEST
    elif initial == "density":
        found = np.quantile(kept, np.arange(1, free + 1) / (free + 1)) if kept.size else np.zeros(0)
    elif initial == "random":
        found = np.random.default_rng(0).choice(kept, free) if kept.size else np.zeros(0)
    else:
        found = np.linspace(-1, 1, free + 2)[1:-1]
    inner = np.clip(np.setdiff1d(found, fixed), -_INSIDE, _INSIDE)
    # (Fewer different weights than levels: the rest is spread, and may find members.)
    more = np.linspace(-_INSIDE, _INSIDE, count + 2)[1:-1][: max(free - len(inner), 0)]
    return np.sort(np.concatenate([fixed, inner[:free], more])).astype(np.float32)


def _ratio(above: Array, below: Array) -> Array:
    """Returns a quotient, 0 where there is nothing to divide by."""
    return ops.where(below > 0, above / ops.where(below > 0, below, np.float32(1)), np.float32(0))


def _out_of_the_middle(levels: Array) -> Array:
    units = levels * np.float32(LARGEST)
    is_between = ops.abs(units - ops.floor(units) - np.float32(0.5)) < _NEAR
    return ops.where(is_between, units + _STEP, units) / np.float32(LARGEST)
