"""Computes once what no input reaches: masks, positions and repeated tables that a converter left to the runtime."""

from __future__ import annotations

from dataclasses import replace

from featherweight.graph import Graph, Model, Signature, constant, replace_graph
from featherweight.runtime.litert import Session

# Operators whose result is not decided by their inputs, or that hold graphs of their own.
_LEFT = ("CUSTOM", "CALL_ONCE", "IF", "MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "VAR_HANDLE", "WHILE")


def folded(model: Model) -> Model:
    """Returns the model with everything that its main graph computes from constants alone as a constant.

    A batch that a converter wrote into such a part can't be freed; in a constant it can be told.

    Raises:
        FeatherweightError: if LiteRT can't run that part.
    """
    graph = model.main
    known = {name for name, tensor in graph.tensors.items() if tensor.is_constant}
    done = list[int]()
    for index, node in enumerate(graph.nodes):
        is_free = any(name and name not in known for name in node.inputs) or not node.inputs
        is_kept = any(name in graph.outputs or graph.tensors[name].is_variable for name in node.outputs if name)
        if is_free or is_kept or node.op in _LEFT:
            continue
        done.append(index)
        known.update(node.outputs)
    if not done:
        return model
    inside = tuple(graph.nodes[index] for index in done)
    nodes = tuple(node for index, node in enumerate(graph.nodes) if index not in set(done))
    needed = {name for node in nodes for name in node.inputs}
    results = tuple(name for node in inside for name in node.outputs if name in needed)
    used = {name for node in inside for name in (*node.inputs, *node.outputs) if name}
    part = Graph("constants", (), results, inside, {n: t for n, t in graph.tensors.items() if n in used})
    with Session(Model((part,), (Signature("constants", (), tuple((n, n) for n in results)),))) as session:
        session.invoke({})
        values = {name: session.read(name) for name in results}
    kept = needed | {name for node in nodes for name in node.outputs} | {*graph.inputs, *graph.outputs}
    tensors = {n: constant(n, values[n]) if n in values else t for n, t in graph.tensors.items() if n in kept}
    return replace_graph(model, 0, replace(graph, nodes=nodes, tensors=tensors))
