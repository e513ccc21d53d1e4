"""Writes out composites: operators that stand for a graph of others, for the sake of delegates that know their names.

On CPUs LiteRT runs the graph behind the name. In the graph itself integers have ranges, and passes see their patterns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from featherweight.graph import Graph, Model, Node, Tensor, replace_graph
from featherweight.graph.editor import Editor, without_unused
from featherweight.operators.entries import without_uncalled

COMPOSITE = "STABLEHLO_COMPOSITE"
_BODY = "decomposition_subgraph_index"


def composites(model: Model) -> tuple[str, ...]:
    """Returns the names of the composites of a model, each once."""
    found = [node.attrs.get("name", b"") for graph in model.graphs for node in graph.nodes if node.op == COMPOSITE]
    return tuple(dict.fromkeys(n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in found))


def written_out(model: Model) -> Model:
    """Returns the model with the operators behind its composites in their place; what it computes is the same.

    A composite whose body hands on what it is given, or one result twice, stays.
    """
    called = 0
    for _ in model.graphs:  # composites within composites: no deeper than there are graphs
        for index, graph in enumerate(model.graphs):
            for node in graph.nodes:
                if node.op == COMPOSITE and _has_plain_body(model, node, index):
                    model, called = replace_graph(model, index, _with_body(model, index, node)), called + 1
    return without_uncalled(model) if called else model


def _has_plain_body(model: Model, node: Node, caller: int) -> bool:
    index = int(node.attrs.get(_BODY, -1))
    if not 0 <= index < len(model.graphs) or index == caller:
        return False
    body = model.graphs[index]
    made = {name for inner in body.nodes for name in inner.outputs}
    is_plain = set(body.outputs) <= made and len(set(body.outputs)) == len(body.outputs)
    fits = (len(body.inputs), len(body.outputs)) == (len(node.inputs), len(node.outputs)) and all(node.outputs)
    return is_plain and fits and all(node.inputs)


def _with_body(model: Model, index: int, composite: Node) -> Graph:
    """Returns a graph with one composite's body in its place; the body's tensors get names that are free."""
    graph, body = model.graphs[index], model.graphs[int(composite.attrs[_BODY])]
    edit = Editor(graph, set(model.tensors))
    names = dict(zip((*body.inputs, *body.outputs), (*composite.inputs, *composite.outputs), strict=True))
    for name in body.tensors:
        names.setdefault(name, "")
        names[name] = names[name] or edit.fresh(f"{composite.name}/{name}")
    for name, tensor in body.tensors.items():
        if names[name] not in edit.tensors:
            edit.tensors[names[name]] = _renamed(tensor, names)
    for node in graph.nodes:
        edit.nodes += [_copied(inner, names) for inner in body.nodes] if node is composite else [node]
    return without_unused(edit.result(), before=graph)


def _renamed(tensor: Tensor, names: Mapping[str, str]) -> Tensor:
    quant = tensor.quant
    if quant is not None and quant.scale_tensor:
        quant = replace(quant, scale_tensor=names[quant.scale_tensor])
    return replace(tensor, name=names[tensor.name], quant=quant, file_name=None)


def _copied(node: Node, names: Mapping[str, str]) -> Node:
    def of(found: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name and names[name] for name in found)

    extras = dict(node.extras)
    if "intermediates" in extras:
        extras["intermediates"] = of(extras["intermediates"])
    return replace(node, inputs=of(node.inputs), outputs=of(node.outputs), extras=extras)
