"""Which tensors of an integer graph share their parameters, and must go on sharing them when training moves them."""

from __future__ import annotations

from featherweight.graph import Graph, Tensor
from featherweight.operators import lookup


def scale_groups(graph: Graph) -> dict[str, int]:
    """Returns tensor name → number of its group, from 0 on, for what has one scale and is no weight.

    Tensors are grouped where an operator wants its inputs and outputs to have the same parameters. Groups with an
    output whose parameters kernels prescribe (a softmax's) are left out: theirs never move.
    """
    weights = {
        node.inputs[p] for node in graph.nodes if (p := _weight_position(graph, node.op, node.inputs)) is not None
    }
    parent = {name: name for name, tensor in graph.tensors.items() if _has_one_scale(tensor) and name not in weights}
    fixed: set[str] = set()

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for node in graph.nodes:
        op = lookup(node.op)
        outputs = [name for name in node.outputs if name in parent]
        fixed.update(name for name in outputs if graph.tensors[name].dtype in op.fixed_output)
        same = [name for position, name in enumerate(node.inputs) if position in op.same_scale and name in parent]
        members = [*same, *outputs] if same else []
        for name in members[1:]:
            if graph.tensors[name].quant == graph.tensors[members[0]].quant:
                parent[find(name)] = find(members[0])
    frozen = {find(name) for name in fixed}
    numbers: dict[str, int] = {}
    return {name: numbers.setdefault(find(name), len(numbers)) for name in parent if find(name) not in frozen}


def _has_one_scale(tensor: Tensor) -> bool:
    return tensor.dtype in ("int8", "int16") and tensor.quant is not None and len(tensor.quant.scale) == 1


def _weight_position(graph: Graph, op: str, inputs: tuple[str, ...]) -> int | None:
    """Returns where a constant weight is among a node's inputs, if it has one."""
    position = 0 if lookup(op).unpacks else lookup(op).weight
    if position is None or position >= len(inputs) or not graph.tensors[inputs[position]].is_constant:
        return None
    return position
