"""Which operators can't compute in integers as planned: the runtime refuses them, or their kernel is too coarse."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np

from featherweight import operators
from featherweight.calibration import Stats
from featherweight.calibration.details import Magnitudes
from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Node, Tensor
from featherweight.graph.numerics import INTEGER_BITS, QuantParams, bias_type, dequantize, quantize
from featherweight.operators import profiles
from featherweight.operators.call import Call
from featherweight.operators.profiles import Profile
from featherweight.ptq import factors
from featherweight.ptq.factors import LEAST_DB
from featherweight.ptq.forms.decisions import Forms
from featherweight.ptq.losses import streams
from featherweight.ptq.losses.probabilities import rounded_db
from featherweight.ptq.plan import edge
from featherweight.targets.target import Target, broken

Rejected = list[tuple[Node, str]]


def unfit(
    graph: Graph, forms: Forms, params: Mapping[str, QuantParams], edges: Mapping[str, QuantParams], target: Target
) -> Rejected:
    """Returns the operators that integer kernels refuse with these parameters, each with the reason.

    That is LiteRT's kernels, and, where the target runs the operator in float instead, the target's constraints.
    """
    reasons = ((node, refused(node, graph, params, edges, target)) for node in _integer_nodes(graph, forms))
    return [(node, reason) for node, reason in reasons if reason is not None]


def refused(
    node: Node, graph: Graph, params: Mapping[str, QuantParams], edges: Mapping[str, QuantParams], target: Target
) -> str | None:
    """Returns why an integer kernel refuses an operator with these parameters, or None; as `unfit`."""
    call = _planned(node, graph, params, edges, profiles.find(target.profile))
    return operators.refusal(call) or (_broken(call, graph, target) if target.runs(node.op, "float32") else None)


def reading_infinity(graph: Graph, forms: Forms, unbounded: Collection[str]) -> Rejected:
    """Returns the integer operators of tensors, named `unbounded`, that hold an infinity which integers can't say."""
    return [
        (node, f"'{name}' holds infinity or a mask, which neither a softmax nor a pooling nor a comparison takes out")
        for node in _integer_nodes(graph, forms)
        for name in [next((n for n in (*node.inputs, *node.outputs) if n in unbounded), None)]
        if name is not None
    ]


def form_in_8_bits(
    node: Node,
    graph: Graph,
    forms: Forms,
    params: Mapping[str, QuantParams],
    edges: Mapping[str, QuantParams],
    target: Target,
) -> str | None:
    """Returns the form of a refused operator with 8 bits for its 4-bit weights; None where it is refused so, too."""
    form = forms.forms[node.name]
    activation = forms.activation(node)
    wanted = f"{activation}*int8"
    if activation is None or not form.endswith("*int4") or not target.runs(node.op, wanted):
        return None
    if refused(node, graph, params, edges, target) is None or forms.obstacle(node, graph, wanted) is not None:
        return None  # it leaves integers for what its weights have no part in
    wider = {name: replace(quant, dtype="int8") for name, quant in params.items() if quant.dtype == "int4"}
    wider_edges = {place: replace(quant, dtype="int8") for place, quant in edges.items() if quant.dtype == "int4"}
    return wanted if refused(node, graph, {**params, **wider}, {**edges, **wider_edges}, target) is None else None


def _integer_nodes(graph: Graph, forms: Forms) -> Iterator[Node]:
    return (node for node in graph.nodes if forms.activation(node))


def _planned(
    node: Node, graph: Graph, params: Mapping[str, QuantParams], edges: Mapping[str, QuantParams], profile: Profile
) -> Call:
    """Returns a node with the tensors that the plan will give it, without values."""
    inputs = tuple(
        _typed(graph.tensors[name], edges.get(edge(node.name, position)) or params.get(name)) if name else None
        for position, name in enumerate(node.inputs)
    )
    outputs = tuple(_typed(graph.tensors[name], params.get(name)) for name in node.outputs)
    op, dtype = operators.lookup(node.op), outputs[0].dtype if outputs else ""
    planned = replace(node, attrs={**node.attrs, **op.integer_attrs.get(dtype, {})})
    return Call(planned, (None,) * len(inputs), inputs, outputs, profile)


def _broken(call: Call, graph: Graph, target: Target) -> str | None:
    """Returns which of the target's constraints a planned operator breaks, and in float does not, or None."""
    op, tensors = operators.lookup(call.node.op), dict(graph.tensors)
    biases = {role.bias for role in op.weights}
    for position, (name, tensor) in enumerate(zip(call.node.inputs, call.inputs, strict=True)):
        if tensor is not None:
            is_bias = position in biases and tensor.is_float
            tensors[name] = replace(tensor, dtype=bias_type(call.outputs[0].dtype)) if is_bias else tensor
    tensors |= {tensor.name: tensor for tensor in call.outputs}
    planned = replace(graph, tensors=tensors)
    for constraint, found in broken(call.node, planned, target):
        if not constraint.reads_values and constraint.broken(call.node, graph) is None:
            return f"{found}. {constraint.text.rstrip('.')}"
    return None


def _typed(tensor: Tensor, params: QuantParams | None) -> Tensor:
    """Returns a tensor as the plan will have it; biases, which have no parameters in the plan, stay as they are."""
    return tensor if params is None or not tensor.is_float else replace(tensor, dtype=params.dtype, quant=params)


