"""The walk over a graph: node by node, in the graph's order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from featherweight.errors import UnsupportedOp
from featherweight.graph import Graph, Node, Tensor
from featherweight.operators.call import Array

# A tensor that no node computes -> its value, or None where it has none.
Held = Callable[[Tensor], Array | None]
# (node, its inputs' values) -> (tensor, value) of what it computes
Compute = Callable[[Node, tuple[Array | None, ...]], Iterable[tuple[Tensor, Array]]]


def walk(
    graph: Graph, fed: Mapping[str, Array], kept: Collection[str], held: Held, compute: Compute
) -> dict[str, Array]:
    """Computes a graph from its fed tensors; returns the kept ones, by name. Others are freed after their last reader.

    Args:
        graph: the graph.
        fed: values of its inputs, and of whatever else is known, by tensor name.
        kept: names of tensors to return.
        held: where values of constants and variables come from.
        compute: what a node computes.

    Raises:
        UnsupportedOp: if a tensor has no value.
    """
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs if name}
    values: dict[str, Any] = dict(fed)

    def value(name: str, reader: str) -> Array:
        found = values[name] if name in values else held(graph.tensors[name])
        if found is None:
            raise UnsupportedOp(f"{reader}tensor '{name}' has no value: nothing computes it. The file is damaged.")
        return found

    for index, node in enumerate(graph.nodes):
        place = f"{node.op} '{node.name}': "
        for tensor, result in compute(node, tuple(value(name, place) if name else None for name in node.inputs)):
            values[tensor.name] = result
        for name in {*node.inputs, *node.outputs}:
            if last.get(name, -1) <= index and name not in kept:
                values.pop(name, None)
    return {name: value(name, "") for name in kept}
