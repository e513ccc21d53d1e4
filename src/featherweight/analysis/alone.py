"""Every operator of a quantized model by itself: fed with the float model's values, beside the float model."""

from __future__ import annotations

from dataclasses import replace

from featherweight.analysis.places import Pair
from featherweight.graph import Model, Node, Tensor
from featherweight.graph.editor import Editor
from featherweight.graph.numerics import QuantParams
from featherweight.operators import lookup
from featherweight.operators.families.quantize import conversion


def converted(edit: Editor, name: str, params: QuantParams) -> str:
    """Adds a way through integers behind a float tensor; returns what comes out."""
    tensor = replace(edit.tensors[name], file_name=None, data=None)
    integers = edit.add(replace(tensor, name=f"{name}/integers", dtype=params.dtype, quant=params))
    real = edit.add(replace(tensor, name=f"{name}/rounded"))
    steps = [edit.tensors[each] for each in (name, integers, real)]
    edit.nodes += [conversion(*steps[:2]), conversion(*steps[1:])]
    return real


def with_rounded_weights(pair: Pair, edit: Editor, node: Node) -> Node:
    """Returns a float operator with the real numbers that the quantized model has for its constants."""
    given = {i: pair.rounded_weight(node, i) for i, name in enumerate(node.inputs) if name}
    new = {i: edit.constant(node.inputs[i], values) for i, values in given.items() if values is not None}
    return replace(node, inputs=tuple(new.get(i, name) for i, name in enumerate(node.inputs)))


def as_quantized(pair: Pair, edit: Editor, node: Node, inputs: tuple[str, ...]) -> Node:
    """Returns the quantized model's operator, which reads float activations, in the float graph."""
    match = pair.matches[node.name]

    def constant_of(name: str) -> str:
        tensor: Tensor = pair.graph.tensors[name]
        if tensor.quant is not None and tensor.quant.scale_tensor is not None:
            scales = edit.add(pair.graph.tensors[tensor.quant.scale_tensor])
            tensor = replace(tensor, quant=replace(tensor.quant, scale_tensor=scales))
        return edit.add(tensor)

    read = list(inputs) + [""] * (len(match.inputs) - len(inputs))
    for position, name in enumerate(match.inputs):
        if name and pair.graph.tensors[name].is_constant:
            read[position] = constant_of(name)
    return replace(match, inputs=tuple(read), outputs=node.outputs)


def with_operators_alone(pair: Pair) -> tuple[Model, dict[str, str]]:
    """Returns the float model in which each operator that rounds computes once more, and tensor → what that gives.

    The second time it reads the same exact values, with the quantized model's weights, and its results go through the
    integers that the quantized model holds them in; of a hybrid operator, it is that very kernel. Operators that only
    pick values from a grid, call graphs or keep state have no second time.
    """
    graph = pair.float_graph
    edit = Editor(graph, set(pair.before.tensors))
    owners = {place.node.name: place.kind for place in pair.places if place.node is not None}
    found: dict[str, str] = {}
    for node in graph.nodes:
        edit.nodes.append(node)
        read = [graph.tensors[name] for name in node.inputs if name]
        if (
            node.name not in owners
            or lookup(node.op).calls
            or any(t.is_variable or t.dtype == "resource" for t in read)
        ):
            continue
        is_hybrid = owners[node.name] == "operator"
        again = as_quantized(pair, edit, node, node.inputs) if is_hybrid else with_rounded_weights(pair, edit, node)
        new = {o: edit.add(replace(graph.tensors[o], name=f"{o}/alone", file_name=None)) for o in node.outputs if o}
        edit.nodes.append(replace(again, outputs=tuple(new.get(name, name) for name in node.outputs)))
        for output, name in new.items():
            params = None if is_hybrid else pair.held(output)
            if graph.tensors[output].is_float:
                found[output] = name if params is None else converted(edit, name, params)
    return Model((edit.result(), *pair.before.graphs[1:]), pair.before.signatures), found
