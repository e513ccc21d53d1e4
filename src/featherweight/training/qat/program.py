"""The functions that an integer graph is trained with: one for each node, beside the float ones of nodes left float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

from featherweight.errors import UnsupportedOp, listed
from featherweight.graph import Graph, Model, Node, Tensor, consumers
from featherweight.graph.numerics import INTEGER_BITS, QuantParams, integer_range
from featherweight.operators import Call, lookup, placed
from featherweight.operators.call import Array
from featherweight.operators.profiles import Profile
from featherweight.training.graph.apart import apart
from featherweight.training.graph.registry import Function, Step, float_function
from featherweight.training.integer.approximate import approximate_function
from featherweight.training.integer.channels import of_node
from featherweight.training.integer.hybrid import hybrid_function, is_hybrid
from featherweight.training.integer.lookup_tables import HOST
from featherweight.training.integer.step import IntegerStep, integer_function, is_quantized, quantized_weight, spread
from featherweight.training.integer.straight_through import bounded, reciprocal, rounded_half_away

# Far beyond any integer of an activation.
_FAR = float(1 << 20)
_Kind = Literal["hybrid", "integer", "float"]


@dataclass(frozen=True)
class Parameters:
    """Where a program gets the numbers that integers are scaled by.

    Attributes:
        affine: returns a tensor's (scale, zero point).
        zero: returns the variable that holds 0.
        tables: returns what was computed on the host for a node.
        profile: the arithmetic.
        learned: scales are trained.
        approximate: computes with classic fake quantization instead of integer kernels.
        moves: scales move while this is computed, so that tables made from them would be out of date: what tables
            compute elsewhere is fake-quantized then.
    """

    affine: Callable[[Tensor], tuple[Array, Array]]
    zero: Callable[[], Array]
    tables: Callable[[Node], tuple[Array, ...]]
    profile: Profile
    learned: bool
    approximate: bool = False
    moves: bool = False


def left_by_delegate(
    graph: Graph, profile: Profile, current: Mapping[str, QuantParams] | None = None
) -> frozenset[str]:
    """Returns the names of integer nodes that XNNPACK does not take, but LiteRT's own kernels run.

    Args:
        graph: of an integer model, with the planned parameters.
        profile: the arithmetic; without a delegate, nothing is left.
        current: parameters of the moment, by tensor, where they are not the planned ones.
    """
    if not profile.is_delegate:
        return frozenset()
    tensors = dict(graph.tensors)
    tensors |= {name: replace(tensors[name], quant=quant) for name, quant in (current or {}).items()}
    found: set[str] = set()
    for node in graph.nodes:
        if computes_in_integers(node, graph) and not is_hybrid(node, graph):
            inputs = tuple(tensors[name] if name else None for name in node.inputs)
            outputs = tuple(tensors[name] for name in node.outputs)
            call = Call(node, (None,) * len(inputs), inputs, outputs, profile)
            if placed(call).profile is not profile:
                found.add(node.name)
    return frozenset(found)


def integer_functions(
    model: Model, parameters: Parameters, chunks: Mapping[str, int], left: Collection[str] | None = None
) -> dict[str, Function]:
    """Returns node name → function for an integer model's main graph.

    Args:
        model: the integer model.
        parameters: where numbers come from.
        chunks: node → parts that its input channels are cut into.
        left: what XNNPACK leaves (see `left_by_delegate`); by the planned scales if left out.

    Raises:
        UnsupportedOp: naming every node that has no training kernel.
    """
    found: dict[str, Function] = {}
    readers = consumers(model.main)
    left = left_by_delegate(model.main, parameters.profile) if left is None else left
    for node in model.main.nodes:
        approximate = parameters.approximate or (parameters.moves and node.op in HOST)
        kind = _kind(node, model.main)
        if (computes := _function(node.op, kind, parameters.profile, approximate=approximate)) is None:
            continue
        around = replace(parameters, profile=parameters.profile.fallback or parameters.profile)
        around = around if node.name in left else parameters
        if kind != "float":
            is_fork = _is_fork(node, model.main, readers)
            computes = _bound(computes, around, chunks.get(node.name, 1), is_fork=is_fork)
        found[node.name] = computes
    for graph in model.graphs[1:]:
        for node in graph.nodes:
            if not computes_in_integers(node, graph) and (computes := float_function(node.op)) is not None:
                found[node.name] = computes
    if missing := without_kernel(model, parameters.profile, approximate=parameters.approximate):
        raise UnsupportedOp(
            f"{len(missing)} node(s) have no training kernel: {listed(missing.values(), limit=1000)}. Keep them float "
            "with rules of the recipe, or quantize after training."
        )
    return found


def without_kernel(model: Model, profile: Profile, *, approximate: bool = False) -> dict[str, str]:
    """Returns node name → the node in words, for the nodes of an integer model that have no training kernel."""
    found: dict[str, str] = {}
    for node in model.main.nodes:
        if _function(node.op, _kind(node, model.main), profile, approximate=approximate) is None:
            found[node.name] = f"{node.op} '{node.name}'"
    for graph in model.graphs[1:]:
        for node in graph.nodes:
            if computes_in_integers(node, graph):
                found[node.name] = f"{node.op} '{node.name}' in the loop or branch '{graph.name}'"
    return found


def obstacle_in(model: Model, profile: Profile, *, approximate: bool) -> Callable[[Node, Graph, str], str | None]:
    """Returns what says why a node of a float model can't be trained in a form of a plan, or None where it can.

    Nodes of loops and branches are trained in float only.
    """

    def obstacle(node: Node, graph: Graph, form: str) -> str | None:
        activation, stored, weight = form.partition("+")
        if stored:  # what turns the weight into a float one is a node of its own
            op, kind = "DEQUANTIZE", "integer" if weight in INTEGER_BITS else "float"
        else:
            op, kind = node.op, "hybrid" if activation.startswith("float32") else "integer"
        has_kernel = graph is model.main and _function(op, kind, profile, approximate=approximate) is not None
        return None if has_kernel else "it has no training kernel in this form"

    return obstacle


def _kind(node: Node, graph: Graph) -> _Kind:
    """Returns what a node of an integer model multiplies or moves."""
    if is_hybrid(node, graph):
        return "hybrid"
    return "integer" if computes_in_integers(node, graph) else "float"


def _function(op: str, kind: _Kind, profile: Profile, *, approximate: bool) -> Function | None:
    """Returns what computes an operator, or None where nothing does."""
    if kind == "hybrid":
        return hybrid_function(op, profile)
    if kind == "float":
        return float_function(op)
    return approximate_function(op) if approximate else integer_function(op, profile)


def computes_in_integers(node: Node, graph: Graph) -> bool:
    """True where a node reads or writes integers that stand for real numbers."""
    return any(is_quantized(graph.tensors[name]) for name in (*node.inputs, *node.outputs) if name)


def _is_fork(node: Node, graph: Graph, readers: Mapping[str, Collection[Node]]) -> bool:
    """True where a node's gradients are sums, or go more than one way."""
    computed = [name for name in node.inputs if name and not graph.tensors[name].is_constant]
    return len(computed) > 1 or any(len(readers.get(name, ())) > 1 for name in node.outputs)