def unfaithful(
    graph: Graph,
    stats: Stats | None,
    forms: Forms,
    params: Mapping[str, QuantParams],
    edges: Mapping[str, QuantParams],
    target: Target,
) -> Rejected:
    """Returns the operators that are too coarse in integers where their values lie: curves, and what goes with them.

    So are comparisons of what is finer than they compare, and what computes divisors, whose errors count as factors'.

    Measured on what calibration saw: the integers of each operator alone, from exact inputs, against its function.
    Where the grids of a factor are too coarse, and not the kernel, so are the statistics that lead to it and what
    multiplies by it: a normalization stays float as a whole. So does what it is computed from, where that is too coarse
    for its smallest rows.
    """
    found: dict[str, tuple[Node, str]] = {}
    profile = profiles.find(target.profile)
    for node in graph.nodes:
        op = operators.lookup(node.op)
        if forms.activation(node) and (reason := op.coarse(_planned(node, graph, params, edges, profile))) is not None:
            found[node.name] = (node, reason)
        if op.divisor is not None and stats is not None:
            for source, reason in factors.coarse_divisors(node, graph, stats.tensors, forms, params):
                found.setdefault(source.name, (source, reason))
        if stats is not None and (reason := _lost_probabilities(node, graph, stats, forms)) is not None:
            found.setdefault(node.name, (node, reason))
        measured = stats.tensors.get(node.inputs[0]) if stats is not None and op.is_curved else None
        if measured is None or measured.magnitudes is None or not measured.magnitudes.keys.size:
            continue
        least, ratio, of_grids, what = LEAST_DB["int8"], math.inf, math.inf, ""
        if forms.activation(node):
            ratio, of_grids = curve_db(node, graph, measured.magnitudes, params, profile)
            least = LEAST_DB[params[node.inputs[0]].dtype]
            what = "its grids alone leave" if of_grids < least else "its kernel alone leaves"
        of_squares = factors.squares_db(node, graph, measured.magnitudes, forms, params) if op.is_factor else math.inf
        if of_squares < min(ratio, of_grids):
            what, ratio, of_grids = "the squares that it is computed from alone leave", of_squares, of_squares
        if ratio < least and forms.activation(node):
            found[node.name] = (node, f"{what} {ratio:.0f} dB on these samples (wanted: {least:.0f})")
        sources = list(streams.coarse_sources(node, graph, measured.magnitudes, forms, params)) if op.is_factor else []
        if of_grids < least or sources:
            reason = f"it goes with {node.op} '{node.name}', for which integers are too coarse"
            for other in (node, *factors.company(node, graph)):
                if forms.activation(other):
                    found.setdefault(other.name, (other, reason))
        for source, reason in sources:
            found.setdefault(source.name, (source, reason))
    return list(found.values())


def _lost_probabilities(node: Node, graph: Graph, stats: Stats, forms: Forms) -> str | None:
    """Returns why prescribed steps are too coarse for probabilities that calibration saw and that are read, or None."""
    measured, dtype = stats.tensors.get(node.outputs[0]) if node.outputs else None, forms.activation(node)
    if not operators.lookup(node.op).normalizes_rows or set(node.outputs) & set(graph.outputs):
        return None
    if dtype is None or measured is None or measured.magnitudes is None:
        return None
    step, _ = operators.lookup(node.op).fixed_output[dtype]
    ratio = rounded_db(measured.magnitudes, step, 1 << INTEGER_BITS[dtype])
    if ratio >= LEAST_DB[dtype]:
        return None
    return f"steps of 1/{1 / step:.0f} leave {ratio:.0f} dB of its probabilities on these samples"


def curve_db(
    node: Node, graph: Graph, magnitudes: Magnitudes, params: Mapping[str, QuantParams], profile: Profile
) -> tuple[float, float]:
    """Returns the signal-to-noise ratio of an operator of one number alone, in dB, and that of its grids alone.

    ``10 log10(Σ f(x)² / Σ (f̂(x̂) − f(x))²)`` over the values that were counted, with x̂ the input on its grid and f̂ the
    integer kernel; −inf where that does not compute. Of an operator whose results are factors of rows, each error
    counts relative to its value, and the smallest rows must keep as much as all.
    """
    op, x = operators.lookup(node.op), magnitudes.values
    incoming, outgoing = params[node.inputs[0]], params[node.outputs[0]]
    source, result = (replace(graph.tensors[name], shape=x.shape) for name in (node.inputs[0], node.outputs[0]))

    def exact(values: np.ndarray) -> np.ndarray:
        return op.kernels["float32"](Call(node, (values,), (source,), (result,), profile))[0].astype(np.float64)

    wanted, stored = exact(x), quantize(x, incoming)
    on_grids = dequantize(quantize(exact(dequantize(stored, incoming)).astype(np.float32), outgoing), outgoing)
    counts = [magnitudes.counts, factors.smallest(x, magnitudes.counts)] if op.is_factor else [magnitudes.counts]
    weights = [each / np.square(wanted) if op.is_factor else each.astype(np.float64) for each in counts]
    try:
        inputs, outputs = (_typed(source, incoming),), (_typed(result, outgoing),)
        integers = op.kernels[incoming.dtype](Call(node, (stored,), inputs, outputs, profile))[0]
    except FeatherweightError:
        return -math.inf, -math.inf
    ratio = min(_ratio_db(wanted, dequantize(integers, outgoing), each) for each in weights)
    return ratio, min(_ratio_db(wanted, on_grids, each) for each in weights)


def _ratio_db(wanted: np.ndarray, found: np.ndarray, weights: np.ndarray) -> float:
    counted = np.isfinite(wanted) & np.isfinite(weights)
    signal = float(weights[counted] @ wanted[counted] ** 2)
    noise = float(weights[counted] @ (np.nan_to_num(found[counted]) - wanted[counted]) ** 2)
    return 10 * math.log10(signal / noise) if signal and noise else math.inf
