"""Which operators can't compute in integers as planned: the runtime refuses them, or their kernel is too coarse."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from featherweight import ops, profiles
from featherweight.calibration import Stats
from featherweight.calibration.details import Magnitudes
from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Node, Tensor, consumers, producers
from featherweight.numerics import QuantParams, dequantize, quantize
from featherweight.ops.calls import Call
from featherweight.profiles import Profile
from featherweight.ptq.forms import Forms
from featherweight.ptq.plan import edge
from featherweight.target import Target

# The least signal-to-noise ratio of a curve's kernel alone, in dB: what is left of 8 or 16 bits where the kernel
# follows the function. Below, the operator costs more than a rounding of its output would.
_LEAST_DB = {"int8": 20.0, "int16": 45.0}

# Quantiles of the normal distribution.
_NORMAL = np.array([NormalDist().inv_cdf((i + 0.5) / 512) for i in range(512)])

Rejected = list[tuple[Node, str]]


def unfit(
    graph: Graph, forms: Forms, params: Mapping[str, QuantParams], edges: Mapping[str, QuantParams], target: Target
) -> Rejected:
    """Returns the operators that LiteRT's integer kernels refuse with these parameters, each with the reason."""
    profile = profiles.find(target.profile)
    found = (
        (n, reason) for n in _integer_nodes(graph, forms) if (reason := _refusal(n, graph, params, edges, profile))
    )
    return list(found)


def _integer_nodes(graph: Graph, forms: Forms) -> Iterator[Node]:
    return (node for node in graph.nodes if forms.activation(node))


def _refusal(
    node: Node, graph: Graph, params: Mapping[str, QuantParams], edges: Mapping[str, QuantParams], profile: Profile
) -> str | None:
    inputs = tuple(
        _typed(graph.tensors[name], edges.get(edge(node.name, position)) or params.get(name)) if name else None
        for position, name in enumerate(node.inputs)
    )
    outputs = tuple(_typed(graph.tensors[name], params.get(name)) for name in node.outputs)
    call = Call(node, (None,) * len(inputs), inputs, outputs, profile)
    return ops.refusal(call)


def _typed(tensor: Tensor, params: QuantParams | None) -> Tensor:
    """Returns a tensor as the plan will have it; biases, which have no parameters in the plan, stay as they are."""
    return tensor if params is None or not tensor.is_float else replace(tensor, dtype=params.dtype, quant=params)


def unfaithful(
    graph: Graph, stats: Stats | None, forms: Forms, params: Mapping[str, QuantParams], target: Target
) -> Rejected:
    """Returns the operators that are too coarse in integers where their values lie: curves, and what goes with them.

    Measured on what calibration saw: the integers of each operator alone, from exact inputs, against its function.
    Where the grids of a factor are too coarse, and not the kernel, so are the statistics that lead to it and what
    multiplies by it: a normalization stays float as a whole.
    """
    found: dict[str, tuple[Node, str]] = {}
    profile = profiles.find(target.profile)
    for node in _integer_nodes(graph, forms):
        measured = stats.tensors.get(node.inputs[0]) if stats is not None and ops.lookup(node.op).is_curved else None
        if measured is None or measured.magnitudes is None or not measured.magnitudes.keys.size:
            continue
        incoming, outgoing = params[node.inputs[0]], params[node.outputs[0]]
        ratio, of_grids = curve_db(node, graph, measured.magnitudes, incoming, outgoing, profile)
        least = _LEAST_DB[incoming.dtype]
        what = "its grids alone leave" if of_grids < least else f"its {incoming.dtype} kernel alone leaves"
        if ops.lookup(node.op).is_factor:
            of_squares = min(
                (squares_db(s, graph, measured.magnitudes, params) for s in _squares(node, graph, forms)),
                default=math.inf,
            )
            if of_squares < min(ratio, of_grids):
                what, ratio, of_grids = "the squares that it is computed from alone leave", of_squares, of_squares
        if ratio >= least:
            continue
        found[node.name] = (node, f"{what} {ratio:.0f} dB on these samples (wanted: {least:.0f})")
        if of_grids < least and ops.lookup(node.op).is_factor:
            reason = f"it leads to or follows {node.op} '{node.name}', which is too coarse in integers"
            for other in company(node, graph):
                if forms.activation(other):
                    found.setdefault(other.name, (other, reason))
    return list(found.values())


