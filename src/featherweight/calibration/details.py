"""What calibration learns of some tensors beyond their extremes, because operators that read them depend on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from featherweight.calibration.infinity import holding_infinity
from featherweight.graph import Graph, producers
from featherweight.operators import lookup
from featherweight.operators.relevance import LARGEST_ORDINARY

# A row whose largest score lies below this is masked as a whole (masks begin at -1e4): nobody reads its softmax.
_LOWEST_PEAK = -4096.0


@dataclass(frozen=True)
class Magnitudes:
    """How often values occurred, each cut to eight significant bits: as exact for small values as for large ones.

    Attributes:
        keys: the upper halves of float32 numbers (sign, exponent, seven bits), ascending, uint16.
        counts: int64, of each key.
    """

    keys: np.ndarray
    counts: np.ndarray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Magnitudes):
            return NotImplemented
        return np.array_equal(self.keys, other.keys) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def values(self) -> np.ndarray:
        """The middle of what each key stands for, float32; zero for zero."""
        is_zero = (self.keys & 0x7FFF) == 0
        return np.where(is_zero, np.float32(0), ((self.keys.astype(np.uint32) << 16) | 0x8000).view(np.float32))

    def merge(self, other: Magnitudes) -> Magnitudes:
        """Returns those of both sets of values."""
        keys, index = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.zeros(keys.size, np.int64)
        np.add.at(counts, index, np.concatenate([self.counts, other.counts]))
        return Magnitudes(keys, counts)


def magnitudes(values: np.ndarray) -> Magnitudes:
    """Returns the magnitudes of finite float32 values.

    >>> magnitudes(np.array([0.0, 1.0, 1.001, -3.0], np.float32)).counts.tolist()
    [1, 2, 1]
    """
    upper = (np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32) >> 16).astype(np.uint16)
    counts = np.bincount(upper, minlength=1)
    keys = np.flatnonzero(counts)
    return Magnitudes(keys.astype(np.uint16), counts[keys].astype(np.int64))


def least_peak(values: np.ndarray) -> float | None:
    """Returns the smallest of the largest values of rows (along the last axis), but of rows that are masked wholly."""
    peaks = values.max(axis=-1) if values.size and values.ndim else np.zeros(0)
    peaks = peaks[np.isfinite(peaks) & (peaks > _LOWEST_PEAK)]
    return float(peaks.min()) if peaks.size else None


def lesser(one: float | None, other: float | None) -> float | None:
    """Returns the smaller of two numbers, either of which may be missing."""
    return min((each for each in (one, other) if each is not None), default=None)


@dataclass(frozen=True)
class Asked:
    """Which tensors of a graph are looked at closer.

    Attributes:
        infinite: those that may hold infinity because a constant does; only their finite values count.
        rows: those whose rows are normalized.
        curves: those that an operator follows a curve over, takes a power of, or divides by, what is multiplied for
            such divisors, and probabilities of rows.
    """

    infinite: frozenset[str] = frozenset()
    rows: frozenset[str] = frozenset()
    curves: frozenset[str] = frozenset()

    def __contains__(self, name: str) -> bool:
        return name in self.infinite or name in self.rows or name in self.curves


def asked(graph: Graph) -> Asked:
    """Returns what the operators of a graph ask for."""

    def first_inputs(nodes: Iterable[tuple[str, bool]]) -> frozenset[str]:
        return frozenset(name for name, wanted in nodes if wanted and graph.tensors[name].is_float)

    read = [(node.inputs[0], lookup(node.op)) for node in graph.nodes if node.inputs and node.inputs[0]]
    rows = first_inputs((name, op.normalizes_rows) for name, op in read)
    curves = first_inputs((name, op.is_curved or op.is_steep_at_zero) for name, op in read)
    divisors = [(lookup(node.op).input_of(node, lookup(node.op).divisor), True) for node in graph.nodes]
    curves |= first_inputs((name, wanted) for name, wanted in divisors if name)
    curves |= first_inputs((name, lookup(node.op).normalizes_rows) for node in graph.nodes for name in node.outputs)
    return Asked(
        holding_infinity(graph, or_nan=True), rows, curves | _multiplied(graph, [name for name, _ in divisors])
    )


def _multiplied(graph: Graph, divisors: Iterable[str | None]) -> frozenset[str]:
    """Returns what is multiplied, activation by activation, for divisors to be sums of it: linear attention."""
    made, found = producers(graph), set[str]()
    waiting = [name for name in divisors if name]
    seen = set(waiting)
    while waiting:
        node = made.get(waiting.pop())
        op = lookup(node.op) if node is not None else None
        if node is None or op is None or op.weight is not None:
            continue
        names = [t.name for _, t in graph.float_inputs(node) if not t.is_constant]
        if op.axes == "product":
            found |= set(names)
        waiting += [name for name in names if name not in seen]
        seen |= set(names)
    return frozenset(found)


@dataclass
class Details:
    """Collects them over many runs; `hidden` are tensors that were seen to hold infinities that no output shows."""

    asked: Asked
    hidden: set[str] = field(default_factory=set[str])
    peaks: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    magnitudes: dict[str, Magnitudes] = field(default_factory=dict[str, Magnitudes])
    masked: set[str] = field(default_factory=set[str])

    def finite(self, name: str, values: np.ndarray) -> np.ndarray:
        """Returns the values that count: the finite ones of a tensor that may hold infinity, else all."""
        if not self.is_infinite(name):
            return values
        is_finite = np.isfinite(values)
        return values if is_finite.all() else values[is_finite]

    def is_infinite(self, name: str) -> bool:
        """True for a tensor that may hold infinity by a constant, or was seen to hold one that no output shows."""
        return name in self.asked.infinite or name in self.hidden

    def take(self, name: str, values: np.ndarray) -> None:
        """Adds what one run computed."""
        if name in self.asked.infinite and not (np.abs(values) < LARGEST_ORDINARY).all():
            self.masked.add(name)
        if name in self.asked.rows:
            self.peaks[name] = lesser(self.peaks.get(name), least_peak(values))
        if name in self.asked.curves:
            found = magnitudes(self.finite(name, values))
            self.magnitudes[name] = self.magnitudes[name].merge(found) if name in self.magnitudes else found
