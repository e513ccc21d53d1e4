"""The places where a quantized model rounds: what it has in integers, beside the float model's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featherweight.analysis.borders import stored_numbers, takes_integers
from featherweight.analysis.inspection import arithmetic
from featherweight.graph import Graph, Model, Node, Tensor, producers, replace_graph
from featherweight.graph.numerics import QuantParams
from featherweight.lower.names import by_present_names
from featherweight.operators import lookup
from featherweight.passes.legalization import densified

# Weights that differ by more than this part of their power are not the same ones rounded.
_MOST_DIFFERENT = 0.5


@dataclass(frozen=True, eq=False)
class Place:
    """One tensor that a quantized model rounds, or one operator whose kernel rounds by itself.

    Attributes:
        kind: ``activation``: a computed or fed tensor that is held in integers; ``weight``: a constant; ``operator``: a
            kernel that rounds what it reads on the fly (hybrid ones), or runs other graphs.
        tensor: the float model's name of what is rounded; of an operator, its first output.
        node: the float operator that computes it (None: an input of the model); of a weight, the one that reads it.
        params: of the integers; None for an operator, and for weights of 16-bit floats.
        readers: names of the operators that read it so; None: all of them.
    """

    kind: str
    tensor: str
    node: Node | None
    params: QuantParams | None = None
    readers: tuple[str, ...] | None = None


class Pair:
    """A float model and its quantized form, with the operators of both matched by the names of their outputs.

    Args:
        before: the float model.
        after: the quantized one; whoever made it must have kept tensor names.
    """

    def __init__(self, before: Model, after: Model) -> None:
        after = by_present_names(after, before)
        self.before = replace_graph(before, 0, densified(before.main))
        self.after = replace_graph(after, 0, densified(after.main))
        self.made, self.made_after = producers(self.before.main), producers(self.after.main)

    @property
    def float_graph(self) -> Graph:
        """The float model's main graph."""
        return self.before.main

    @property
    def graph(self) -> Graph:
        """The quantized model's main graph."""
        return self.after.main

    @cached_property
    def meaning(self) -> Mapping[str, str]:
        """Tensor of the quantized model → the float model's tensor that it stands for, through conversions."""
        known = self.float_graph.tensors
        found = {name: name for name in self.graph.tensors if name in known}
        found |= dict(zip(self.graph.inputs, self.float_graph.inputs, strict=False))
        for node in self.graph.nodes:  # forwards: what a tensor is converted to means the same
            if lookup(node.op).is_conversion and node.inputs[0] in found:
                found.setdefault(node.outputs[0], found[node.inputs[0]])
        ends = zip(self.graph.outputs, self.float_graph.outputs, strict=False)
        found |= {ours: theirs for ours, theirs in ends if ours not in known}
        for node in reversed(self.graph.nodes):
            if lookup(node.op).is_conversion and node.outputs[0] in found:
                found.setdefault(node.inputs[0], found[node.outputs[0]])
        return found

    @property
    def stand_ins(self) -> dict[str, str]:
        """Float output → the tensor that the quantized model returns in its place, such as what a softmax reads."""
        ends = zip(self.float_graph.outputs, self.graph.outputs, strict=False)
        meant = {theirs: self.meaning.get(ours, theirs) for theirs, ours in ends}
        return {theirs: other for theirs, other in meant.items() if other != theirs}

    @cached_property
    def matches(self) -> Mapping[str, Node]:
        """Name of a float operator → the quantized model's operator that computes the same tensor in the same way.

        They are found by the names of tensors; where those are others, as of a file that another tool made, by their
        order, if types, shapes and weights agree.
        """
        found: dict[str, Node] = {}
        for node in self.graph.nodes:
            meant = self.meaning.get(node.outputs[0], "") if node.outputs else ""
            original = self.made.get(meant)
            if original is None or original.op != node.op or len(original.inputs) > len(node.inputs):
                continue
            if not lookup(node.op).is_conversion:
                found.setdefault(original.name, node)
        return found | self._by_order(found)

    def _by_order(self, found: Mapping[str, Node]) -> dict[str, Node]:
        """Matches what names did not match, one after the other; nothing where the two rows differ."""
        matched = {id(node) for node in found.values()}
        ours = [n for n in self.graph.nodes if id(n) not in matched and not lookup(n.op).is_conversion]
        theirs = [n for n in self.float_graph.nodes if n.name not in found and not lookup(n.op).is_conversion]
        pairs = list(zip(theirs, ours, strict=False))
        if len(ours) != len(theirs) or not all(self._is_alike(*pair) for pair in pairs):
            return {}
        return {node.name: match for node, match in pairs}

    def _is_alike(self, node: Node, match: Node) -> bool:
        """True for operators of one type with results of one shape and weights that agree but for their rounding."""
        shapes = [
            [graph.tensors[name].shape[1:] for name in each.outputs if name]
            for graph, each in ((self.float_graph, node), (self.graph, match))
        ]
        if node.op != match.op or len(node.inputs) > len(match.inputs) or shapes[0] != shapes[1]:
            return False
        for name, other in zip(node.inputs, match.inputs, strict=False):
            tensor = self.float_graph.tensors[name] if name else None
            if tensor is None or tensor.array is None or not tensor.is_float or len(tensor.shape) < 2:
                continue
            stored = self._constant(other)
            if stored is None or stored.shape != tensor.shape:
                return False
            x, y = np.asarray(tensor.array, np.float64), stored_numbers(stored, self.graph).astype(np.float64)
            if np.square(x - y).sum() > _MOST_DIFFERENT * np.square(x).sum():
                return False
        return True

    def _constant(self, name: str) -> Tensor | None:
        """Returns the constant that a tensor of the quantized model is, or is converted from."""
        maker = self.made_after.get(name)
        if maker is not None and lookup(maker.op).is_conversion:
            name = maker.inputs[0]
        found = self.graph.tensors.get(name)
        return found if found is not None and found.is_constant else None

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """All of them, in the order of the float graph: fed and computed tensors, then weights, then operators."""
        return (*self._activations(), *self._weights(), *self._operators())

    def _activations(self) -> Iterator[Place]:
        graph = self.float_graph
        read = self._read()
        for name in (*graph.inputs, *(name for node in graph.nodes for name in node.outputs if name)):
            if not graph.tensors[name].is_float:
                continue
            written = self.held(name)
            if written is not None and not self._is_on_grid(name, written, read):
                yield Place("activation", name, self.made.get(name), written)
            others: dict[QuantParams, list[str]] = {}
            for reader, params in read.get(name, ()):
                if params != written:
                    others.setdefault(params, []).append(reader)
            for params, readers in others.items():
                is_all = written is None and len(others) == 1 and len(readers) == self._count_readers(name)
                yield Place("activation", name, self.made.get(name), params, None if is_all else tuple(readers))

    def _is_on_grid(self, name: str, written: QuantParams, read: Mapping[str, list[tuple[str, QuantParams]]]) -> bool:
        """True for what is only picked from tensors that are on the same grid already."""
        node = self.made.get(name)
        op = None if node is None else lookup(node.op)
        if node is None or op is None or not (op.picks or op.is_mover or op.moves_data):
            return False
        graph = self.float_graph
        taken = [n for n in node.inputs if n and graph.tensors[n].is_float and not graph.tensors[n].is_constant]
        return bool(taken) and all((node.name, written) in read.get(each, ()) for each in taken)

    def _count_readers(self, name: str) -> int:
        return sum(name in node.inputs for node in self.float_graph.nodes) + (name in self.float_graph.outputs)

    def held(self, name: str) -> QuantParams | None:
        """Returns the parameters that the quantized model holds a fed or computed tensor with; None: in float."""
        node = self.matches.get(self.made[name].name) if name in self.made else None
        if node is None:
            return self._fed(name)
        position = self.made[name].outputs.index(name)
        tensor = self.graph.tensors[node.outputs[position]] if position < len(node.outputs) else None
        return None if tensor is None or not takes_integers(tensor) else tensor.quant

    def _fed(self, name: str) -> QuantParams | None:
        if name not in self.float_graph.inputs:
            return None
        tensor = self.graph.tensors[self.graph.inputs[self.float_graph.inputs.index(name)]]
        return tensor.quant if takes_integers(tensor) else None

    def _read(self) -> dict[str, list[tuple[str, QuantParams]]]:
        """Returns float tensor → (reader, parameters that it reads it with)."""
        found: dict[str, list[tuple[str, QuantParams]]] = {}
        for node in self.float_graph.nodes:
            match = self.matches.get(node.name)
            if match is None:
                continue
            for name, other in zip(node.inputs, match.inputs, strict=False):
                tensor = self.graph.tensors.get(other)
                if self._is_other(name, other):
                    continue
                is_computed = bool(name) and not self.float_graph.tensors[name].is_constant
                if is_computed and tensor is not None and takes_integers(tensor) and tensor.quant is not None:
                    found.setdefault(name, []).append((node.name, tensor.quant))
        return found

    def _is_other(self, name: str, other: str) -> bool:
        """True where the quantized model's operand comes from another operator than the float one: order is free."""
        maker, match = self.made_after.get(other), self.made.get(name)
        while maker is not None and lookup(maker.op).is_conversion:
            maker = self.made_after.get(maker.inputs[0])
        return maker is not None and match is not None and self.matches.get(match.name, maker) is not maker

    def _weights(self) -> Iterator[Place]:
        for node in self.float_graph.nodes:
            for position, name in enumerate(node.inputs):
                stored = self.stored(node, position) if name else None
                if stored is not None:
                    yield Place("weight", name, node, stored.quant)

    def stored(self, node: Node, position: int) -> Tensor | None:
        """Returns the constant that the quantized model has for a float constant of an operator, if it rounds it."""
        match, tensor = self.matches.get(node.name), self.float_graph.tensors[node.inputs[position]]
        if match is None or not (tensor.is_constant and tensor.is_float) or not match.inputs[position]:
            return None
        found = self._constant(match.inputs[position])
        is_rounded = found is not None and found.dtype != "float32" and found.shape == tensor.shape
        return found if is_rounded else None

    def rounded_weight(self, node: Node, position: int) -> np.ndarray | None:
        """Returns the real numbers that the quantized model has for a float constant, float32; None: the same."""
        stored = self.stored(node, position)
        return None if stored is None else stored_numbers(stored, self.graph).astype(np.float32, copy=False)

    def _operators(self) -> Iterator[Place]:
        for node in self.float_graph.nodes:
            match = self.matches.get(node.name)
            if match is None:
                continue
            calls = bool(lookup(node.op).calls) and self._takes_the_same(node, match)
            if calls or arithmetic(match, self.graph) == "hybrid":
                yield Place("operator", node.name, node)

    def _takes_the_same(self, node: Node, match: Node) -> bool:
        pairs = zip((*node.inputs, *node.outputs), (*match.inputs, *match.outputs), strict=False)
        tensors, others = self.float_graph.tensors, self.graph.tensors
        return all(not a or tensors[a].dtype == others[b].dtype for a, b in pairs)