def _bound(computes: Function, parameters: Parameters, chunks: int, *, is_fork: bool) -> Function:
    def function(step: Step) -> tuple[Array, ...]:
        given = {field.name: getattr(step, field.name) for field in fields(Step)}
        given["profile"] = parameters.profile
        given["arrays"] = tuple(_operand(step, position, parameters) for position in range(len(step.arrays)))
        results = computes(
            IntegerStep(
                **given,
                parameters=parameters.affine,
                zero=parameters.zero(),
                constants=parameters.tables(step.node),
                chunks=chunks,
                learns=parameters.learned,
                channels=of_node(step.node.name),
            )
        )
        return tuple(apart(result, gradient=is_fork) for result in results)

    return function


def _operand(step: Step, position: int, parameters: Parameters) -> Array | None:
    """Returns an input as kernels take it: constants that are neither weight nor bias as centred integers."""
    array, tensor, op = step.arrays[position], step.inputs[position], lookup(step.node.op)
    if array is None or tensor is None or not tensor.is_constant or not is_quantized(tensor):
        return array
    if position in (op.weight, op.bias):
        return array
    scale, zero_point = parameters.affine(tensor)
    if op.unpacks:
        return quantized_weight(array, spread(scale, tensor), tensor.dtype, parameters.zero())
    low, high = integer_range(tensor.dtype)
    integers = rounded_half_away(bounded(array * reciprocal(scale, parameters.zero()), -_FAR, _FAR))
    return bounded(integers, low - zero_point, high - zero_point)
