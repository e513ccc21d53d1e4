"""The pass that writes activations in others, for targets that have no kernel for them, and none for floats either."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from featherweight.graph import Graph, Model, Node, replace_graph
from featherweight.graph.editor import Editor
from featherweight.targets.target import Target

_MISSING = "GELU"
_CUBIC = 0.044715


def substituted(model: Model, target: Target) -> tuple[Model, tuple[str, ...]]:
    """Returns the model in operators that a target has, and a note where that is not exact.

    ``GELU(x)`` is ``x σ(√(8/π) (x + 0.044715 x³))``: its tanh approximation (Hendrycks and Gimpel, 1606.08415), which
    is within 5e-4 of the exact function.
    """
    count = sum(node.op == _MISSING for graph in model.graphs for node in graph.nodes)
    if target.forms.get(_MISSING) or not count:
        return model, ()
    for index, graph in enumerate(model.graphs):
        model = replace_graph(model, index, _by_sigmoid(graph, set(model.tensors)))
    said = f"{count} {_MISSING} are written as x·sigmoid(1.596 x + 0.0714 x³), which is within 5e-4 of them"
    return model, (f"target '{target.name}' has no {_MISSING}: {said}",)


def _by_sigmoid(graph: Graph, taken: set[str]) -> Graph:
    edit = Editor(graph, taken)
    for node in graph.nodes:
        if node.op != _MISSING:
            edit.nodes.append(node)
            continue
        x, slope = node.inputs[0], math.sqrt(8 / math.pi)
        square = _behind(edit, node, "MUL", x, x)
        cubic = _behind(
            edit, node, "MUL", square, edit.constant(f"{node.name}/factor", np.asarray(_CUBIC * slope, "f4"))
        )
        rate = _behind(edit, node, "ADD", cubic, edit.constant(f"{node.name}/slope", np.asarray(slope, "f4")))
        gate = _behind(edit, node, "LOGISTIC", _behind(edit, node, "MUL", x, rate))
        edit.instead(node, "MUL", (x, gate))
    return edit.result()


def _behind(edit: Editor, node: Node, op: str, *inputs: str) -> str:
    """Adds an operator whose result is like a node's, and returns that."""
    like = replace(edit.tensors[node.name], name=f"{node.name}/{op.lower()}", file_name=None)
    result = edit.add(like)
    edit.node(op, inputs, (result,))
    return result
