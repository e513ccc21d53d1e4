"""What the integers of weights are scaled by, computed for all nodes at once.

A compiled step has a kernel for each division of a vector: three of long vectors take the place of three for each node.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from featherweight.graph import Graph
from featherweight.operators import lookup
from featherweight.operators.call import Array
from featherweight.training.graph.registry import ops
from featherweight.training.integer.step import Channels
from featherweight.training.integer.straight_through import joined, quotient, reciprocal

_CURRENT: ContextVar[Mapping[str, Channels]] = ContextVar("channels")


@dataclass(frozen=True, eq=False)
class Stack:
    """The scales of weights one behind the other, and once more by the nodes that read them.

    Attributes:
        shapes: weight → shape of its scales: () or (channels,).
        starts: weight → where its scales begin.
        nodes: node → its weight.
        positions: of the nodes' scales among those of the weights; None where they are the same.
        inputs: scales of the nodes' inputs, float32.
        outputs: scales of their outputs.
    """

    shapes: Mapping[str, tuple[int, ...]]
    starts: Mapping[str, int]
    nodes: Mapping[str, str]
    positions: np.ndarray | None
    inputs: np.ndarray
    outputs: np.ndarray

    def joined(self, parts: Mapping[str, Array]) -> Array:
        """Returns arrays by weight as one vector."""
        return ops.concatenate([ops.reshape(parts[name], (-1,)) for name in self.shapes])

    def part(self, vector: Array, weight: str) -> Array:
        """Returns one weight's part of a vector."""
        start, shape = self.starts[weight], self.shapes[weight]
        return vector[start : start + shape[0]] if shape else vector[start]

    def channels(self, vector: Array, zero: Array) -> dict[str, Channels]:
        """Returns node → what its integers are scaled by.

        Args:
            vector: the scales.
            zero: as in `straight_through.quotient`.
        """
        if not self.nodes:
            return {}
        units = joined(vector if self.positions is None else ops.take(vector, self.positions), self.inputs)
        shapes = {node: self.shapes[weight] for node, weight in self.nodes.items()}
        inverses = _parted(reciprocal(vector, zero), self.shapes)
        unit_inverses = _parted(reciprocal(units, zero), shapes)
        factors = _parted(quotient(units, self.outputs, zero), shapes)
        return {
            node: Channels(inverses[weight], unit_inverses[node], factors[node]) for node, weight in self.nodes.items()
        }


def stacked(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Stack:
    """Returns the stack of an integer graph whose activations keep their scales.

    Args:
        graph: the integer graph.
        shapes: weight → shape of its scales, of those that follow their weight.
    """
    nodes, inputs, outputs, positions = dict[str, str](), list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    sizes = {name: int(np.prod(shape, dtype=int)) for name, shape in shapes.items()}
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    for node in graph.nodes:
        op = lookup(node.op)
        if op.weight is None or op.weight >= len(node.inputs) or node.inputs[op.weight] not in shapes:
            continue
        weight = node.inputs[op.weight]
        scales = [graph.tensors[name].quant for name in (node.inputs[op.activation], node.outputs[0])]
        if scales[0] is None or scales[1] is None:
            continue
        nodes[node.name] = weight
        inputs.append(np.full(sizes[weight], scales[0].scale[0], np.float32))
        outputs.append(np.full(sizes[weight], scales[1].scale[0], np.float32))
        positions.append(np.arange(starts[weight], starts[weight] + sizes[weight], dtype=np.int32))
    index = np.concatenate([np.empty(0, np.int32), *positions])
    is_same = np.array_equal(index, np.arange(sum(sizes.values())))
    empty = np.empty(0, np.float32)
    return Stack(
        shapes,
        starts,
        nodes,
        None if is_same else index,
        np.concatenate([empty, *inputs]),
        np.concatenate([empty, *outputs]),
    )


@contextmanager
def at_hand(channels: Mapping[str, Channels]) -> Generator[None]:
    """Has `of_node` return these inside."""
    token = _CURRENT.set(channels)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def of_node(name: str) -> Channels | None:
    """Returns what is at hand for a node, or None."""
    return _CURRENT.get({}).get(name)


def _parted(vector: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    sizes = [int(np.prod(shape, dtype=int)) for shape in shapes.values()]
    parts = ops.split(vector, list(accumulate(sizes))[:-1])
    return {name: ops.reshape(part, shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
