"""Factors of rows, such as the reciprocal roots of normalizations: what belongs to one, and what is too coarse for it.

How large the rows are is known from the means of squares that calibration counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist

import numpy as np

from featherweight import operators
from featherweight.calibration import TensorStats
from featherweight.calibration.details import Magnitudes
from featherweight.graph import Graph, Node, Tensor, consumers, producers
from featherweight.graph.numerics import QuantParams
from featherweight.ptq.forms.decisions import Forms

# The least signal-to-noise ratio, in dB, that one operator or tensor alone may leave: what is left of 8 or 16 bits
# where they fit. Below, it costs more than all roundings around it.
LEAST_DB = {"int8": 20.0, "int16": 45.0}
# One token that gathers what the others say is a row among hundreds: so many of all rows, the smallest ones, count by
# themselves.
_FEW_ROWS = 1 / 1024
# Quantiles of the normal distribution.
_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 512) for i in range(512)])


def company(node: Node, graph: Graph) -> list[Node]:
    """Returns what is computed for an operator alone, from data or products on, and what multiplies by its result."""
    made, read = producers(graph), consumers(graph)
    found, below = {node.name: node}, [node]
    while below:
        for reader in read.get(below.pop().name, ()):
            if operators.lookup(reader.op).weight is None:
                found[reader.name] = reader
                below += [reader] if operators.lookup(reader.op).moves_data else []
    above = list(found.values())
    while above:
        for name in above.pop().inputs:
            maker = made.get(name)
            if maker is None or maker.name in found or operators.lookup(maker.op).weight is not None:
                continue
            if all(reader.name in found for reader in read[name]) and name not in graph.outputs:
                found[maker.name] = maker
                above = list(found.values())
    return [other for other in found.values() if other is not node]


def smallest(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the counts of the smallest rows alone, zero for all others.

    >>> smallest(np.array([3.0, 1.0, 2.0]), np.array([4000, 3, 2000])).tolist()
    [0, 3, 2000]
    """
    order = np.argsort(values)
    place = int(np.searchsorted(np.cumsum(counts[order]), _FEW_ROWS * counts.sum()))
    kept = np.zeros_like(counts)
    kept[order[: place + 1]] = counts[order[: place + 1]]
    return kept


def squares_db(
    node: Node, graph: Graph, magnitudes: Magnitudes, forms: Forms, params: Mapping[str, QuantParams]
) -> float:
    """Returns the signal-to-noise ratio, in dB, of a factor because the squares that it is computed from are rounded.

    Without such squares among its company: inf.
    """
    squares = [n for n in company(node, graph) if forms.activation(n) and len(n.inputs) == 2 and len({*n.inputs}) == 1]
    return min((_root_db(square, graph, magnitudes, params) for square in squares), default=math.inf)


def _root_db(node: Node, graph: Graph, magnitudes: Magnitudes, params: Mapping[str, QuantParams]) -> float:
    """Returns the ratio of roots of means of squares that a node rounds, for means that were counted.

    Rows are taken as normal: a value √v z on the square's input grid, squared, on its output grid, and the mean over z;
    the mean of n of them also scatters by s / √(12 n). That of all rows, or of the smallest, whichever is less.
    """
    step, square = params[node.inputs[0]].scale[0], params[node.outputs[0]].scale[0]
    means = magnitudes.values.astype(np.float64)
    is_positive = means > 0
    means, counts = means[is_positive], magnitudes.counts[is_positive].astype(np.float64)
    row = (graph.tensors[node.inputs[0]].shape or (1,))[-1]
    values = step * np.round(np.sqrt(means)[:, np.newaxis] * _NORMAL / step)
    found = (square * np.round(values**2 / square)).mean(axis=-1)
    bias, scatter = found / means - 1, square / math.sqrt(12 * row) / means
    # A root halves relative errors, as long as they are small; a mean of nothing is no root at all.
    noise = np.where(found > 0, np.minimum(bias**2 + scatter**2, 4.0) / 4, 1.0)
    shares = [float(some @ noise) / float(some.sum()) for some in (counts, smallest(means, counts)) if some.size]
    return -10 * math.log10(max(shares)) if any(shares) else math.inf


