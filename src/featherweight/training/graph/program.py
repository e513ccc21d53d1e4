"""Runs the graphs of a model with one function for each node: the walk that a graph model's forward pass is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.graph import Model, Node, Tensor
from featherweight.graph.numerics import storage_dtype
from featherweight.operators.call import Array, RunGraph, is_static, tensors_of
from featherweight.operators.walk import walk
from featherweight.training.graph.registry import Function, Step, ops

_UNKNOWN = object()


@dataclass(frozen=True, eq=False)
class Program:
    """A model, and what each of its nodes computes.

    Attributes:
        functions: node name → function, for the nodes of all graphs. This is where arithmetic is exchanged: a model
            that computes in integers has other functions here, and the same walk.
    """

    model: Model
    functions: Mapping[str, Function]

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

        def run_graph(other: int, arrays: Sequence[Array]) -> list[Array]:
            callee = self.model.graphs[other]
            inputs = dict(zip(callee.inputs, arrays, strict=True))
            found = self.run(inputs, variables, callee.outputs, dtype, other)
            return [found[name] for name in callee.outputs]

        def held(tensor: Tensor) -> Array | None:
            if tensor.name in variables:
                return variables[tensor.name]
            return np.zeros(tensor.shape, storage_dtype(tensor.dtype)) if tensor.is_variable else tensor.array

        def compute(node: Node, arrays: tuple[Array | None, ...]) -> Iterator[tuple[Tensor, Array]]:
            return self._computed(node, index, _as_tensors(arrays, dtype), run_graph, dtype)

        return walk(self.model.graphs[index], fed, kept, held, compute)

    def known(self, index: int, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        """Returns those outputs of a graph that follow from the static inputs alone; None for all others."""
        graph = self.model.graphs[index]
        fed = {name: _UNKNOWN if array is None else array for name, array in zip(graph.inputs, arrays, strict=True)}

        def held(tensor: Tensor) -> Array:
            return tensor.array if tensor.is_constant and not tensor.is_float else _UNKNOWN

        def compute(node: Node, arrays: tuple[Array | None, ...]) -> Iterator[tuple[Tensor, Array]]:
            if any(array is _UNKNOWN for array in arrays):
                return iter([(graph.tensors[name], _UNKNOWN) for name in node.outputs])
            found = self._computed(node, index, arrays, self.known)
            return ((tensor, value if is_static(value) else _UNKNOWN) for tensor, value in found)

        found = walk(graph, fed, graph.outputs, held, compute)
        return [None if found[name] is _UNKNOWN else found[name] for name in graph.outputs]

    def _computed(
        self, node: Node, index: int, arrays: tuple[Array | None, ...], run_graph: RunGraph, dtype: str = "float32"
    ) -> Iterator[tuple[Tensor, Array]]:
        """Yields what a node computes; static values in their tensor's type."""
        inputs, outputs = tensors_of(node, self.model.graphs[index])
        step = Step(node, arrays, inputs, outputs, run_graph=run_graph, dtype=dtype, known=self.known)
        for tensor, value in zip(outputs, self.functions[node.name](step), strict=True):
            yield tensor, np.asarray(value, storage_dtype(tensor.dtype)) if is_static(value) else value


def _as_tensors(arrays: tuple[Array | None, ...], dtype: str) -> tuple[Array | None, ...]:
    """Turns float constants among computed values into tensors of the model's float type."""
    if all(array is None or is_static(array) for array in arrays):
        return arrays
    return tuple(
        ops.convert_to_tensor(array, dtype=dtype)
        if isinstance(array, np.ndarray) and array.dtype == np.float32
        else array
        for array in arrays
    )
