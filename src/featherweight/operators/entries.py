"""Which graphs of a model a caller can run: the first one and those of signatures, but none that a node calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from featherweight.errors import RecipeError, listed
from featherweight.graph import Graph, Model, Node
from featherweight.operators.record import lookup


def callers(model: Model) -> dict[int, tuple[Node, ...]]:
    """Maps the graphs that nodes call (loop bodies, branches, initial values) to these nodes."""
    found: dict[int, list[Node]] = {}
    for graph in model.graphs:
        for node in graph.nodes:
            for place in _calls(node).values():
                found.setdefault(place, []).append(node)
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
        calls = {field: places.get(place, place) for field, place in _calls(node).items()}
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


def entry_of(model: Model, signature: str | None, where: str) -> int:
    """Returns the graph that a signature names; without one the first.

    Raises:
        RecipeError: for a signature that there is not.
    """
    found = {one.key: one.graph for one in model.signatures}
    if signature is None or signature in found:
        return 0 if signature is None else found[signature]
    allowed = listed(map(repr, found)) or "none: the file has no signatures"
    raise RecipeError(f"{where}: there is no signature '{signature}' (allowed: {allowed}).")


def reached(model: Model, entered: Iterable[int]) -> set[int]:
    """Returns the graphs that are entered, and those that they call."""
    found = {*entered}
    waiting = [*found]
    while waiting:
        called = {place for node in model.graphs[waiting.pop()].nodes for place in _calls(node).values()}
        new = {place for place in called - found if 0 <= place < len(model.graphs)}
        found |= new
        waiting += new
    return found


def without_uncalled(model: Model, entered: Iterable[int] | None = None) -> Model:
    """Returns the model with the graphs that are entered and those that they call, in their order.

    Args:
        model: to take them of.
        entered: by default the first graph, and those of signatures. Signatures of other graphs are left out.
    """
    roots = {0, *(signature.graph for signature in model.signatures)} if entered is None else {*entered}
    places = {old: new for new, old in enumerate(sorted(reached(model, roots)))}
    if len(places) == len(model.graphs):
        return model

    def moved(node: Node) -> Node:
        calls = {field: places.get(place, place) for field, place in _calls(node).items()}
        return replace(node, attrs={**node.attrs, **calls}) if calls else node

    graphs = tuple(replace(model.graphs[i], nodes=tuple(map(moved, model.graphs[i].nodes))) for i in places)
    signatures = tuple(replace(s, graph=places[s.graph]) for s in model.signatures if s.graph in roots)
    return replace(model, graphs=graphs, signatures=signatures)


def _calls(node: Node) -> dict[str, int]:
    """Returns the options of a node that name graphs, with these."""
    return {field: int(node.attrs[field]) for field in lookup(node.op).calls if field in node.attrs}
