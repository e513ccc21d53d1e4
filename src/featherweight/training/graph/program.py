"""Runs the graphs of a model with one function for each node: the walk that a graph model's forward pass is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from featherweight.errors import UnsupportedOp
from featherweight.graph import Graph, Model
from featherweight.graph.numerics import storage_dtype
from featherweight.training.graph.registry import Array, Function, Step, is_static, ops


@dataclass(frozen=True, eq=False)
class Program:
    """A model, and what each of its nodes computes.

    Attributes:
        functions: node name → function, for the nodes of all graphs. This is where arithmetic is exchanged: a model
            that computes in integers has other functions here, and the same walk.
        last_readers: for each graph, tensor name → index of the last node that reads it.
    """

    model: Model
    functions: Mapping[str, Function]
    last_readers: tuple[Mapping[str, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        readers = tuple(
            {name: index for index, node in enumerate(graph.nodes) for name in node.inputs if name}
            for graph in self.model.graphs
        )
        object.__setattr__(self, "last_readers", readers)

    def run(
        self,
        fed: Mapping[str, Array],
        variables: Mapping[str, Array],
        kept: Collection[str],
        dtype: str = "float32",
        index: int = 0,
    ) -> dict[str, Array]:
        """Computes one graph; returns the kept tensors, by name. Others are freed after their last reader.

        Variable tensors that nothing sets are zero in every call, as in the first run of a file.

        Args:
            fed: values of the graph's inputs, by tensor name.
            variables: values of constants that are trained, by tensor name, of all graphs.
            kept: names of tensors to return.
            dtype: the float type to compute in.
            index: of the graph.

        Raises:
            UnsupportedOp: if a node can't be computed, with its place and the reason.
        """
        graph, last = self.model.graphs[index], self.last_readers[index]
        values: dict[str, Array] = dict(fed)

        def call(other: int, arrays: Sequence[Array]) -> list[Array]:
            callee = self.model.graphs[other]
            inputs = dict(zip(callee.inputs, arrays, strict=True))
            found = self.run(inputs, variables, callee.outputs, dtype, other)
            return [found[name] for name in callee.outputs]

        for name in kept:
            if name not in values and graph.tensors[name].is_constant:
                values[name] = _constant(graph, variables, name)
        for position, node in enumerate(graph.nodes):
            arrays = [
                None if not name else values[name] if name in values else _constant(graph, variables, name)
                for name in node.inputs
            ]
            step = Step(
                node,
                tuple(_as_tensors(arrays, dtype)),
                tuple(graph.tensors[name] if name else None for name in node.inputs),
                tuple(graph.tensors[name] for name in node.outputs),
                call,
                dtype,
                self.known,
            )
            results = self.functions[node.name](step)
            for tensor, value in zip(step.outputs, results, strict=True):
                values[tensor.name] = np.asarray(value, storage_dtype(tensor.dtype)) if is_static(value) else value
            for name in {*node.inputs, *node.outputs}:
                if last.get(name, -1) <= position and name not in kept:
                    values.pop(name, None)
        return {name: values[name] for name in kept}

    def known(self, index: int, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        """Returns those outputs of a graph that follow from the static inputs alone; None for all others."""
        graph = self.model.graphs[index]
        values = {name: array for name, array in zip(graph.inputs, arrays, strict=True) if array is not None}
        for node in graph.nodes:
            tensors = [graph.tensors[name] for name in node.inputs if name]
            if not all(tensor.name in values or (tensor.is_constant and not tensor.is_float) for tensor in tensors):
                continue
            inputs = tuple(graph.tensors[name] if name else None for name in node.inputs)
            read = tuple(None if t is None else values.get(t.name, t.array) for t in inputs)
            outputs = tuple(graph.tensors[name] for name in node.outputs)
            step = Step(node, read, inputs, outputs, self.known, known=self.known)
            for tensor, value in zip(outputs, self.functions[node.name](step), strict=True):
                if is_static(value):
                    values[tensor.name] = np.asarray(value, storage_dtype(tensor.dtype))
        return [values.get(name) for name in graph.outputs]


def _constant(graph: Graph, variables: Mapping[str, Array], name: str) -> Array:
    if name in variables:
        return variables[name]
    tensor = graph.tensors[name]
    array = np.zeros(tensor.shape, storage_dtype(tensor.dtype)) if tensor.is_variable else tensor.array
    if array is None:
        raise UnsupportedOp(f"Tensor '{name}' has no value: nothing computes it. The file is damaged.")
    return array


def _as_tensors(arrays: Sequence[Array | None], dtype: str) -> list[Array | None]:
    """Turns float constants among computed values into tensors of the model's float type."""
    if all(array is None or is_static(array) for array in arrays):
        return list(arrays)
    return [
        ops.convert_to_tensor(array, dtype=dtype)
        if isinstance(array, np.ndarray) and array.dtype == np.float32
        else array
        for array in arrays
    ]
