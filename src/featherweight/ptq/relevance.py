"""Which values of each tensor matter to a graph's outputs, as intervals, from the outputs back to the inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featherweight import operators
from featherweight.calibration import Stats
from featherweight.graph import Graph, Node, Tensor
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.operators.relevance import EVERYTHING, NOTHING, Interval, Reading
from featherweight.tflite import release_pages

_PEAK_UNKNOWN = 0.0


def relevant_intervals(graph: Graph, stats: Stats | None, dtypes: Mapping[str, str]) -> dict[str, Interval]:
    """Returns tensor → the interval outside of which its values may be replaced by the interval's ends.

    Args:
        graph: a float graph.
        stats: what calibration measured; without, all values count as within [-1, 1]: which ends are finite is then
            true, where they lie is not.
        dtypes: operator → the integer type that it computes in; those in float are treated as int8 is.
    """
    extents = {name: _extent(tensor, stats) for name, tensor in graph.tensors.items() if tensor.is_float}
    found: dict[str, Interval] = dict.fromkeys(graph.outputs, EVERYTHING)
    for node in reversed(graph.nodes):
        op = operators.lookup(node.op)
        reading = _reading(node, graph, stats, extents, found, dtypes.get(node.name, "int8"))
        for position, name in enumerate(node.inputs):
            if name in extents:
                found[name] = _hull(found.get(name, NOTHING), op.relevant(reading, position))
        for name in node.inputs:
            release_pages(graph.tensors[name].data if name in extents else None)
    return found


def _reading(
    node: Node,
    graph: Graph,
    stats: Stats | None,
    extents: Mapping[str, Interval],
    found: Mapping[str, Interval],
    dtype: str,
) -> Reading:
    """Returns an operator with the values of its inputs, as far as they matter to it."""
    output = NOTHING
    for name in node.outputs:
        output = _hull(output, found.get(name, NOTHING))
    first = graph.tensors.get(node.inputs[0]) if node.inputs else None
    measured = stats.tensors.get(node.inputs[0]) if stats is not None and node.inputs else None
    return Reading(
        node,
        EVERYTHING if output == NOTHING else output,
        tuple(extents.get(name) for name in node.inputs),
        tuple(name in extents and _is_infinite(graph.tensors[name]) for name in node.inputs),
        tuple(name in extents and _is_partly_infinite(graph.tensors[name]) for name in node.inputs),
        extents.get(node.outputs[0], EVERYTHING) if node.outputs else EVERYTHING,
        _PEAK_UNKNOWN if stats is None else measured.peak if measured else None,
        first.shape[-1] if first is not None and first.shape else 1,
        1 << INTEGER_BITS[dtype],
    )


def _extent(tensor: Tensor, stats: Stats | None) -> Interval:
    """Returns the finite values that a tensor holds: a constant's own, else the measured ones."""
    if tensor.is_constant:
        values = finite_values(tensor)
        return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if stats is None:
        return -1.0, 1.0
    measured = stats.tensors.get(tensor.name)
    return (measured.low, measured.high) if measured is not None and measured.count else EVERYTHING


def finite_values(tensor: Tensor) -> np.ndarray:
    """Returns the values of a float constant but NaN and infinities."""
    values = np.asarray(tensor.array) if "sparsity" not in tensor.extras else np.zeros(0, np.float32)
    is_finite = np.isfinite(values)
    return values if is_finite.all() else values[is_finite]


def _is_infinite(tensor: Tensor) -> bool:
    return tensor.is_constant and bool(tensor.elements) and not finite_values(tensor).size


def _is_partly_infinite(tensor: Tensor) -> bool:
    return tensor.is_constant and finite_values(tensor).size < tensor.elements


def _hull(one: Interval, other: Interval) -> Interval:
    return min(one[0], other[0]), max(one[1], other[1])


def within(values: Interval, interval: Interval) -> Interval:
    """Returns the part of a range that matters.

    >>> within((-3.4e38, 7.0), (-20.0, float("inf")))
    (-20.0, 7.0)
    """
    low, high = interval
    if low > high:
        return values
    return min(max(values[0], low), high), max(min(values[1], high), low)
