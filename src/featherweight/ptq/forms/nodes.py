"""What planning asks of single operators and tensors of a float graph: where weights are, and what is real."""

from __future__ import annotations

from featherweight import operators
from featherweight.graph import Graph, Node, Tensor, consumers

# Below this size a constant of an operator that has no weight is an operand (an epsilon, a mean), not a weight.
_SMALLEST_TABLE_ELEMENTS = 1024


def touches_float(node: Node, graph: Graph) -> bool:
    """True if an operator reads or writes real numbers, so that a plan must say what becomes of it."""
    if operators.lookup(node.op).is_of_shape:
        return False
    return any(name and graph.tensors[name].is_float for name in (*node.inputs, *node.outputs))


def weight_position(node: Node, graph: Graph) -> int | None:
    """Returns the position of the operator's constant weight, if it has one.

    An operator without a weight of its own, such as GATHER, has one where a constant operand is a large table.
    """
    op = operators.lookup(node.op)
    if op.weight is not None:
        is_weight = op.weight < len(node.inputs) and is_constant(node.inputs[op.weight], graph)
        return op.weight if is_weight else None
    if not node.outputs:  # what is assigned to a variable is no weight
        return None
    for position, tensor in graph.float_inputs(node):
        if tensor.is_constant and tensor.elements >= _SMALLEST_TABLE_ELEMENTS:
            return position
    return None


def weight_roles(node: Node, graph: Graph) -> tuple[operators.WeightRole, ...]:
    """Returns where the operator's constant weights are, each with its bias and the operand that it multiplies."""
    position, op = weight_position(node, graph), operators.lookup(node.op)
    if position is None:
        return ()
    return op.weights if op.weight is not None else (operators.WeightRole(position, None, op.activation),)


def is_constant(name: str, graph: Graph) -> bool:
    """True for the name of a constant of the graph."""
    return bool(name) and graph.tensors[name].is_constant


def picks_rows(node: Node, graph: Graph) -> bool:
    """True for an operator that copies out of a constant table: it can do so in integers without any calibration."""
    op, position = operators.lookup(node.op), weight_position(node, graph)
    return op.weight is None and position in op.same_scale and len(list(graph.float_inputs(node))) == 1


def looks_up(node: Node) -> bool:
    """True for an operator that copies rows out of its weight: it needs no real number but those."""
    op = operators.lookup(node.op)
    return op.weight is not None and op.weight == op.activation


def real_tensors(graph: Graph) -> list[Tensor]:
    """Returns the float32 tensors of a graph that are fed or computed."""
    return [t for t in graph.tensors.values() if t.is_float and not t.is_constant and not t.is_variable]


def casts_of_bytes(graph: Graph) -> dict[str, str]:
    """Returns the real tensors that are uint8 inputs in another type, and those inputs, which nothing else reads."""
    read, found = consumers(graph), dict[str, str]()
    bytes_in = {n for n in graph.inputs if graph.tensors[n].dtype == "uint8" and graph.tensors[n].quant is None}
    for name in bytes_in:
        node, *others = read.get(name, ())[:2] or (None,)
        if node is not None and not others and node.op == "CAST" and graph.tensors[node.name].is_float:
            found[node.name] = name
    return found
