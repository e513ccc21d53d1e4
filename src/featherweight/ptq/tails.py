"""What computes an output behind the last layers, where 8 bits lose in it what the layers had: decoders of boxes.

A mean over probabilities, a cell's place added, a product with a stride: each rounds what the ones before have rounded,
and constants that spread over an image make the steps of all coarse. It is little work, which float does as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from featherweight import operators
from featherweight.calibration import TensorStats
from featherweight.graph import Graph, Node, consumers, producers
from featherweight.graph.numerics import QuantParams
from featherweight.ptq.factors import gains
from featherweight.ptq.forms.decisions import Forms
from featherweight.ptq.forms.islands import is_named
from featherweight.ptq.forms.nodes import touches_float

# How much noisier than its last step, or than what it is computed from, a result must be: one bit and a half.
_LEAST_RATIO = 8.0
# Rounded once, an output has what 8 bits can say of it.
_FEWEST_ROUNDINGS = 2
# Multiply-accumulates of the graph for each value that is computed in float instead.
_LEAST_MACS = 16
# Of a layer that takes a mean over probabilities: more is a layer that learns.
_MOST_WEIGHTS = 1024


class Tail(NamedTuple):
    """What leads from layers to an output, and how much noise its own roundings make there.

    Attributes:
        end: the last tensor that is rounded.
        nodes: the operators to keep in float, in the graph's order.
        ratio: the noise of `end`, of that which its last rounding makes, or which the steps of what the operators are
            fed make: the smaller one.
        beside: which one that is, in words.
    """

    end: str
    nodes: tuple[Node, ...]
    ratio: float
    beside: str


def coarse_tails(
    graph: Graph, measured: Mapping[str, TensorStats], forms: Forms, params: Mapping[str, QuantParams]
) -> list[Tail]:
    """Returns the tails of outputs in int8 that lose more than a bit and a half by being rounded over and over."""
    made, read = producers(graph), consumers(graph)
    macs = sum(operators.macs(node, graph) for node in graph.nodes if forms.activation(node))
    found: list[Tail] = []
    for end in _ends(graph, forms, made):
        members = _members(end, graph, forms, made, read)
        noises = _noises(members, graph, measured, params)
        rounding = [node for node in members if not operators.lookup(node.op).is_mover]
        values = sum(graph.tensors[name].elements for node in rounding for name in node.outputs)
        if len(rounding) < _FEWEST_ROUNDINGS or end.name not in noises or values * _LEAST_MACS > macs:
            continue
        noise, of_layers = noises[end.name]
        last = _of_step(params[end.name])
        ratio = noise / max(min(last, of_layers), 1e-300)
        if ratio >= _LEAST_RATIO:
            beside = "its last rounding alone" if last < of_layers else "the steps of what they are fed"
            found.append(Tail(end.name, tuple(_without_movers_before(members, graph)), ratio, beside))
    return found


def _ends(graph: Graph, forms: Forms, made: Mapping[str, Node]) -> Iterator[Node]:
    """Yields the integer operators whose values outputs hold, as they are or moved in float."""
    waiting, seen = list(dict.fromkeys(graph.outputs)), set[str]()
    while waiting:
        name = waiting.pop()
        node = made.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if forms.activation(node) == "int8":
            yield node
        elif operators.lookup(node.op).is_mover:
            waiting += [tensor.name for _, tensor in graph.float_inputs(node) if not tensor.is_constant]


def _members(
    end: Node, graph: Graph, forms: Forms, made: Mapping[str, Node], read: Mapping[str, Sequence[Node]]
) -> list[Node]:
    """Returns the int8 operators that lead to one alone, from layers and curves on, in the graph's order."""
    if not _is_free(end, graph, forms, made):
        return []
    found, passing = [end], {end.name} if _is_arithmetic(end) else set[str]()
    for node in reversed(graph.nodes):
        readers = [r for name in node.outputs for r in read.get(name, ()) if touches_float(r, graph)]
        is_alone = readers and all(r.name in passing for r in readers) and not set(graph.outputs) & set(node.outputs)
        if is_alone and _is_free(node, graph, forms, made):
            found.append(node)
            passing |= {node.name} if _is_arithmetic(node) else set()
    return found[::-1]


