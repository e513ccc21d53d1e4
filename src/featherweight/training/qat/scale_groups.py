"""Which tensors of an integer graph share their parameters, and must go on sharing them when training moves them."""

from __future__ import annotations

from featherweight.graph import Graph, Tensor
from featherweight.operators import lookup
from featherweight.operators.scale_groups import sharing, united


def scale_groups(graph: Graph) -> dict[str, int]:
    """Returns tensor name → number of its group, from 0 on, for what has one scale and is no weight.

    Tensors are grouped where an operator wants its inputs and outputs to have the same parameters. Groups with an
    output whose parameters kernels prescribe (a softmax's) are left out: theirs never move.
    """
    weights = {
        node.inputs[p] for node in graph.nodes if (p := _weight_position(graph, node.op, node.inputs)) is not None
    }
    names = {name: None for name, tensor in graph.tensors.items() if _has_one_scale(tensor) and name not in weights}
    links: list[tuple[str, str]] = []
    fixed: set[str] = set()
    for node in graph.nodes:
        prescribed = lookup(node.op).fixed_output
        fixed.update(name for name in node.outputs if graph.tensors[name].dtype in prescribed)
        tied = [name for name in sharing(node) if name in names]
        links += [(tied[0], other) for other in tied[1:] if graph.tensors[other].quant == graph.tensors[tied[0]].quant]
    roots = united(names, links)
    frozen = {root for name, root in roots.items() if name in fixed}
    numbers: dict[str, int] = {}
    return {name: numbers.setdefault(root, len(numbers)) for name, root in roots.items() if root not in frozen}


def _has_one_scale(tensor: Tensor) -> bool:
    return tensor.dtype in ("int8", "int16") and tensor.quant is not None and len(tensor.quant.scale) == 1


def _weight_position(graph: Graph, op: str, inputs: tuple[str, ...]) -> int | None:
    """Returns where a constant weight is among a node's inputs, if it has one."""
    position = 0 if lookup(op).unpacks else lookup(op).weight
    if position is None or position >= len(inputs) or not graph.tensors[inputs[position]].is_constant:
        return None
    return position
