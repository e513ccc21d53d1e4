"""Which weights of a plan can be chosen anew, and where they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight.graph import Graph, Model, Node, consumers, replace_graph
from featherweight.graph.editor import Editor, with_values
from featherweight.operators import lookup
from featherweight.pruning.prunable import GraphKernel, find_kernels
from featherweight.ptq.plan import Plan
from featherweight.repair.weights.grids import planned_params


@dataclass(frozen=True, eq=False)
class Place:
    """A weight whose integers can be chosen.

    Attributes:
        kernels: the weight with each operator that multiplies by it, in the order in which they run.
        position: which input of them it is.
        bias: the constant that is added to its products; empty where there is none, or other operators have it, too.
    """

    kernels: tuple[GraphKernel, ...]
    position: int
    bias: str = ""

    @property
    def kernel(self) -> GraphKernel:
        """The weight with the last operator that reads it: once that has been seen, all have."""
        return self.kernels[-1]


def find_places(model: Model, plan: Plan) -> tuple[list[Place], dict[str, str]]:
    """Returns the weights that the plan has in integers and that can be chosen, and weight → why it stays as it is."""
    graph = model.main
    sharing = _by_data(model)
    places: list[Place] = []
    reasons: dict[str, str] = {}
    for kernel in find_kernels(model):
        if not _is_integer(kernel.node, kernel.name, plan):
            continue
        readers = [node for node in graph.nodes if kernel.name in node.inputs]
        kernels = tuple(found for node in readers for found in _read_by(node, kernel))
        if kernel.graph or len(sharing[id(model.tensors[kernel.name].data)]) > 1:
            where = (
                "it is in a loop, a branch or another signature" if kernel.graph else "it is stored once for several"
            )
            reasons[kernel.name] = f"{where}, whose inputs are not seen together"
        elif len(kernels) < len(readers):
            others = next(node for node in readers if not list(_read_by(node, kernel)))
            reasons[kernel.name] = f"{others.op} '{others.name}' reads it, too, as a table"
        elif len({_stored(node, kernel.name, plan) for node in readers}) > 1:
            reasons[kernel.name] = "the operators that read it keep it in different integers"
        else:
            places.append(Place(kernels, kernel.node.inputs.index(kernel.name), _bias(graph, kernels)))
    return places, reasons


def _by_data(model: Model) -> dict[int, list[str]]:
    """Returns the constants that lie at the same place of the file."""
    found: dict[int, list[str]] = {}
    for name, tensor in model.tensors.items():
        if tensor.data is not None:
            found.setdefault(id(tensor.data), []).append(name)
    return found


def _is_integer(node: Node, name: str, plan: Plan) -> bool:
    form = plan.forms.get(node.name, "float32")
    is_stored = not form.startswith("float32") or "*" in form or "+" in form
    return is_stored and _stored(node, name, plan) not in ("", "float16")


def _stored(node: Node, name: str, plan: Plan) -> object:
    """Returns the parameters that an operator reads a weight in, and its form; empty where it reads it in float."""
    if plan.forms.get(node.name, "float32") == "float32":
        return ""
    try:
        params = planned_params(plan, node, node.inputs.index(name))
    except KeyError:
        return ""
    return "float16" if params.dtype == "float16" else params


def _read_by(node: Node, kernel: GraphKernel) -> Iterator[GraphKernel]:
    """Yields a weight with an operator, if that multiplies by it as the first one does."""
    op = lookup(node.op)
    roles = [(role.weight, role.activation) for role in op.weights] if op.has_integer_weights else []
    roles = [(1, 0)] if op.axes == "product" else roles
    is_alike = node.op == kernel.node.op and op.weight_kind != "embedding"
    for weight, activation in roles:
        if is_alike and weight < len(node.inputs) and node.inputs[weight] == kernel.name:
            yield replace(kernel, node=node, activation=node.inputs[activation])


def _bias(graph: Graph, kernels: Sequence[GraphKernel]) -> str:
    """Returns the bias that the operators of a weight, and no others, add."""
    found: set[str] = set()
    for kernel in kernels:
        op = lookup(kernel.node.op)
        role = next((r for r in op.weights if op.input_of(kernel.node, r.weight) == kernel.name), None)
        found.add(op.input_of(kernel.node, role.bias) if role is not None else "")
    bias = found.pop() if len(found) == 1 else ""
    if not bias or not graph.tensors[bias].is_constant:
        return ""
    readers = sum(name == bias for node in graph.nodes for name in node.inputs)
    return bias if readers == len(kernels) else ""


def with_own_biases(model: Model, places: Sequence[Place]) -> Model:
    """Returns the model with a bias for each of these weights that has none of its own: a copy, or zeros.

    What it computes stays the same. Weights of several operators, and of recurrent layers, stay without.
    """
    graph, edit = model.main, Editor(model.main, set(model.tensors))
    read = consumers(graph)
    wanting = {p.kernel.node.name for p in places if not p.bias and len(p.kernels) == 1}
    for node in graph.nodes:
        op, inputs = lookup(node.op), list(node.inputs)
        if node.name in wanting and op.bias is not None and op.weight is not None and op.weight_axes is not None:
            bias = op.input_of(node, op.bias)
            channels = graph.tensors[node.inputs[op.weight]].shape[op.weight_axes[0]]
            if not bias:
                inputs += [""] * (op.bias + 1 - len(inputs))
                inputs[op.bias] = edit.constant(f"{node.name}/bias", np.zeros(channels, np.float32))
            elif graph.tensors[bias].is_constant and len(read[bias]) > 1:
                inputs[op.bias] = edit.constant(f"{node.name}/bias", np.array(graph.tensors[bias].array))
        edit.nodes.append(node if tuple(inputs) == node.inputs else replace(node, inputs=tuple(inputs)))
    return replace_graph(model, 0, edit.result())


def written(model: Model, values: Mapping[str, np.ndarray]) -> Model:
    """Returns the model with other constants in its main graph."""
    tensors = dict(model.main.tensors)
    tensors |= {name: with_values(tensors[name], array) for name, array in values.items()}
    return replace_graph(model, 0, replace(model.main, tensors=tensors))
