"""Which graphs of a model a caller can run: the first one and those of signatures, but none that a node calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from featherweight.graph import Graph, Model, Node
from featherweight.operators.record import lookup


def callers(model: Model) -> dict[int, tuple[Node, ...]]:
    """Maps the graphs that nodes call (loop bodies, branches, initial values) to these nodes."""
    found: dict[int, list[Node]] = {}
    for graph in model.graphs:
        for node in graph.nodes:
            for field in lookup(node.op).calls:
                if field in node.attrs:
                    found.setdefault(int(node.attrs[field]), []).append(node)
    return {index: tuple(nodes) for index, nodes in found.items()}


def entries(model: Model) -> dict[int, str]:
    """Maps the graphs that a caller can run to their signatures; the first graph needs none, and has "" without.

    >>> from featherweight.graph import Signature
    >>> x = Graph("x", (), (), (), {})
    >>> entries(Model((x, x), (Signature("prefill", (), ()), Signature("decode", (), (), 1))))
    {0: 'prefill', 1: 'decode'}
    """
    called = callers(model)
    found = {0: ""}
    for signature in model.signatures:
        if signature.graph == 0 or signature.graph not in called:
            found[signature.graph] = found.get(signature.graph) or signature.key
    return found


def with_main(model: Model, index: int) -> Model:
    """Returns the model with another of its graphs as the one that runs: it changes places with the first."""
    if index == 0:
        return model
    places = {0: index, index: 0}

    def moved(node: Node) -> Node:
        calls = {f: places.get(int(node.attrs[f]), node.attrs[f]) for f in lookup(node.op).calls if f in node.attrs}
        return replace(node, attrs={**node.attrs, **calls}) if calls else node

    graphs = [replace(graph, nodes=tuple(map(moved, graph.nodes))) for graph in model.graphs]
    graphs[0], graphs[index] = graphs[index], graphs[0]
    signatures = tuple(replace(s, graph=places.get(s.graph, s.graph)) for s in model.signatures)
    return replace(model, graphs=tuple(graphs), signatures=signatures)


def joined(model: Model, indices: Iterable[int]) -> Graph:
    """Returns graphs of a model side by side as one, for what looks at all of them: names are the model's."""
    graphs = [model.graphs[index] for index in indices]
    if len(graphs) == 1:
        return graphs[0]
    return Graph(
        graphs[0].name,
        tuple(name for graph in graphs for name in graph.inputs),
        tuple(name for graph in graphs for name in graph.outputs),
        tuple(node for graph in graphs for node in graph.nodes),
        {name: tensor for graph in graphs for name, tensor in graph.tensors.items()},
    )
