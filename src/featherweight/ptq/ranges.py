"""Where the ranges of tensors come from: calibration, or constants that say them already."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import cached_property

import numpy as np

from featherweight import operators
from featherweight.calibration import Stats, TensorStats, find_range, share_beyond
from featherweight.calibration.infinity import holding_infinity, masking_bias
from featherweight.errors import DataError, listed
from featherweight.graph import Graph, Tensor, consumers, producers
from featherweight.graph.numerics import QuantParams, integer_range
from featherweight.operators.relevance import EVERYTHING, LARGEST_ORDINARY, of_moved
from featherweight.ptq.forms.decisions import Forms
from featherweight.ptq.forms.nodes import picks_rows, weight_position
from featherweight.ptq.relevance import finite_values, relevant_intervals, within

Range = tuple[float, float]
# A range is cut to what matters where that leaves less than this fraction of it: one bit is won.
_WORTH_CUTTING = 0.5


class Ranges:
    """The ranges of one graph's tensors: measured ones by a range method, those of tables from their values.

    Args:
        method: how a range is chosen where nothing else says it.
        methods: tensor → the method for it, whatever its producer's rule says.
    """

    def __init__(
        self, graph: Graph, stats: Stats | None, forms: Forms, method: str, methods: Mapping[str, str] | None = None
    ) -> None:
        self.graph, self.stats, self.forms, self.method = graph, stats, forms, method
        self.methods: Mapping[str, str] = methods or {}
        self.made, self.read = producers(graph), consumers(graph)
        types = {node.name: dtype for node in graph.nodes if (dtype := forms.activation(node))}
        self.intervals = relevant_intervals(graph, stats, types)
        measured = stats.tensors if stats else {}
        self.hidden = frozenset(name for name, each in measured.items() if each.is_infinite)
        # Where a constant may bring a mask, and calibration saw none (the largest of a row), there is none.
        unmasked = {name for name, each in measured.items() if each.count and each.is_masked is False}
        self.infinite = (holding_infinity(graph) - unmasked) | self.hidden
        self.cut: set[str] = set()

    def of(self, name: str, dtype: str) -> Range:
        """Returns the range of a tensor for integers of `dtype`, by the method that its producer's rule names.

        Raises:
            DataError: if calibration did not measure it.
        """
        table = self._table(name)
        if table is not None:
            return float(table.min()), float(table.max())
        stats = self._measured(name)
        extremes = self._relevant(name, (stats.low, stats.high), holds_infinity=name in self.infinite)
        if extremes != (stats.low, stats.high):
            self.cut.add(name)
            return extremes
        return find_range(stats, self.method_of(name), dtype, symmetric=dtype == "int16", where=f"tensor '{name}'")

    def method_of(self, name: str) -> str:
        """Returns the range method for a tensor: the one chosen for it, its producer's rule's, or the caller's."""
        if name in self.methods:
            return self.methods[name]
        node = self.made.get(name) or next(iter(self.read.get(name, ())), None)
        rule = self.forms.rules.get(node.name) if node else None
        return (rule.activation.ranges if rule and rule.activation else None) or self.method

    def of_constant(self, tensor: Tensor) -> Range:
        """Returns the range of a constant operand: of what matters of it, infinities being the ends of that."""
        values = finite_values(tensor)
        extremes = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        inside = self._relevant(tensor.name, extremes, holds_infinity=values.size < tensor.elements)
        if inside != extremes:
            self.cut.add(tensor.name)
        return inside

    def _relevant(self, name: str, extremes: Range, *, holds_infinity: bool) -> Range:
        """Returns the part of a tensor's finite values that matters, with the ends that stand for infinity."""
        interval = self.intervals.get(name, EVERYTHING)
        low, high = within(extremes, interval)
        if holds_infinity and interval[0] <= interval[1]:
            return min(low, _finite_or(interval[0], low)), max(high, _finite_or(interval[1], high))
        # Where little would be won, what was measured stands.
        return (low, high) if _width(extremes) * _WORTH_CUTTING > _width((low, high)) else extremes

    def unbounded(self) -> frozenset[str]:
        """Returns the tensors in which infinity, or NaN, means something that integers can't say."""
        weights = {
            node.inputs[position]
            for node in self.graph.nodes
            for role in operators.lookup(node.op).weights
            for position in role[:2]
            if position is not None and position < len(node.inputs)
        }
        found = {name for name in self.infinite - weights if name in self.hidden or not self._is_bounded(name)}
        for name in self.infinite - weights:
            tensor = self.graph.tensors[name]
            if tensor.is_constant and np.isnan(np.asarray(tensor.array)).any() and self._uses(tensor):
                found.add(name)
        # Beside a bias that deep, neither a sum of 32 bits nor its scale has room for anything else.
        found |= {node.outputs[0] for node in self.graph.nodes if masking_bias(node, self.graph) is not None}
        return frozenset(found)

    def _is_bounded(self, name: str) -> bool:
        """True where an infinity, of a constant or of what is computed from it, is no different from some number."""
        interval, tensor = self.intervals.get(name, EVERYTHING), self.graph.tensors[name]
        if interval[0] > interval[1]:
            return True
        if not tensor.is_constant:
            return interval != EVERYTHING
        values = np.asarray(tensor.array)
        ends = (
            (-math.inf, values.min(initial=0) <= -LARGEST_ORDINARY),
            (math.inf, values.max(initial=0) >= LARGEST_ORDINARY),
        )
        return not any(is_there and end in interval for end, is_there in ends)

    def _uses(self, tensor: Tensor) -> bool:
        """True where an operator computes with a constant, instead of only choosing from it."""
        return any(operators.lookup(node.op).relevant is not of_moved for node in self.read.get(tensor.name, ()))

    def notes_on_infinity(self) -> list[str]:
        """Returns a note on the tensors whose ranges leave out what makes no difference, if there are any."""
        if not self.cut:
            return []
        return [
            f"{len(self.cut)} tensors ({listed(sorted(self.cut), 3)}): values so far beyond the others that they make "
            "no difference to the softmax, pooling or maximum behind (masks, −∞) have no room in the range; the lowest "
            "or highest integer stands for them"
        ]

    def notes_on_clipping(self, params: Mapping[str, QuantParams], decided: Collection[str]) -> list[str]:
        """Returns a note on the tensors whose grids leave out values that calibration saw, if there are any.

        Args:
            params: of the tensors.
            decided: those whose parameters no range method chose.
        """
        measured = self.stats.tensors if self.stats else {}
        names = [n for n in params if n in measured and n not in decided and n not in self.cut]
        seen = {name: measured[name] for name in names if measured[name].histogram is not None}
        kept = {name: _ends(params[name]) for name in seen}
        half = {name: params[name].scale[0] / 2 for name in seen}
        lost = {n: share_beyond(seen[n], kept[n][0] - half[n], kept[n][1] + half[n]) for n in seen}
        clipped = sorted((name for name in seen if lost[name] > 0), key=lambda name: (-lost[name], name))
        if not clipped:
            return []
        counted = sum(each.histogram.counted for each in seen.values() if each.histogram)
        total = sum(each.histogram.total for each in seen.values() if each.histogram)
        said: list[str] = []
        for name in clipped[:3]:
            (bottom, top), stats = kept[name], seen[name]
            said.append(
                f"{100 * lost[name]:.2g} % of '{name}' (range {bottom:.3g} to {top:.3g} of {stats.low:.3g} to "
                f"{stats.high:.3g})"
            )
        more = [f"{len(clipped) - 3} more"] if len(clipped) > 3 else []
        basis = f" (counted over {counted / total:.0%} of all values)" if counted < total else ""
        return [f"ranges clip values of {len(clipped)} of {len(seen)} tensors{basis}: {listed([*said, *more])}"]

    def extremes(self, name: str) -> Range:
        """Returns the smallest and largest value of a tensor, whatever the range method.

        Raises:
            DataError: if calibration did not measure it.
        """
        stats = self._measured(name)
        return stats.low, stats.high

    def _measured(self, name: str) -> TensorStats:
        stats = self.stats.tensors.get(name) if self.stats else None
        if stats is None:
            raise DataError(
                f"No range was measured for '{name}'. Calibrate this very model again, with all its tensors."
            )
        return stats

    def notes_on_inputs(self) -> list[str]:
        """Returns a note for each input that calibration saw at one value only: its range fits nothing else."""
        measured = self.stats.tensors if self.stats else {}
        seen = {name: measured[name] for name in self.graph.inputs if name in measured}
        return [
            f"input '{name}': every calibration sample holds {stats.low:g} alone, so its range fits no other values; "
            "calibrate with real inputs"
            for name, stats in seen.items()
            if stats.low == stats.high
        ]

    def compared(self, name: str) -> list[Range]:
        """Returns the ranges of constants that a tensor is compared with: these must fit onto its grid."""
        return self._compared.get(name, [])

    @cached_property
    def _compared(self) -> dict[str, list[Range]]:
        found: dict[str, list[Range]] = {}
        for node in self.graph.nodes:
            op = operators.lookup(node.op)
            is_comparison = op.same_scale and not any(self.graph.tensors[name].is_float for name in node.outputs)
            if is_comparison and self.forms.activation(node):
                operands = [t for i, t in self.graph.float_inputs(node) if i in op.same_scale]
                ranges = [self.of_constant(t) for t in operands if t.is_constant and finite_values(t).size]
                for tensor in operands:
                    found.setdefault(tensor.name, []).extend(ranges)
        return found

    def _table(self, name: str) -> np.ndarray | None:
        """Returns the constant that a tensor's values are copied out of, if they are."""
        node = self.made.get(name)
        if node is None or not picks_rows(node, self.graph):
            return None
        return self.graph.tensors[node.inputs[weight_position(node, self.graph) or 0]].array


def _ends(params: QuantParams) -> Range:
    qmin, qmax = integer_range(params.dtype)
    return params.scale[0] * (qmin - params.zero_point[0]), params.scale[0] * (qmax - params.zero_point[0])


def _width(extremes: Range) -> float:
    """Returns how much a range spans with zero, which every range of integers holds."""
    return max(extremes[1], 0.0) - min(extremes[0], 0.0)


def _finite_or(end: float, otherwise: float) -> float:
    return end if math.isfinite(end) else otherwise
