"""The operators of a graph in groups by what they do in it: those that lose accuracy together, and are freed together.

Of a transformer, freeing one kind of operator shows nothing as long as the rest of its group rounds the same stream:
the sums of a residual stream, the layers that write into it, what normalizes it, the scores of attention. So a group is
a kind of operator in a role, over all blocks of the network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from featherweight import operators
from featherweight.errors import listed
from featherweight.graph import Graph, Node, consumers, producers
from featherweight.ptq.factors import company
from featherweight.ptq.forms.nodes import touches_float, weight_position

_LAYERS = {
    "conv": "convolutions",
    "depthwise": "depthwise convolutions",
    "transposed": "transposed convolutions",
    "dense": "dense layers",
    "recurrent": "recurrent layers",
    "embedding": "embeddings",
}


@dataclass(frozen=True)
class Group:
    """Operators of one kind in one role.

    Attributes:
        role: what they are, in the words of a report.
        nodes: in the graph's order.
        work: multiply-accumulates, or elements of outputs where there are none: what integers are there for.
    """

    role: str
    nodes: tuple[Node, ...]
    work: int


class Surroundings:
    """What leads to and from operators: the nearest of them past some others, and all that something comes from."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.made, self.read = graph, producers(graph), consumers(graph)
        self.place = {name: index for index, name in enumerate((*graph.inputs, *(node.name for node in graph.nodes)))}
        # Operator → all operators and inputs that it is computed from, itself too, as bits of places.
        self.origins: dict[str, int] = {}
        for node in graph.nodes:
            bits = self.bits(node)
            for maker in self.makers(node):
                bits |= self.origins[maker.name]
            self.origins[node.name] = bits
        self.layers = sum(1 << self.place[node.name] for node in graph.nodes if is_layer(node))

    def bits(self, node: Node) -> int:
        """Returns the places of an operator and of the inputs that it reads, as bits."""
        return sum(1 << self.place[name] for name in {node.name, *node.inputs} if name in self.place)

    def makers(self, node: Node) -> list[Node]:
        """Returns the operators that compute what a node reads of real numbers."""
        return [
            self.made[t.name] for _, t in self.graph.float_inputs(node) if not t.is_constant and t.name in self.made
        ]

    def readers(self, node: Node) -> list[Node]:
        """Returns the operators that read real numbers that a node computes."""
        return [r for name in node.outputs for r in self.read.get(name, ()) if touches_float(r, self.graph)]

    def before(self, node: Node, passing: Callable[[Node], bool]) -> tuple[list[Node], list[Node]]:
        """Returns the nearest operators before a node that do not let pass, and those that do on the way to them."""
        return _nearest(node, self.makers, passing)

    def behind(self, node: Node, passing: Callable[[Node], bool]) -> tuple[list[Node], list[Node]]:
        """Returns the nearest operators behind a node that do not let pass, and those that do on the way to them."""
        return _nearest(node, self.readers, passing)


def _nearest(
    node: Node, step: Callable[[Node], list[Node]], passing: Callable[[Node], bool]
) -> tuple[list[Node], list[Node]]:
    found, passed, waiting = dict[str, Node](), dict[str, Node](), step(node)
    while waiting:
        other = waiting.pop()
        if other.name in found or other.name in passed:
            continue
        if passing(other):
            passed[other.name] = other
            waiting += step(other)
        else:
            found[other.name] = other
    return list(found.values()), list(passed.values())


def is_layer(node: Node) -> bool:
    """True for an operator that has a weight of its own, and for products of activations."""
    op = operators.lookup(node.op)
    return op.weight is not None or op.axes == "product"


def is_no_layer(node: Node) -> bool:
    """True for all other operators."""
    return not is_layer(node)


def moves(node: Node) -> bool:
    """True for an operator that computes nothing: in which type it moves data follows from what is around it."""
    return operators.lookup(node.op).is_mover


def groups(graph: Graph, among: Collection[str]) -> list[Group]:
    """Returns the operators of these names in groups; those that only move data are in none.

    Args:
        graph: a float graph.
        among: names of operators.
    """
    roles = _roles(graph)
    shapes = Counter(_weight_shape(node, graph) for node in graph.nodes)
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.name in among and not moves(node):
            role, shape = roles[node.name], _weight_shape(node, graph)
            if shape and shapes[shape] > 1:
                role += f" of {'×'.join(map(str, shape))}"
            found.setdefault(role, []).append(node)
    return [Group(role, tuple(nodes), sum(_work(node, graph) for node in nodes)) for role, nodes in found.items()]


