"""The one way to change a frozen graph: what is added and replaced is collected, and then taken as a new graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np

from featherweight.errors import DataError, listed
from featherweight.graph.model import Graph, Model, Node, Tensor, constant, consumers, fresh_name
from featherweight.graph.numerics import storage_dtype


class Editor:
    """A graph that is being written anew: its tensors stay, with new ones behind them; nodes are given in order.

    Attributes:
        graph: as it was.
        tensors, nodes: of the new graph.
        taken: names that nothing new may have, ``set(model.tensors)``. Editors of one model's graphs share them.

    >>> edit = Editor(Graph("main", ("x",), ("y",), (), {name: Tensor(name, (2,), "float32") for name in "xy"}))
    >>> edit.node("MUL", ("x", edit.constant("x", np.float32([2, 3]))), ("y",))
    >>> [node.inputs for node in edit.result().nodes]
    [('x', 'x#1')]
    """

    def __init__(self, graph: Graph, taken: set[str] | None = None) -> None:
        self.graph = graph
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.nodes: list[Node] = []
        self.taken = set[str]() if taken is None else taken
        self.taken.update(graph.tensors)

    def fresh(self, wish: str) -> str:
        """Returns `wish`, or `wish` with the first free number behind it, and takes it."""
        name = fresh_name(wish, self.taken)
        self.taken.add(name)
        return name

    def add(self, tensor: Tensor) -> str:
        """Adds a tensor under its own name, or the next that is free; returns that."""
        name = self.fresh(tensor.name)
        self.tensors[name] = tensor if name == tensor.name else replace(tensor, name=name, file_name=None)
        return name

    def constant(self, wish: str, array: np.ndarray) -> str:
        """Adds a constant; returns its name."""
        return self.add(constant(wish, array))

    def node(self, op: str, inputs: Iterable[str], outputs: Iterable[str], **attrs: Any) -> None:
        """Adds an operator behind those before; options that are not named have the schema's defaults."""
        self.nodes.append(Node(op, tuple(inputs), tuple(outputs), attrs))

    def instead(self, node: Node, op: str, inputs: Iterable[str], **attrs: Any) -> None:
        """Adds an operator that computes a node's outputs; what the file says about the node stays."""
        extras = {key: value for key, value in node.extras.items() if key != "options"}
        self.nodes.append(Node(op, tuple(inputs), node.outputs, attrs, extras=extras))

    def result(self) -> Graph:
        """Returns the new graph; where nothing has changed, the very graph that it was."""
        nodes = tuple(self.nodes)
        if nodes == self.graph.nodes and self.tensors == dict(self.graph.tensors):
            return self.graph
        return replace(self.graph, nodes=nodes, tensors=dict(self.tensors))


def is_plain(node: Node | None, op: str) -> TypeGuard[Node]:
    """True for an operator of that type without a fused activation."""
    return node is not None and node.op == op and node.attrs.get("fused_activation_function", "NONE") == "NONE"


def with_values(tensor: Tensor, values: np.ndarray) -> Tensor:
    """Returns the tensor as a constant of these values; name, type, quantization and all else stay.

    Raises:
        DataError: if the values have another shape, or a type of another kind.
    """
    fits = values.shape == tensor.shape and np.can_cast(values.dtype, storage_dtype(tensor.dtype), "same_kind")
    if not fits or "sparsity" in tensor.extras:
        stored = "sparse " if "sparsity" in tensor.extras else ""
        raise DataError(
            f"Tensor '{tensor.name}' is {stored}{tensor.dtype}{list(tensor.shape)}; {values.dtype}{list(values.shape)} "
            "can't take the place of its values. Give an array of its shape and type, for a tensor that is not sparse."
        )
    return replace(tensor, data=constant(tensor.name, values, tensor.dtype).data)


def with_constants(model: Model, values: Mapping[str, np.ndarray]) -> Model:
    """Returns the model with other values for tensors of any of its graphs, by name.

    Raises:
        DataError: if the model has no such tensor, or its shape or type is another.

    >>> graph = Graph("main", (), ("w",), (), {"w": constant("w", np.zeros(2, np.float32))})
    >>> with_constants(Model((graph,)), {"w": np.float32([1, 2])}).main.tensors["w"].array
    array([1., 2.], dtype=float32)
    """
    if missing := values.keys() - model.tensors.keys():
        raise DataError(f"The model has no tensor {listed(map(repr, sorted(missing)))}. Name one of its constants.")

    def changed(graph: Graph) -> Graph:
        new = {name: with_values(graph.tensors[name], values[name]) for name in graph.tensors if name in values}
        return replace(graph, tensors={**graph.tensors, **new}) if new else graph

    return replace(model, graphs=tuple(map(changed, model.graphs)))


def with_zeros(model: Model, names: Collection[str]) -> Model:
    """Returns the model with zeros for these constants."""
    zeros = {n: np.zeros(t.shape, storage_dtype(t.dtype)) for n, t in model.tensors.items() if n in names}
    return with_constants(model, zeros)


def without_unused(graph: Graph, before: Graph | None = None) -> Graph:
    """Leaves out tensors that nothing refers to; of what did not either in the graph of before an edit, none."""
    gone = (graph.tensors.keys() if before is None else _referred(before)) - _referred(graph)
    return replace(graph, tensors={name: t for name, t in graph.tensors.items() if name not in gone}) if gone else graph


def _referred(graph: Graph) -> set[str]:
    """Returns the tensors that are read, written, passed in or out, or hold the scales of one that is."""
    names = {*graph.inputs, *graph.outputs}
    for node in graph.nodes:
        names.update(node.inputs, node.outputs, node.extras.get("intermediates", ()))
    quants = [tensor.quant for name in names if (tensor := graph.tensors.get(name)) is not None]
    return names | {quant.scale_tensor for quant in quants if quant is not None and quant.scale_tensor}


def without_orphans(graph: Graph, before: Graph, ops: Collection[str] | None = None) -> Graph:
    """Leaves out operators (of the given types) whose results were read before an edit and are not any more."""
    was_read = consumers(before)
    nodes, gone, read = list[Node](), set[str](), {*graph.outputs}
    for node in reversed(graph.nodes):
        is_of_type = bool(node.outputs) and (ops is None or node.op in ops)
        if is_of_type and node.outputs[0] in was_read and read.isdisjoint(node.outputs):
            gone.update(node.outputs)
        else:
            nodes.append(node)
            read.update(name for name in node.inputs if name)
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name not in gone}
    return replace(graph, nodes=tuple(reversed(nodes)), tensors=tensors) if gone else graph