def company(node: Node, graph: Graph) -> list[Node]:
    """Returns what is computed for an operator alone, from data or products on, and what multiplies by its result."""
    made, read = producers(graph), consumers(graph)
    found, below = {node.name: node}, [node]
    while below:
        for reader in read.get(below.pop().outputs[0], ()):
            if ops.lookup(reader.op).weight is None:
                found[reader.name] = reader
                below += [reader] if ops.lookup(reader.op).moves_data else []
    above = list(found.values())
    while above:
        for name in above.pop().inputs:
            maker = made.get(name)
            if maker is None or maker.name in found or ops.lookup(maker.op).weight is not None:
                continue
            if all(reader.name in found for reader in read[name]) and name not in graph.outputs:
                found[maker.name] = maker
                above = list(found.values())
    return [other for other in found.values() if other is not node]


def curve_db(
    node: Node, graph: Graph, magnitudes: Magnitudes, incoming: QuantParams, outgoing: QuantParams, profile: Profile
) -> tuple[float, float]:
    """Returns the signal-to-noise ratio of an operator of one number alone, in dB, and that of its grids alone.

    ``10 log10(Σ f(x)² / Σ (f̂(x̂) − f(x))²)`` over the values that were counted, with x̂ the input on its grid and f̂ the
    integer kernel; −inf where that does not compute. Of an operator whose results are factors of rows, each error
    counts relative to its value.
    """
    op, x = ops.lookup(node.op), magnitudes.values
    source, result = (replace(graph.tensors[name], shape=x.shape) for name in (node.inputs[0], node.outputs[0]))

    def exact(values: np.ndarray) -> np.ndarray:
        return op.kernels["float32"](Call(node, (values,), (source,), (result,), profile))[0].astype(np.float64)

    wanted, stored = exact(x), quantize(x, incoming)
    on_grids = dequantize(quantize(exact(dequantize(stored, incoming)).astype(np.float32), outgoing), outgoing)
    weights = magnitudes.counts / np.square(wanted) if op.is_factor else magnitudes.counts.astype(np.float64)
    try:
        inputs, outputs = (_typed(source, incoming),), (_typed(result, outgoing),)
        integers = op.kernels[incoming.dtype](Call(node, (stored,), inputs, outputs, profile))[0]
    except FeatherweightError:
        return -math.inf, -math.inf
    return _ratio_db(wanted, dequantize(integers, outgoing), weights), _ratio_db(wanted, on_grids, weights)


def _squares(node: Node, graph: Graph, forms: Forms) -> list[Node]:
    """Returns the integer operators among an operator's company that square a tensor."""
    return [
        n for n in company(node, graph) if forms.activation(n) and len(n.inputs) == 2 and n.inputs[0] == n.inputs[1]
    ]


def squares_db(node: Node, graph: Graph, magnitudes: Magnitudes, params: Mapping[str, QuantParams]) -> float:
    """Returns the signal-to-noise ratio, in dB, of roots of means of rounded squares, for means that were counted.

    Rows are taken as normal: a value √v z on the square's input grid, squared, on its output grid, and the mean over z;
    the mean of n of them also scatters by s / √(12 n).
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
    total = float(counts @ noise)
    return 10 * math.log10(float(counts.sum()) / total) if total else math.inf


def _ratio_db(wanted: np.ndarray, found: np.ndarray, weights: np.ndarray) -> float:
    counted = np.isfinite(wanted) & np.isfinite(weights)
    signal = float(weights[counted] @ wanted[counted] ** 2)
    noise = float(weights[counted] @ (np.nan_to_num(found[counted]) - wanted[counted]) ** 2)
    return 10 * math.log10(signal / noise) if signal and noise else math.inf
