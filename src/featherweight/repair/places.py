"""Which weights of a plan can be chosen anew, and where they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from featherweight.graph import Graph, Model, Node, constant, consumers, replace_graph
from featherweight.graph.editor import Editor, with_values
from featherweight.operators import lookup
from featherweight.pruning.prunable import GraphKernel, find_kernels
from featherweight.ptq.plan import Plan
from featherweight.repair.grids import planned_params


@dataclass(frozen=True, eq=False)
class Place:
    """A weight whose integers can be chosen.

    Attributes:
        kernel: the weight, with the first operator that reads it.
        position: which input of the operator it is.
        bias: the constant that is added to its products; empty where there is none.
    """

    kernel: GraphKernel
    position: int
    bias: str = ""


def find_places(model: Model, plan: Plan) -> tuple[dict[str, list[Place]], dict[str, str]]:
    """Returns operator → the weights that it is the first to read, and weight → why it stays as it is."""
    graph = model.main
    by_data: dict[int, list[str]] = {}
    for name, tensor in model.tensors.items():
        if tensor.data is not None:
            by_data.setdefault(id(tensor.data), []).append(name)
    places: dict[str, list[Place]] = {}
    reasons: dict[str, str] = {}
    seen: set[int] = set()
    readers = [(node, name) for each in model.graphs for node in each.nodes for name in node.inputs if name]
    for kernel in find_kernels(model):
        node, data = kernel.node, id(model.tensors[kernel.name].data)
        form = plan.forms.get(node.name, "float32").replace("+", "*")
        others = {(n.name, name) for n, name in readers if name in by_data[data]} - {(node.name, kernel.name)}
        if "float16" in form or ("*" not in form and not _is_integer_product(node, plan)):
            continue  # it is no integers
        reason = ""
        if kernel.graph:
            reason = "it is in a loop, a branch, or a signature of its own, whose inputs can't be seen"
        elif data in seen or len(by_data[data]) > 1:
            reason = f"it is stored once for several operators"
        elif any(lookup(n.op).weight_kind == "embedding" or not lookup(n.op).has_integer_weights and lookup(n.op).axes != "product" for n, name in readers if name == kernel.name):
            reason = "other operators read it, too, which look values up in it"
        seen.add(data)
        if reason:
            reasons[kernel.name] = reason
            continue
        role = next((r for r in lookup(node.op).weights if node.inputs[r.weight] == kernel.name), None)
        position = node.inputs.index(kernel.name)
        bias = lookup(node.op).input_of(node, role.bias) if role is not None else ""
        bias = bias if bias and graph.tensors[bias].is_constant else ""
        shared = bias and sum(bias in n.inputs for n in graph.nodes) > 1
        places.setdefault(node.name, []).append(Place(kernel, position, "" if shared else bias))
    return places, reasons


def _is_integer_product(node: Node, plan: Plan) -> bool:
    return lookup(node.op).axes == "product" and node.name in plan.forms


def with_own_biases(model: Model, plan: Plan) -> Model:
    """Returns the model with a bias of its own for every weighted operator that the plan computes in integers.

    What several operators share is copied; where there is none, it is zeros.
    """
    graph, edit = model.main, Editor(model.main, set(model.tensors))
    read = consumers(graph)
    weights: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            weights[name] = weights.get(name, 0) + 1
    for node in graph.nodes:
        op = lookup(node.op)
        inputs = list(node.inputs)
        form = plan.forms.get(node.name, "float32")
        for role in op.weights if op.has_integer_weights and "*" in form and op.weight_kind != "recurrent" else ():
            if role.bias is None or not graph.tensors[node.inputs[role.weight]].is_constant:
                continue
            if weights[node.inputs[role.weight]] > 1:
                continue
            bias = op.input_of(node, role.bias)
            channels = graph.tensors[node.inputs[role.weight]].shape[(op.weight_axes or (0, 0))[0]]
            if not bias:
                inputs += [""] * (role.bias + 1 - len(inputs))
                inputs[role.bias] = edit.constant(f"{node.name}/bias", np.zeros(channels, np.float32))
            elif graph.tensors[bias].is_constant and len(read[bias]) > 1:
                inputs[role.bias] = edit.constant(f"{node.name}/bias", np.asarray(graph.tensors[bias].array))
        edit.nodes.append(replace(node, inputs=tuple(inputs)) if tuple(inputs) != node.inputs else node)
    return replace_graph(model, 0, edit.result())


def written(model: Model, values: Mapping[str, np.ndarray]) -> Model:
    """Returns the model with other constants in its main graph."""
    tensors = dict(model.main.tensors)
    tensors |= {name: with_values(tensors[name], array) for name, array in values.items()}
    return replace_graph(model, 0, replace(model.main, tensors=tensors))