def _is_arithmetic(node: Node) -> bool:
    """True but for curves and probabilities, through which the noise of what they are fed is not followed."""
    op = operators.lookup(node.op)
    return not (op.is_curved or bool(op.probability))


def _is_free(node: Node, graph: Graph, forms: Forms, made: Mapping[str, Node]) -> bool:
    """True for an int8 operator that no rule names, and that is no layer, but perhaps one that takes a mean."""
    if forms.activation(node) != "int8" or is_named(forms, node) or len(node.outputs) != 1:
        return False
    op = operators.lookup(node.op)
    return (op.weight is None and op.axes != "product") or _takes_mean(node, graph, made)


def _takes_mean(node: Node, graph: Graph, made: Mapping[str, Node]) -> bool:
    """True for a small dense layer or convolution of probabilities: a mean of constants over them."""
    op = operators.lookup(node.op)
    weight = graph.tensors.get(op.input_of(node, op.weight))
    if op.weight_kind not in ("dense", "conv") or weight is None or not weight.is_constant:
        return False
    maker = made.get(node.inputs[op.activation])
    while maker is not None and operators.lookup(maker.op).moves_data:
        maker = made.get(maker.inputs[0])
    return weight.elements < _MOST_WEIGHTS and maker is not None and bool(operators.lookup(maker.op).probability)


def _noises(
    members: list[Node], graph: Graph, measured: Mapping[str, TensorStats], params: Mapping[str, QuantParams]
) -> dict[str, tuple[float, float]]:
    """Returns tensor → (its noise by all steps before it, by those of layers and curves alone), in its unit, squared.

    Steps are taken as independent; where values come together, the noisiest counts.
    """
    found: dict[str, tuple[float, float]] = {}
    for node in members:
        op, name = operators.lookup(node.op), node.outputs[0]
        if name not in params:
            return {}
        known = _gains(node, graph, measured)
        parts = [
            tuple(gain * noise for noise in found.get(source, (_of_step(params[source]),) * 2))
            for source, gain in known
            if source in params and not graph.tensors[source].is_constant
        ]
        own = _of_step(params[name])
        if op.is_mover and parts:
            found[name] = max(all_ for all_, _ in parts), max(of_layers for _, of_layers in parts)
        elif parts:
            found[name] = own + sum(all_ for all_, _ in parts), sum(of_layers for _, of_layers in parts)
        else:
            found[name] = own, own
    return found


def _gains(node: Node, graph: Graph, measured: Mapping[str, TensorStats]) -> list[tuple[str, float]]:
    """Returns (input, by what an operator multiplies its noise); none for curves."""
    op = operators.lookup(node.op)
    if op.is_mover:
        return [(name, 1.0) for name in _computed(node, graph)]
    if op.weight is None:
        return list(gains(node, graph, measured))
    weights = np.asarray(graph.tensors[node.inputs[op.weight]].array, np.float64).reshape(-1)
    return [(node.inputs[op.activation], float(np.square(weights).sum()))]


def _of_step(params: QuantParams) -> float:
    return params.scale[0] ** 2 / 12


def _without_movers_before(members: list[Node], graph: Graph) -> list[Node]:
    """Returns the operators without those that only move what layers computed: integers are moved as well."""
    found: dict[str, Node] = {}
    for node in members:
        if not operators.lookup(node.op).is_mover or any(name in found for name in _computed(node, graph)):
            found[node.name] = node
    return list(found.values())


def _computed(node: Node, graph: Graph) -> list[str]:
    return [tensor.name for _, tensor in graph.float_inputs(node) if not tensor.is_constant]
