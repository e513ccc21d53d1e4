"""Where the ranges of tensors come from: calibration, or constants that say them already."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from featherweight import ops
from featherweight.calibration import Stats, TensorStats, find_range
from featherweight.errors import DataError
from featherweight.graph import Graph, Tensor, consumers, producers
from featherweight.ptq.forms import Forms, picks_rows, weight_position

Range = tuple[float, float]


class Ranges:
    """The ranges of one graph's tensors: measured ones by a range method, those of tables from their values."""

    def __init__(self, graph: Graph, stats: Stats | None, forms: Forms, method: str) -> None:
        self.graph, self.stats, self.forms, self.method = graph, stats, forms, method
        self.made, self.read = producers(graph), consumers(graph)

    def of(self, name: str, dtype: str) -> Range:
        """Returns the range of a tensor for integers of `dtype`, by the method that its producer's rule names.

        Raises:
            DataError: if calibration did not measure it.
        """
        table = self._table(name)
        if table is not None:
            return float(table.min()), float(table.max())
        stats = self._measured(name)
        node = self.made.get(name) or next(iter(self.read.get(name, ())), None)
        rule = self.forms.rules.get(node.name) if node else None
        method = (rule.activation.range_method if rule and rule.activation else None) or self.method
        return find_range(stats, method, dtype, symmetric=dtype == "int16", where=f"tensor '{name}'")

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
            op = ops.lookup(node.op)
            is_comparison = op.same_scale and not any(self.graph.tensors[name].is_float for name in node.outputs)
            if is_comparison and self.forms.activation(node):
                operands = [t for i, t in self.graph.float_inputs(node) if i in op.same_scale]
                ranges = [constant_range(t, f"{node.op} '{node.name}'") for t in operands if t.is_constant]
                for tensor in operands:
                    found.setdefault(tensor.name, []).extend(ranges)
        return found

    def _table(self, name: str) -> np.ndarray | None:
        """Returns the constant that a tensor's values are copied out of, if they are."""
        node = self.made.get(name)
        if node is None or not picks_rows(node, self.graph):
            return None
        return self.graph.tensors[node.inputs[weight_position(node, self.graph) or 0]].array


def constant_range(tensor: Tensor, where: str) -> Range:
    """Returns the range of a constant operand.

    Raises:
        DataError: if it holds NaN or infinity.
    """
    values = tensor.array
    low, high = (float(values.min()), float(values.max())) if values is not None and values.size else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{where}: its constant '{tensor.name}' holds NaN or infinite values. Repair the model.")
    return low, high
