"""Where TFLite Micro places tensors in its arena: the largest first, each in the lowest gap that is wide enough.

Sources: tflite-micro, tensorflow/lite/micro/micro_allocation_info.cc and memory_planner/greedy_memory_planner.cc.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from featherweight.graph import Model
from featherweight.memory.live import aligned, calls, size_bytes
from featherweight.operators import lookup


@dataclass
class Buffer:
    """Memory that lives from one moment to another, both included; -1 is before all."""

    size: int
    first: int = -1
    last: int = -1


def arena_bytes(model: Model) -> int:
    """Returns what tensors take of the arena, and the reference kernels beside them, while a model runs on a host."""
    buffers = buffers_of(model)
    return height(buffers, placed(buffers, by_size(buffers)))


def buffers_of(model: Model) -> list[Buffer]:
    """Returns the computed tensors of all graphs, in order, and behind them the memory of kernels."""
    return _Lifetimes(model).buffers()


def by_size(buffers: Sequence[Buffer]) -> list[int]:
    """Returns buffers in the interpreter's order: of equal sizes, which it lists from the back, the later one first."""
    return sorted(range(len(buffers) - 1, -1, -1), key=lambda index: -buffers[index].size)


def height(buffers: Sequence[Buffer], places: Sequence[int]) -> int:
    """Returns where the highest buffer ends."""
    return max((place + each.size for place, each in zip(places, buffers, strict=True)), default=0)


def placed(buffers: Sequence[Buffer], order: Sequence[int]) -> tuple[int, ...]:
    """Returns where each buffer lies, if one after another, in that order, takes the lowest gap that is wide enough.

    >>> placed([Buffer(16, 0, 1), Buffer(32, 1, 2), Buffer(16, 2, 3)], [1, 0, 2])
    (32, 0, 32)
    """
    places = [0] * len(buffers)
    taken: list[tuple[int, int]] = []  # (place, buffer), by place; a later one behind those at its place
    for index in order:
        wanted, place = buffers[index], 0
        for start, other in taken:
            beside = buffers[other]
            if beside.first > wanted.last or wanted.first > beside.last:
                continue
            if start - place >= wanted.size:
                break
            place = max(place, start + beside.size)
        places[index] = place
        taken.insert(bisect_right(taken, place, key=lambda entry: entry[0]), (place, index))
    return tuple(places)


@dataclass
class _Lifetimes:
    """When tensors and the memory of kernels live, as the interpreter counts: each operator and graph is a moment."""

    model: Model
    moment: int = 0
    scratch: dict[tuple[int, int, int], Buffer] = field(default_factory=dict[tuple[int, int, int], Buffer])

    def buffers(self) -> list[Buffer]:
        """Returns the tensors of all graphs, in order, and behind them the memory of kernels."""
        tensors = [
            {
                name: Buffer(size_bytes(tensor))
                for name, tensor in graph.tensors.items()
                if not (tensor.is_constant or tensor.is_variable)
            }
            for graph in self.model.graphs
        ]
        self._run(0, tensors)
        computed = [each for graph in tensors for each in graph.values()]
        return computed + [self.scratch[key] for key in sorted(self.scratch)]

    def _run(self, number: int, tensors: Sequence[Mapping[str, Buffer]]) -> None:
        graph, own = self.model.graphs[number], tensors[number]

        def known(names: Sequence[str]) -> Iterator[Buffer]:
            return (own[name] for name in names if name in own)

        for buffer in (*known(graph.inputs), *known(graph.outputs)):
            buffer.first = buffer.last = self.moment
        for position, node in enumerate(graph.nodes):
            self.moment += 1
            begun = self.moment
            for buffer in known(node.outputs):
                buffer.first = buffer.last = begun
            for called in calls(node):
                self.moment += 1
                self._run(called, tensors)
            for buffer in (*known(node.inputs), *known(node.outputs)):
                buffer.last = self.moment
            for count, size in enumerate(lookup(node.op).scratch(node, graph)):
                self.scratch[number, position, count] = Buffer(aligned(size), begun, self.moment)
        for buffer in known(graph.outputs):
            buffer.last = self.moment
