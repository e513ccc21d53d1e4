"""Chooses factors of channels: those with which weights before, values, and weights behind use their grids best.

A weight has one step for all its channels, or one for each output; a tensor of values one step for all. In units of
that step, channel c takes r₁/s of the weight before, a/s of the values and r₂·s of the weight behind. The noise of each
alone is least where its channels are equal; between the three, s is their weighted geometric mean,
``s = r₁^α a^β / r₂^γ`` with α + β + γ = 1: α = γ = ½ is cross-layer equalization (Nagel et al., 1906.04721, section
4.1), β = γ = ½ smoothing (Xiao et al., 2211.10438, equation 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featherweight.errors import DataError
from featherweight.graph import Model
from featherweight.repair.candidate import Arrays
from featherweight.repair.factors.freedom import Freedom, Weight
from featherweight.runtime.litert import Session

_PASSES = 20
_SMALLEST_CHANGE = 4e-3
# Values that are held at a time, in bytes.
_HELD_BYTES = 256 << 20
# Of a bound, how much of it channels may reach on samples: what was not seen has room.
MOST_OF_CAP = 0.5
# A channel whose range is less than this share of the largest is dead: its factor says nothing.
_DEAD = 1e-7


class Exponents(NamedTuple):
    """How much the ranges of what is before, between and behind count; their sum is 1."""

    before: float
    values: float
    behind: float


@dataclass(frozen=True, eq=False)
class Problem:
    """What factors are chosen by.

    Attributes:
        largest: tensor → the largest magnitude of each channel on samples; may be empty.
        has_own_steps: True of weights with a step for each output channel.
        lowest: the smallest factor of each label, (count,).
        is_free: labels whose factors are chosen, (count,).
    """

    freedom: Freedom
    largest: Mapping[str, np.ndarray]
    has_own_steps: Callable[[Weight], bool]
    lowest: np.ndarray
    is_free: np.ndarray


def largest_magnitudes(model: Model, names: Sequence[str], samples: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Returns tensor → the largest magnitude of each index of its last axis on samples, float64.

    Raises:
        DataError: if a value is not finite.
    """
    found: dict[str, np.ndarray] = {}
    for part in _parts(model, names):
        with Session(model, outputs=part) as session:
            for sample in samples:
                if session.is_stateful:
                    session.reset()
                for name, values in session.run(sample).items():
                    rows = np.abs(values.reshape(-1, values.shape[-1] if values.ndim else 1)).max(axis=0, initial=0.0)
                    if not np.isfinite(rows).all():
                        raise DataError(f"tensor '{name}' holds NaN or infinity on a sample. Leave that sample out.")
                    found[name] = np.maximum(found.get(name, 0.0), rows.astype(np.float64))
    return found


