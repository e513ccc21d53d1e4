"""Computes once what no input reaches: masks, positions and repeated tables that a converter left to the runtime."""

from __future__ import annotations

from dataclasses import replace

from featherweight import operators
from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant
from featherweight.graph.editor import without_unused
from featherweight.runtime.litert import Session

# These compute something else each time.
_LEFT = frozenset({"CUSTOM", "MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM", "VAR_HANDLE"})
# What a constant that is larger than what it is computed from may take: a mask of 512 by 512.
_MOST_ELEMENTS = 1 << 18


def with_folded_constants(graph: Graph) -> Graph:
    """Returns the graph with what it computes from constants alone as constants, as LiteRT computes them.

    Outputs, states, and results much larger than what they are computed from stay computed.
    """
    known = {name for name, tensor in graph.tensors.items() if _is_plain(tensor)}
    inside: list[Node] = []
    for node in graph.nodes:
        if _can_fold(node, graph, known):
            inside.append(node)
            known.update(node.outputs)
    needed = {name for node in graph.nodes if node not in inside for name in node.inputs}
    results = tuple(name for node in inside for name in node.outputs if name in needed)
    if not results:
        return graph
    used = {name for node in inside for name in (*node.inputs, *node.outputs) if name}
    part = Graph("constants", (), results, tuple(inside), {n: t for n, t in graph.tensors.items() if n in used})
    try:
        with Session(Model((part,), (Signature("constants", (), tuple((n, n) for n in results)),))) as session:
            session.invoke({})
            values = {name: constant(name, session.read(name), graph.tensors[name].dtype) for name in results}
    except FeatherweightError:  # what LiteRT can't run alone stays as it is
        return graph
    nodes = tuple(node for node in graph.nodes if node not in inside)
    return without_unused(replace(graph, nodes=nodes, tensors={**graph.tensors, **values}), before=graph)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_constant and tensor.quant is None and "sparsity" not in tensor.extras


def _can_fold(node: Node, graph: Graph, known: set[str]) -> bool:
    op = operators.lookup(node.op)
    inputs = [graph.tensors[name] for name in node.inputs if name]
    outputs = [graph.tensors[name] for name in node.outputs]
    most = max(_MOST_ELEMENTS, sum(tensor.elements for tensor in inputs))
    return (
        bool(inputs)
        and all(tensor.name in known for tensor in inputs)
        and node.op not in _LEFT
        and not (op.unpacks or op.is_conversion)  # no computation
        and not op.calls
        and not any(name in graph.outputs for name in node.outputs)
        and all(t.elements <= most and not t.is_variable and -1 not in (t.shape_signature or ()) for t in outputs)
    )
