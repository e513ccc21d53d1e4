"""The pass that recognizes activations: what a chain of elementwise operators makes of one number, by its values.

Frameworks write one function in many ways (a choice between two branches, a rational approximation of erf); what all of
them have in common is what they compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Node, Tensor, producers
from featherweight.graph.editor import Editor, is_plain, without_orphans
from featherweight.operators import lookup, on_numpy
from featherweight.operators.call import Call, tensors_of

Names = Set[str]
# An activation that is written out has no more operators than this; erf has 23, an exact GELU five more.
_LONGEST = 48
_FEWEST = 3
# Where functions are compared: where they bend, and far out.
_BENDS = np.linspace(-9, 9, 145)
_GRID = np.unique(np.concatenate([_BENDS, [-80, -40, -20, -13, -1e-3, 1e-3, 13, 20, 40]])).astype(np.float32)
# Float32's own error, and that of the approximations that frameworks use for exp and erf.
_TOLERANCE = 4e-6
# The smallest normal float32 number.
_TINY = float(np.finfo(np.float32).tiny)
_CHOICES = ("joined", "selection")
_ELEMENTWISE = ("same", "joined", "selection")


@dataclass(frozen=True)
class _Step:
    """One operator that takes the place of a chain; `factor` is its second operand."""

    op: str
    attrs: Mapping[str, Any]
    factor: float | None = None


def recognized_activations(graph: Graph, taken: Names = frozenset()) -> Graph:
    """Chains that compute GELU, ELU, SELU or CELU become the operators of these names, with factors beside them.

    ``q (exp(βx) − 1)`` below zero and ``p x`` above it is an ELU of βx, a LEAKY_RELU of slope qβ/p and a factor p/β,
    of which those that change nothing are left out.
    """
    made, edit = producers(graph), Editor(graph, set(taken))
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    replaced: set[str] = set()
    for node in reversed(graph.nodes):
        found = None
        if node.name not in replaced and _is_link(node, graph):
            found = _activation(node, graph, made, position)
        if found is None:
            edit.nodes.append(node)
            continue
        source, steps, chain = found
        replaced |= chain
        edit.nodes += reversed(_written(edit, node, source, steps))
    edit.nodes.reverse()
    return without_orphans(edit.result(), graph) if replaced else graph


def _written(edit: Editor, node: Node, source: str, steps: list[_Step]) -> list[Node]:
    nodes: list[Node] = []
    for index, step in enumerate(steps):
        is_last = index == len(steps) - 1
        like = replace(edit.graph.tensors[node.name], name=f"{node.name}/{step.op.lower()}", file_name=None)
        result = node.name if is_last else edit.add(like)
        factor = (
            [] if step.factor is None else [edit.constant(f"{node.name}/factor", np.asarray(step.factor, np.float32))]
        )
        extras = {key: value for key, value in node.extras.items() if key != "options"}
        nodes.append(Node(step.op, (source, *factor), (result,), step.attrs, extras=extras))
        source = result
    return nodes


def _activation(
    node: Node, graph: Graph, made: Mapping[str, Node], position: Mapping[str, int]
) -> tuple[str, list[_Step], set[str]] | None:
    """Returns (source, operators, what they replace) where a chain that ends in a node computes an activation."""
    shape = graph.tensors[node.name].shape
    front, chain = {node.name}, list[Node]()
    while len(chain) < _LONGEST:
        last = max(front, key=lambda name: position.get(made[name].name, -1) if name in made else -1)
        link = made.get(last)
        if link is None or not _is_link(link, graph):
            return None
        chain.append(link)
        front.remove(last)
        inputs = [graph.tensors[name] for name in link.inputs]
        if any(not t.is_constant and t.shape != shape for t in inputs):
            return None
        front |= {t.name for t in inputs if not t.is_constant}
        (source,) = front if len(front) == 1 else ("",)
        if source and len(chain) >= _FEWEST and graph.tensors[source].is_float:
            steps = _named(_values(chain[::-1], graph, source, node.name))
            if steps and len(steps) < len(chain):
                return source, steps, {each.name for each in chain}
    return None


def _is_link(node: Node, graph: Graph) -> bool:
    """True for an elementwise operator that computes with one tensor of floats or conditions, and single numbers."""
    op = lookup(node.op)
    if op.axes not in _ELEMENTWISE or op.definition is None or not all(node.inputs) or len(node.outputs) != 1:
        return False
    tensors = [graph.tensors[name] for name in (*node.inputs, node.name)]
    return all(t.dtype in ("float32", "bool") and (not t.is_constant or _is_number(t.array)) for t in tensors)


def _is_number(values: np.ndarray | None) -> bool:
    return values is not None and values.size > 0 and bool((values == values.reshape(-1)[0]).all())


def _values(chain: list[Node], graph: Graph, source: str, result: str) -> np.ndarray | None:
    """Returns what a chain makes of the numbers of the grid, or None where it does not compute."""
    known: dict[str, np.ndarray] = {source: _GRID}
    for node in chain:
        inputs, outputs = tensors_of(node, graph)
        compute, arrays = lookup(node.op).definition, list[np.ndarray]()
        for name in node.inputs:
            arrays.append(known[name] if name in known else np.asarray(graph.tensors[name].array).reshape(-1)[:1])
        flat = tuple(None if t is None else replace(t, shape=a.shape) for t, a in zip(inputs, arrays, strict=True))
        call = Call(node, tuple(arrays), flat, tuple(replace(t, shape=_GRID.shape) for t in outputs))
        if compute is None:
            return None
        try:
            with np.errstate(all="ignore"):
                (made,) = compute(call)
        except FeatherweightError:
            return None
        known[node.name] = np.broadcast_to(np.asarray(made), _GRID.shape)
    return known[result].astype(np.float64)


def _named(values: np.ndarray | None) -> list[_Step]:
    """Returns the operators of a function, known by its values on the grid; none where it has no name."""
    if values is None or not np.isfinite(values).all():
        return []
    x = _GRID.astype(np.float64)
    slope = float(values[-1] / x[-1])
    for approximate in (False, True) if slope > 0 else ():
        if _agree(values / slope, on_numpy.gelu(_GRID, approximate=approximate)):
            return [_Step("GELU", {"approximate": approximate}), *_factor(slope)]
    return _elu_steps(values, x)


def _factor(factor: float) -> list[_Step]:
    return [] if np.isclose(factor, 1.0, rtol=1e-5) else [_Step("MUL", {}, factor)]


def _elu_steps(values: np.ndarray, x: np.ndarray) -> list[_Step]:
    """Returns the operators of ``p x`` above zero and ``q (exp(βx) − 1)`` below, if there are such p, q, β."""
    slope, depth = values[-1] / x[-1], -values[0]
    at_one = values[np.searchsorted(x, -1.0)]
    if not (depth > 0 and slope > 0 and -depth < at_one < 0):
        return []
    rate = -np.log1p(at_one / depth)
    if not _agree(values, np.where(x > 0, slope * x, depth * np.expm1(rate * np.minimum(x, 0)))):
        return []
    steps = [*_factor(float(rate)), _Step("ELU", {})]
    if not np.isclose(depth * rate, slope, rtol=1e-5):
        steps.append(_Step("LEAKY_RELU", {"alpha": float(np.float32(depth * rate / slope))}))
    return [*steps, *_factor(float(slope / rate))]


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((np.abs(one - other) <= _TOLERANCE * np.maximum(np.abs(other), 1)).all())


def softmax_over_any_axis(graph: Graph, taken: Names = frozenset()) -> Graph:
    """``exp(x − m) / Σ exp(x − m)`` along one axis becomes a SOFTMAX, which knows the last one: between TRANSPOSE."""
    made, edit = producers(graph), Editor(graph, set(taken))
    for node in graph.nodes:
        found = _softmax_source(node, graph, made)
        if found is None:
            edit.nodes.append(node)
            continue
        source, axis = found
        tensor = graph.tensors[node.name]
        order = [*(i for i in range(len(tensor.shape)) if i != axis), axis]
        if axis == len(tensor.shape) - 1:
            edit.instead(node, "SOFTMAX", (source,), beta=1.0)
            continue
        moved = [edit.add(replace(_moved(tensor, order), name=f"{node.name}/{part}")) for part in ("moved", "softmax")]
        for inputs, outputs, turn in (((source,), moved[:1], order), (moved[1:], node.outputs, np.argsort(order))):
            turned = edit.constant(f"{node.name}/order", np.asarray(turn, np.int32))
            edit.node("TRANSPOSE", (*inputs, turned), outputs)
            if outputs == moved[:1]:
                edit.node("SOFTMAX", moved[:1], moved[1:], beta=1.0)
    return without_orphans(edit.result(), graph) if tuple(edit.nodes) != graph.nodes else graph


def _moved(tensor: Tensor, order: list[int]) -> Tensor:
    signature = tensor.shape_signature
    return replace(
        tensor,
        shape=tuple(tensor.shape[i] for i in order),
        shape_signature=None if signature is None else tuple(signature[i] for i in order),
        file_name=None,
    )


def _softmax_source(node: Node, graph: Graph, made: Mapping[str, Node]) -> tuple[str, int] | None:
    """Returns (x, axis) where a node computes the softmax of x along one axis."""
    if not is_plain(node, "DIV"):
        return None
    powers, total = made.get(node.inputs[0]), made.get(node.inputs[1])
    while total is not None and lookup(total.op).moves_data and lookup(total.op).axes == "reshape":
        total = made.get(total.inputs[0])
    if powers is None or powers.op != "EXP" or total is None or total.inputs[0] != powers.name:
        return None
    shape = graph.tensors[node.name].shape
    axes = graph.tensors[total.inputs[1]].array
    if axes is None or axes.size != 1 or not _adds_up(total, graph):
        return None
    axis = int(axes.reshape(-1)[0]) % len(shape)
    rows = (*shape[:axis], 1, *shape[axis + 1 :])
    if graph.tensors[node.inputs[1]].shape != rows:
        return None
    source = powers.inputs[0]
    shifted = made.get(source)
    if is_plain(shifted, "SUB"):
        of_rows = graph.tensors[shifted.inputs[1]].shape
        if len(of_rows) <= len(shape) and (1,) * (len(shape) - len(of_rows)) + of_rows == rows:
            source = shifted.inputs[0]
    return (source, axis) if axis and graph.tensors[source].shape == shape else None


def _adds_up(node: Node, graph: Graph) -> bool:
    """True for the reduction that makes 5 of 2, −1 and 4."""
    op, (inputs, outputs) = lookup(node.op), tensors_of(node, graph)
    if not op.is_reduction or op.definition is None:
        return False
    call = Call(node, (np.array([2, -1, 4], np.float32), np.zeros(1, np.int32)), inputs, outputs)
    return float(op.definition(call)[0].reshape(-1)[0]) == 5


def without_signed_zeros(graph: Graph, taken: Names = frozenset()) -> Graph:
    """What puts the smallest number in the place of −0 goes: JAX orders zeros so before an ARG_MAX, bit by bit."""
    made, edit = producers(graph), Editor(graph, set(taken))
    replaced: dict[str, str] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(replaced.get(name, name) for name in node.inputs))
        edit.nodes.append(node)
        if lookup(node.op).axes in _CHOICES and len(node.inputs) == 3 and node.name not in graph.outputs:
            condition, chosen, x = node.inputs
            tensor = graph.tensors[chosen]
            is_tiny = tensor.is_constant and tensor.is_float and not (np.abs(np.asarray(tensor.array)) > _TINY).any()
            if is_tiny and _is_of_zeros(made.get(condition), x, graph, made):
                replaced[node.name] = x
    return without_orphans(edit.result(), graph) if replaced else graph


def _is_of_zeros(condition: Node | None, x: str, graph: Graph, made: Mapping[str, Node]) -> bool:
    """True for a condition that holds only where x is zero, but need not hold there."""
    if condition is None:
        return False
    if condition.op == "LOGICAL_AND":
        return any(_is_of_zeros(made.get(name), x, graph, made) for name in condition.inputs)
    zeros = [graph.tensors[name] for name in condition.inputs if name != x]
    is_zero = len(zeros) == 1 and zeros[0].is_constant and not np.asarray(zeros[0].array).any()
    return condition.op == "EQUAL" and is_zero
