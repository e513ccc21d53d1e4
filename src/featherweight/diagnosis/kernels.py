"""What integer kernels do to exact inputs beyond rounding what they read and write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from featherweight.analysis.inspection import arithmetic
from featherweight.analysis.places import Pair, Place
from featherweight.diagnosis.behind import alone
from featherweight.diagnosis.cause import Cause, number
from featherweight.diagnosis.evidence import Evidence
from featherweight.diagnosis.exact import Carrier, Exact, Runs
from featherweight.diagnosis.explaining import cause_at, sized
from featherweight.diagnosis.levels import Level
from featherweight.diagnosis.rounding import quantized_operator, rounded
from featherweight.errors import FeatherweightError
from featherweight.graph import Node, Tensor, constant
from featherweight.operators import lookup, placed
from featherweight.operators.call import Call, tensors_of

# Kernels are looked at one by one only where they lose more than rounding does: a third of the error, 1.8 dB.
_MORE = 1.5
# Below this ratio to the whole error, one kernel's is no cause.
_LEAST_SHARE = 0.1


def kernel_causes(evidence: Evidence, simulated: Level) -> list[Cause]:
    """Returns the kernels that add to the error by their arithmetic, and those that a runtime's fast kernels refuse.

    Args:
        evidence: what was measured.
        simulated: the error of the model if it only rounded.
    """
    if evidence.total.ratio < _MORE * simulated.ratio:
        return []
    found: list[tuple[Level, Node]] = []
    for node in evidence.pair.float_graph.nodes:
        match = evidence.pair.matches.get(node.name)
        if match is None or arithmetic(match, evidence.pair.graph) != "integer" or lookup(node.op).moves_data:
            continue
        try:
            found.append((_level(node, evidence), node))
        except FeatherweightError:
            continue
    found = [each for each in found if each[0].ratio > _LEAST_SHARE * evidence.total.ratio]
    return [_cause(node, level, evidence) for level, node in sorted(found, key=lambda each: -each[0].ratio)[:3]]


def _level(node: Node, evidence: Evidence) -> Level:
    pair, exact = evidence.pair, evidence.exact
    real, plain = quantized_operator(node, pair, exact), _rounding_only(node, pair, exact)
    changed: Mapping[str, Runs] = {
        name: [x + (y - z) for x, y, z in zip(exact.values[name], runs, plain[name], strict=True)]
        for name, runs in real.items()
    }
    with Carrier(exact, dict.fromkeys(changed)) as carrier:
        return carrier.level(changed)


def _rounding_only(node: Node, pair: Pair, exact: Exact) -> dict[str, Runs]:
    """Returns what the float operator computes of rounded operands, rounded as the integer one's results are."""
    match, graph = pair.matches[node.name], pair.float_graph
    tensors: dict[str, Tensor] = {}
    given: dict[str, Runs] = {}
    for position, name in enumerate(node.inputs):
        if not name:
            continue
        values, other = pair.rounded_weight(node, position), pair.graph.tensors.get(match.inputs[position])
        if values is not None:
            tensors[name] = replace(constant(name, values), quant=None)
        elif name in exact.values and other is not None and other.quant is not None and graph.tensors[name].is_float:
            given[name] = rounded(exact.values[name], other.quant)
    part = alone(pair.before, node, tensors)
    found = exact.runs(part, part.main.outputs, given)
    for name, other in zip(node.outputs, match.outputs, strict=False):
        params = pair.graph.tensors[other].quant if other else None
        if params is not None and name in found:
            found[name] = rounded(found[name], params)
    return found


def _cause(node: Node, level: Level, evidence: Evidence) -> Cause:
    match = evidence.pair.matches[node.name]
    inputs, outputs = tensors_of(match, evidence.pair.graph)
    call = Call(match, tuple(None for _ in inputs), inputs, outputs)
    name = "kernel-arithmetic"
    said = f"the integer kernel of {evidence.said(node)} loses more than rounding what it reads and writes does"
    if placed(call) is not call:
        scales = [
            t.quant.scale[0] for t in (*inputs, *outputs) if t is not None and t.quant is not None and t.quant.scale
        ]
        name = "outside-windows"
        said += f": XNNPACK does not take it with the scales {', '.join(map(number, scales))}"
    return sized(cause_at(name, said, [Place("activation", node.name, node)], evidence), level)