def _parts(model: Model, names: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    size = 0
    for name in names:
        size += 4 * model.main.tensors[name].elements
        if size > _HELD_BYTES and parts[-1]:
            parts.append([])
            size = 4 * model.main.tensors[name].elements
        parts[-1].append(name)
    return [part for part in parts if part]


def balanced(problem: Problem, exponents: Exponents) -> np.ndarray:
    """Returns the factor of each label, (count,) float64; 1 where it is not free."""
    freedom, factors = problem.freedom, np.ones(problem.freedom.count)
    weights = [Matrix(weight, freedom) for weight in freedom.weights]
    writers, readers = ([m for m in weights if problem.is_free[m.labels(side)].any()] for side in ("writes", "reads"))
    before = {id(m): m for m in writers if not problem.has_own_steps(m.weight)}
    for _ in range(_PASSES):
        change = 0.0
        for group in _groups(problem, writers):
            ratio = np.ones(freedom.count)
            for side, matrices, power in (("writes", writers, exponents.before), ("reads", readers, -exponents.behind)):
                used = [m for m in matrices if (side == "reads" or id(m) in before) and m.touches(side, group)]
                ratio *= _powers(_shares(freedom.count, [m.ranges(side, factors) for m in used]), power)
            values = [
                (labels, problem.largest[name] / factors[labels])
                for name, labels in freedom.channels.items()
                if name in problem.largest and group[labels].any()
            ]
            ratio *= _powers(_shares(freedom.count, values), exponents.values)
            change = max(change, _update(problem, factors, group, ratio))
        if change < _SMALLEST_CHANGE:
            break
    return factors


def _update(problem: Problem, factors: np.ndarray, group: np.ndarray, ratio: np.ndarray) -> float:
    """Multiplies the factors of a group; returns the largest |log2| by which one has changed."""
    chosen, alone = group & problem.is_free, not (group & ~problem.is_free).any()
    new = factors[chosen] * np.where(ratio[chosen] > 0, ratio[chosen], 1.0)
    lowest = problem.lowest[chosen]
    if alone:  # all may be divided by one more number: none need be cut off then
        new /= np.exp(np.log(new).mean())
        new *= max(1.0, float((lowest / new).max()))
    new = np.maximum(new, lowest)
    change = float(np.abs(np.log2(new / factors[chosen])).max(initial=0.0))
    factors[chosen] = new
    return change


class Matrix:
    """A weight in magnitudes: the largest of those that have the same labels.

    Raises:
        DataError: if it holds NaN or infinity.
    """

    def __init__(self, weight: Weight, freedom: Freedom) -> None:
        array = np.asarray(freedom.graph.tensors[weight.node.inputs[weight.position]].array, np.float64)
        if not np.isfinite(array).all():
            node, name = weight.node, weight.node.inputs[weight.position]
            raise DataError(f"{node.op} '{node.name}', weight '{name}' holds NaN or infinite values. Repair the model.")
        self.weight = weight
        self.magnitudes = np.abs(np.broadcast_to(array, weight.shape))
        shapes = [self.labels(side).shape for side in ("writes", "reads")]
        alike = tuple(axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if sizes == (1, 1))
        self.magnitudes = self.magnitudes.max(axis=alike, keepdims=True, initial=0.0)

    def labels(self, side: str) -> np.ndarray:
        """Returns the labels that it writes or reads, in a shape of the weight's rank."""
        labels: np.ndarray = getattr(self.weight, side)
        return labels.reshape((1,) * (self.magnitudes.ndim - labels.ndim) + labels.shape)

    def touches(self, side: str, group: np.ndarray) -> bool:
        """True where it writes or reads a label of a group."""
        return bool(group[getattr(self.weight, side)].any())

    def ranges(self, side: str, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (labels, the largest magnitude of each) in the units of these factors."""
        values = self.magnitudes * (factors[self.labels("reads")] / factors[self.labels("writes")])
        labels = self.labels(side)
        axes = tuple(axis for axis, size in enumerate(labels.shape) if size == 1)
        return labels.ravel(), values.max(axis=axes, keepdims=True).ravel()


def _groups(problem: Problem, writers: Sequence[Matrix]) -> list[np.ndarray]:
    """Returns the labels that each writer writes, (count,) bool, but those that another's hold."""
    groups: list[np.ndarray] = []
    for matrix in writers:
        group = np.zeros(problem.freedom.count, bool)
        group[matrix.weight.writes] = True
        if not any((group & ~other).sum() == 0 for other in groups):
            groups.append(group)
    return groups


def _shares(count: int, found: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Returns the largest share that each label has of the largest range beside it; -1 where nothing is beside it."""
    shares = np.full(count, -1.0)
    for labels, ranges in found:
        if (largest := ranges.max(initial=0.0)) > 0:
            np.maximum.at(shares, labels, ranges / largest)
    return shares


def _powers(shares: np.ndarray, power: float) -> np.ndarray:
    """Returns the shares to a power: 1 where there are none, 0 for dead channels."""
    if not power:
        return np.ones_like(shares)
    return np.where(shares > _DEAD, np.where(shares > _DEAD, shares, 1.0) ** power, shares < 0)
