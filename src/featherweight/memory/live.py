"""What lives at once while a graph's operators run one after another.

Before an operator runs, the outputs of the operators done live that one still to come reads, or that are the graph's
own outputs, and the graph's inputs that are still to be read. While it runs, its outputs live beside them. LiteRT for
Microcontrollers counts so (tflite-micro, tensorflow/lite/micro/micro_allocation_info.cc), in steps of 16 bytes;
constants and variables lie elsewhere. What an operator's kernel takes besides lives while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.graph.numerics import storage_dtype
from featherweight.operators import lookup

_ALIGNMENT = 16
# Types of handles, which stand for something that operators change.
_HANDLES = ("resource", "variant")


@dataclass(frozen=True)
class Live:
    """Tensors that live while operators run, by number.

    Attributes:
        sizes: of tensors, in bytes.
        readers: tensor → the operators that read it, as bits.
        is_kept: tensor → whether it lives to the end.
        inputs: operator → the tensors that it reads.
        outputs: operator → the tensors that it writes.
        before: operator → the operators that must be done before, as bits.
        working: operator → bytes that it takes besides while it runs.
        fed: tensors that live from the beginning.
    """

    sizes: tuple[int, ...]
    readers: tuple[int, ...]
    is_kept: tuple[bool, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    before: tuple[int, ...]
    working: tuple[int, ...]
    fed: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many operators there are."""
        return len(self.inputs)

    def begun(self) -> int:
        """Returns the bytes that live before the first operator."""
        return sum(self.sizes[tensor] for tensor in self.fed if self.readers[tensor] or self.is_kept[tensor])

    def step(self, operator: int, done: int, held: int) -> tuple[int, int]:
        """Returns the bytes that live while an operator runs, and after it.

        Args:
            operator: which.
            done: the operators before, as bits.
            held: what lives before it, in bytes.
        """
        outputs = self.outputs[operator]
        while_running = held + sum(self.sizes[tensor] for tensor in outputs)
        left = ~(done | 1 << operator)
        freed = sum(
            self.sizes[tensor]
            for tensor in (*self.inputs[operator], *outputs)
            if not self.is_kept[tensor] and not self.readers[tensor] & left
        )
        return while_running + self.working[operator], while_running - freed

    def steps(self, order: Sequence[int]) -> Iterator[int]:
        """Yields what lives while each operator of an order runs, in bytes."""
        done, held = 0, self.begun()
        for operator in order:
            running, held = self.step(operator, done, held)
            done |= 1 << operator
            yield running

    def peak(self, order: Sequence[int]) -> int:
        """Returns the most bytes that live at once in an order."""
        return max(self.steps(order), default=self.begun())


def live_of(graph: Graph, working: Mapping[int, int]) -> Live:
    """Returns what lives while a graph runs; operators with effects beyond their outputs keep their order.

    Args:
        graph: one of a model.
        working: graph that an operator calls → bytes that live at once in it.
    """
    numbers: dict[str, int] = {}
    for name in (*graph.inputs, *(name for node in graph.nodes for name in node.outputs if name)):
        if not graph.tensors[name].is_variable:
            numbers.setdefault(name, len(numbers))
    readers, writers = [0] * len(numbers), [0] * len(numbers)
    reads = [tuple({numbers[n]: None for n in node.inputs if n in numbers}) for node in graph.nodes]
    writes = [tuple({numbers[n]: None for n in node.outputs if n in numbers}) for node in graph.nodes]
    before: list[int] = []
    effects = 0
    for index, node in enumerate(graph.nodes):
        needed = 0
        for tensor in reads[index]:
            readers[tensor] |= 1 << index
            needed |= writers[tensor]
        for tensor in writes[index]:
            writers[tensor] |= 1 << index
        if _has_effects(node, graph):
            needed |= effects
            effects |= 1 << index
        before.append(needed)
    return Live(
        tuple(size_bytes(graph.tensors[name]) for name in numbers),
        tuple(readers),
        tuple(name in graph.outputs for name in numbers),
        tuple(reads),
        tuple(writes),
        tuple(before),
        tuple(
            sum(map(aligned, lookup(node.op).scratch(node, graph)))
            + max((working.get(called, 0) for called in calls(node)), default=0)
            for node in graph.nodes
        ),
        tuple(numbers[name] for name in dict.fromkeys(graph.inputs) if name in numbers),
    )


def calls(node: Node) -> tuple[int, ...]:
    """Returns the indices of the graphs that an operator calls."""
    return tuple(int(node.attrs[key]) for key in lookup(node.op).calls if key in node.attrs)


def size_bytes(tensor: Tensor) -> int:
    """Returns what a computed tensor takes in the arena, in bytes."""
    try:
        each = storage_dtype(tensor.dtype).itemsize
    except (KeyError, TypeError, ValueError):  # handles, strings
        each = 4
    return aligned(each * math.prod(max(axis, 1) for axis in tensor.shape))


def aligned(size: int) -> int:
    """Returns bytes rounded up to what the arena is divided in.

    >>> aligned(17)
    32
    """
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def is_ordered(graph: Graph) -> bool:
    """True where every tensor has one writer, which stands before its readers: what an order may be changed of."""
    known = set(graph.inputs)
    written = {name for node in graph.nodes for name in node.outputs if name}
    for node in graph.nodes:
        if any(name in written and name not in known for name in node.inputs):
            return False
        outputs = [name for name in node.outputs if name]
        if known.intersection(outputs) or len(set(outputs)) < len(outputs):
            return False
        known.update(outputs)
    return True


def called_first(model: Model) -> Iterator[int]:
    """Yields the indices of a model's graphs, those that others call before these; each once."""
    seen: set[int] = set()

    def visit(index: int) -> Iterator[int]:
        if index in seen or not 0 <= index < len(model.graphs):
            return
        seen.add(index)
        for node in model.graphs[index].nodes:
            for called in calls(node):
                yield from visit(called)
        yield index

    for index in range(len(model.graphs)):
        yield from visit(index)


def peak_bytes(model: Model) -> int:
    """Returns the most bytes of tensors that live at once while a model's main graph runs in the order of its file."""
    peaks: dict[int, int] = {}
    for index in called_first(model):
        live = live_of(model.graphs[index], peaks)
        peaks[index] = live.peak(tuple(range(live.count)))
    return peaks.get(0, 0)


def _has_effects(node: Node, graph: Graph) -> bool:
    """True for an operator that may read or change more than its tensors: variables, random numbers, what it calls."""
    op = lookup(node.op)
    names = [name for name in (*node.inputs, *node.outputs) if name]
    touches = any(graph.tensors[name].is_variable or graph.tensors[name].dtype in _HANDLES for name in names)
    return touches or bool(op.calls) or not op.kernels or not any(node.outputs)