def coarse_divisors(
    node: Node, graph: Graph, measured: Mapping[str, TensorStats], forms: Forms, params: Mapping[str, QuantParams]
) -> Iterator[tuple[Node, str]]:
    """Yields (operator, reason) for the integer operators whose steps are too coarse for what a node divides by.

    They are those that compute it, whether at once or by float sums and products. A quotient's relative error is that
    of its divisor v, ``s² / 12 v²`` of each term; where v is less than a step, it may be a division by zero.
    """
    made = producers(graph)
    divisor = operators.lookup(node.op).input_of(node, operators.lookup(node.op).divisor)
    magnitudes = measured[divisor].magnitudes if divisor in measured else None
    if magnitudes is None:
        return
    sizes = np.abs(magnitudes.values.astype(np.float64))
    counts, sizes = magnitudes.counts[sizes > 0].astype(np.float64), sizes[sizes > 0]
    waiting, seen = [(divisor, 1.0)], {divisor}
    while waiting and counts.size:
        name, terms = waiting.pop()
        maker = made.get(name)
        if maker is None:
            continue
        if dtype := forms.activation(maker):
            step = math.sqrt(terms) * (params[name].scale[0] if name in params else 0.0)
            noise = float(counts @ np.minimum(step**2 / 12 / sizes**2, 1.0) / counts.sum())
            ratio = -10 * math.log10(noise) if noise else math.inf
            if sizes.min() < step:
                yield maker, f"a step of its output is more than some values that {node.op} '{node.name}' divides by"
            elif ratio < LEAST_DB[dtype]:
                yield maker, f"steps of its output leave {ratio:.0f} dB in what {node.op} '{node.name}' divides by"
            continue
        for source, gain in gains(maker, graph, measured):
            if source in made and source not in seen:
                seen.add(source)
                waiting.append((source, terms * gain))


def gains(node: Node, graph: Graph, measured: Mapping[str, TensorStats]) -> Iterator[tuple[str, float]]:
    """Yields (input, by what a float operator multiplies the square of its error), where that is the same anywhere.

    Of a product of activations, it is that of a usual row: the other operand's power, where it was counted.
    """
    op, sources = operators.lookup(node.op), [t for _, t in graph.float_inputs(node)]
    if op.axes == "product" and len(sources) == 2:
        terms = operators.macs(node, graph) / max(graph.tensors[node.outputs[0]].elements, 1)
        for tensor, other in (sources, reversed(sources)):
            if (power := _power(other, measured)) is not None:
                yield tensor.name, terms * power
    elif op.is_reduction:
        count = sources[0].elements / max(graph.tensors[node.outputs[0]].elements, 1)
        yield sources[0].name, 1.0 if op.picks else 1 / count if op.is_homogeneous else count
    elif op.is_mover or op.picks or op.finest is not None or (op.elementwise == 1 and not op.is_curved):
        yield from ((tensor.name, 1.0) for tensor in sources)
    elif op.elementwise == 2 and op.divisor is None and len(sources) == 2:
        for tensor, other in (sources, reversed(sources)):
            yield tensor.name, _largest(other, measured) ** 2


def _power(tensor: Tensor, measured: Mapping[str, TensorStats]) -> float | None:
    """Returns the mean square of a tensor's values where calibration counted them."""
    magnitudes = measured[tensor.name].magnitudes if tensor.name in measured else None
    if magnitudes is None or not magnitudes.counts.sum():
        return None
    return float(magnitudes.counts @ magnitudes.values.astype(np.float64) ** 2) / float(magnitudes.counts.sum())


def _largest(tensor: Tensor, measured: Mapping[str, TensorStats]) -> float:
    if tensor.is_constant:
        return float(np.abs(np.asarray(tensor.array)).max(initial=0.0))
    found = measured.get(tensor.name)
    return max(abs(found.low), abs(found.high)) if found else 0.0