def _weight_shape(node: Node, graph: Graph) -> tuple[int, ...]:
    op, position = operators.lookup(node.op), weight_position(node, graph)
    return () if op.weight is None or position is None else graph.tensors[node.inputs[position]].shape


def _work(node: Node, graph: Graph) -> int:
    return operators.macs(node, graph) or sum(graph.tensors[name].elements for name in node.outputs)


def _roles(graph: Graph) -> dict[str, str]:
    """Returns operator → its role."""
    around = Surroundings(graph)
    streams = set(residual_sums(around))
    roles = dict.fromkeys(streams, "sums of a residual stream")

    def is_open(node: Node) -> bool:
        return not is_layer(node) and node.name not in streams

    for node in graph.nodes:
        op, members, role = operators.lookup(node.op), list[Node](), ""
        if op.divisor is not None:
            role, (ends, passed) = "divisions and what they divide", around.before(node, is_open)
            members = [*passed, *(end for end in ends if operators.lookup(end.op).axes == "product")]
        elif op.normalizes_rows:
            role, members = "softmax and its scores", around.before(node, _is_elementwise)[1]
        for member in (node, *members) if role else ():
            roles.setdefault(member.name, role)
    for node in graph.nodes:
        if operators.lookup(node.op).is_factor:
            for member in (node, *company(node, graph)):
                if is_open(member):
                    roles.setdefault(member.name, "normalizations")
    for node in graph.nodes:
        op = operators.lookup(node.op)
        if op.weight is not None:
            behind, _ = around.behind(node, lambda n: n.name not in streams and _is_one_to_one(n, graph))
            into = any(other.name in streams for other in behind)
            outputs = () if into else _outputs_behind(node, around)
            where = " into a residual stream" if into else f" before {listed(map(repr, outputs), 3)}" if outputs else ""
            roles[node.name] = _LAYERS.get(op.weight_kind, node.op) + where
        elif op.axes == "product":
            roles.setdefault(node.name, "products of activations")
        else:
            where = "behind layers" if around.origins[node.name] & around.layers else "before any layer"
            roles.setdefault(node.name, f"{node.op} {where}")
    return roles


def _outputs_behind(node: Node, around: Surroundings) -> list[str]:
    """Returns the outputs that a layer's result leads to, where no other layer reads what becomes of it."""
    ends, passed = around.behind(node, is_no_layer)
    written = {name for each in (node, *passed) for name in each.outputs}
    return [] if ends else [name for name in around.graph.outputs if name in written]


def _is_elementwise(node: Node) -> bool:
    return bool(operators.lookup(node.op).elementwise) or moves(node)


def _is_one_to_one(node: Node, graph: Graph) -> bool:
    """True for movers, and for operators of one computed operand, element by element: scales, offsets."""
    computed = [tensor for _, tensor in graph.float_inputs(node) if not tensor.is_constant]
    return len(computed) == 1 and _is_elementwise(node)


def residual_sums(around: Surroundings) -> Iterator[str]:
    """Yields the sums that add what layers make of a tensor to what became of it without them."""
    for node in around.graph.nodes:
        op = operators.lookup(node.op)
        terms = list(dict.fromkeys(t.name for _, t in around.graph.float_inputs(node) if not t.is_constant))
        if op.axes != "joined" or op.finest is None or len(terms) != 2:
            continue
        for kept, changed in (terms, terms[::-1]):
            if changed not in around.made:
                continue
            sources, own = 1 << around.place[kept] if kept in around.graph.inputs else 0, set[str]()
            if kept in around.made:
                ends, passed = _layers(around.made[kept], around)
                own = {end.name for end in ends}
                sources |= sum(1 << around.place[name] for name in own)
                for other in passed:
                    sources |= around.bits(other)
            layers = [layer for layer in _layers(around.made[changed], around)[0] if layer.name not in own]
            if any(around.origins[layer.name] & sources & ~(1 << around.place[layer.name]) for layer in layers):
                yield node.name
                break


def _layers(node: Node, around: Surroundings) -> tuple[list[Node], list[Node]]:
    """Returns the nearest layers that an operator's result comes from, and all that is between, itself too."""
    if is_layer(node):
        return [node], []
    ends, passed = around.before(node, is_no_layer)
    return ends, [node, *passed]
