"""What a place makes of exact values: the error that it adds, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from featherweight.analysis.borders import takes_integers
from featherweight.analysis.places import Pair, Place
from featherweight.diagnosis.behind import alone
from featherweight.diagnosis.exact import Exact, Runs
from featherweight.graph import Graph, Model, Node, Tensor, constant, replace_graph
from featherweight.graph.numerics import QuantParams, dequantize, quantize
from featherweight.operators.families.quantize import conversion


def rounded(runs: Runs, params: QuantParams) -> list[np.ndarray]:
    """Returns values after a way through the integers, float32; NaN becomes 0."""
    return [dequantize(quantize(np.nan_to_num(x, nan=0.0), params), params) for x in runs]


def changed_values(place: Place, pair: Pair, exact: Exact) -> dict[str, Runs]:
    """Returns what tensors hold when this place rounds and everything before it is exact.

    Of an activation, that is the tensor itself; of a weight or an operator, the operator's outputs.
    """
    if place.kind == "activation" and place.params is not None:
        return {place.tensor: rounded(exact.values[place.tensor], place.params)}
    if place.node is None:
        return {}
    if place.kind == "weight":
        return with_weights(place.node, pair, exact, [place.tensor])
    return quantized_operator(place.node, pair, exact)


def with_weights(node: Node, pair: Pair, exact: Exact, names: list[str]) -> dict[str, Runs]:
    """Returns what an operator computes with some of its constants as the quantized model has them."""
    graph, given = pair.float_graph, dict[str, Tensor]()
    for position, name in enumerate(node.inputs):
        values = pair.rounded_weight(node, position) if name in names else None
        if values is not None:
            given[name] = replace(constant(name, values), quant=None)
    found = exact.computed_alone(node, given)
    return {name: runs for name, runs in found.items() if graph.tensors[name].is_float}


def quantized_operator(node: Node, pair: Pair, exact: Exact) -> dict[str, Runs]:
    """Returns what the quantized model's kernel of an operator computes of exact inputs, as real numbers."""
    match = pair.matches[node.name]
    part, fed, computed = between_floats(pair.after, match)
    given = {new: exact.values[name] for new, name in _fed_by(node, match, fed).items()}
    found = exact.runs(part, part.main.outputs, given)
    names = {computed[ours]: theirs for ours, theirs in zip(match.outputs, node.outputs, strict=False) if ours}
    return {names[name]: runs for name, runs in found.items() if pair.float_graph.tensors[names[name]].is_float}


def _fed_by(node: Node, match: Node, fed: Mapping[str, str]) -> dict[str, str]:
    pairs = dict(zip(match.inputs, node.inputs, strict=False))
    return {new: pairs[own] for own, new in fed.items() if own in pairs}


def between_floats(model: Model, node: Node) -> tuple[Model, dict[str, str], dict[str, str]]:
    """Returns one operator of a quantized model alone, between conversions from and to float32.

    Returns:
        The model; the operator's own inputs → the model's; its outputs → the model's.
    """
    part = alone(model, node)
    graph, fed, computed = part.main, dict[str, str](), dict[str, str]()
    tensors, first, last = dict(graph.tensors), list[Node](), list[Node]()

    def converted(name: str, names: dict[str, str]) -> str:
        tensor = tensors[name]
        if not takes_integers(tensor):
            names[name] = name
            return name
        new = f"{name}/real"
        tensors[new] = replace(tensor, name=new, dtype="float32", quant=None, file_name=None)
        names[name] = new
        pair = (tensors[new], tensor) if names is fed else (tensor, tensors[new])
        (first if names is fed else last).append(conversion(*pair))
        return new

    inputs = tuple(converted(name, fed) for name in graph.inputs)
    outputs = tuple(converted(name, computed) for name in graph.outputs)
    whole = Graph(graph.name, inputs, outputs, (*first, *graph.nodes, *last), tensors)
    return replace_graph(part, 0, whole), fed, computed
