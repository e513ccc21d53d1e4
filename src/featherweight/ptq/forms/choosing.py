"""Decides for every operator in which form it computes, and says why where it stays float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from featherweight import operators
from featherweight.errors import FormatError, listed
from featherweight.graph import Graph, Model, Node
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.operators.relevance import EVERYTHING
from featherweight.ptq import recurrent
from featherweight.ptq.forms.decisions import Forms, Obstacle, no_obstacle
from featherweight.ptq.forms.nodes import is_constant, looks_up, picks_rows, touches_float, weight_position
from featherweight.ptq.relevance import finite_values, relevant_intervals
from featherweight.recipes.matching import resolve
from featherweight.recipes.recipe import Recipe, Rule
from featherweight.targets.target import Target

_NO_RANGES = "integers need fixed ranges"


def check_is_float(model: Model) -> None:
    """Raises FormatError if the model is quantized already."""
    for graph in model.graphs:
        for tensor in graph.tensors.values():
            if tensor.quant is not None and tensor.dtype in INTEGER_BITS:
                raise FormatError(
                    f"The model is already quantized: '{tensor.name}' holds {tensor.dtype} with a scale. Start from "
                    "the float model it was made from."
                )


def choose_forms(
    model: Model,
    recipe: Recipe,
    target: Target,
    obstacle: Obstacle = no_obstacle,
    unplanned: Mapping[int, str] | None = None,
) -> Forms:
    """Returns the form of every operator under recipe and target, and what else must compute it.

    `unplanned` says of graphs why nothing in them can compute in integers that need fixed ranges.
    """
    result = Forms(resolve(recipe, model), obstacle)
    for index, graph in enumerate(model.graphs):
        for node in graph.nodes:
            if not touches_float(node, graph):
                continue
            noted = len(result.notes)
            _choose(result, node, graph, target, (unplanned or {}).get(index, ""))
            form = result.forms.get(node.name)
            if form is not None and (reason := obstacle(node, graph, form)) is not None:
                del result.notes[noted:]  # they are about the form
                result.keep(node, reason)
    return result


def no_ranges(calling: Sequence[str]) -> str:
    """Returns why a graph that operators of these types call can't compute in integers."""
    way = "lower the framework model with its recurrent layers unrolled, or its LSTM layers fused"
    if not any(len(operators.lookup(op).calls) > 1 for op in calling):
        what, way = f"a graph that {listed(sorted(set(calling))) or 'nothing'} calls", ""
    else:
        what = "a loop or branch"
    return f"{_NO_RANGES}, which {what} has no place for" + (f"; {way}" if way else "")


def _choose(result: Forms, node: Node, graph: Graph, target: Target, unplanned: str) -> None:
    rule = result.rules.get(node.name)
    if rule is None or (rule.weight is None and rule.activation is None):
        result.keep(node, "the recipe keeps it float")
    elif rule.activation is None:
        _choose_weights(result, node, graph, rule, target, is_called=bool(unplanned))
    elif unplanned or operators.lookup(node.op).calls:
        is_called = unplanned.startswith(_NO_RANGES)  # and no signature without samples, which stays float
        if is_called and rule.weight is not None and operators.lookup(node.op).has_integer_weights:
            _choose_weights(result, node, graph, rule, target, is_called=True)
        if node.name in result.forms:
            why = (unplanned or no_ranges([node.op])).partition(";")[0]
            result.notes.append(f"{node.op} '{node.name}': its inputs are quantized on the fly: {why}")
        else:
            result.keep(node, unplanned or no_ranges([node.op]))
    else:
        _choose_integers(result, node, graph, rule, target)


def _choose_weights(result: Forms, node: Node, graph: Graph, rule: Rule, target: Target, *, is_called: bool) -> None:
    """Float activations: only the weights change."""
    weight = rule.weight
    if weight is None or weight_position(node, graph) is None:
        result.keep(node, "it has no constant weights")
        return
    if (obstacle := recurrent.obstacle(node, graph)) is not None:
        result.keep(node, obstacle)
        return
    dtype = weight.dtype
    if dtype == "int4" and operators.lookup(node.op).axis is None:
        dtype = "int8"
        what = "its table is" if operators.lookup(node.op).weight is None else "its weights are"
        result.notes.append(f"{node.op} '{node.name}': {what} int8, too much would be lost at 4 bits with one scale")
    must_unpack = looks_up(node) and dtype in target.weight_only and not _reads_rows(node, graph, dtype, target)
    if operators.lookup(node.op).weight is None and (flaw := _flaw_of_table(node, graph, dtype, result.notes)):
        result.keep(node, flaw)
    elif not target.is_float_allowed:
        result.keep(node, f"target '{target.name}' runs integers only; choose the recipe int8")
    elif (dtype == "float16" or rule.weight_only) and dtype not in target.weight_only:
        result.keep(
            node, f"target '{target.name}' does not turn {dtype} weights into float ones; choose the recipe int8"
        )
    elif dtype == "float16" or rule.weight_only or must_unpack:
        result.forms[node.name] = f"float32+{dtype}"
    elif target.runs(node.op, f"float32*{dtype}"):
        result.forms[node.name] = f"float32*{dtype}"
    elif picks_rows(node, graph) and _writes(node, dtype, target) and not is_called:
        result.forms[node.name] = dtype
    else:
        result.keep(node, f"target '{target.name}' has no kernel for {dtype} weights beside float activations")


def _reads_rows(node: Node, graph: Graph, dtype: str, target: Target) -> bool:
    """True where the target reads rows of a table of a type: of int4 only those that are whole bytes."""
    table = graph.tensors[node.inputs[weight_position(node, graph) or 0]]
    is_whole = dtype != "int4" or table.elements // max(1, table.shape[0]) % 2 == 0
    return is_whole and target.runs(node.op, f"float32*{dtype}")


def _flaw_of_table(node: Node, graph: Graph, dtype: str, notes: list[str]) -> str | None:
    """Returns why a large constant operand can't be stored in a type, or None; notes where a mask is made finite."""
    tensor = graph.tensors[node.inputs[weight_position(node, graph) or 0]]
    values = finite_values(tensor)
    if values.size < tensor.elements and dtype != "float16":
        return f"its constant holds infinity, which {dtype} has not"
    largest = float(np.abs(values).max(initial=0.0))
    if dtype != "float16" or largest <= float(np.finfo(np.float16).max):
        return None
    if relevant_intervals(graph, None, {}).get(tensor.name, EVERYTHING) == EVERYTHING:
        return f"its constant reaches {largest:g}, float16 ends at 65504"
    notes.append(f"{node.op} '{node.name}': ±65504 stands for what is beyond it in its mask")
    return None


def _choose_integers(result: Forms, node: Node, graph: Graph, rule: Rule, target: Target) -> None:
    op = operators.lookup(node.op)
    activation = rule.activation.dtype if rule.activation else "int8"
    form = activation
    if op.weight is not None:
        if weight_position(node, graph) is None:
            result.keep(node, "its weight is computed, not constant")
            return
        bias = node.inputs[op.bias] if op.bias is not None and op.bias < len(node.inputs) else ""
        if bias and not is_constant(bias, graph):
            result.keep(node, "its bias is computed, not constant")
            return
        if (obstacle := recurrent.obstacle(node, graph)) is not None:
            result.keep(node, obstacle)
            return
        weight = rule.weight.dtype if rule.weight else "int8"
        form = f"{activation}*{weight}"
        if not _writes(node, form, target) and _writes(node, f"{activation}*int8", target):
            form = f"{activation}*int8"
            result.notes.append(
                f"{node.op} '{node.name}': weights are int8, target '{target.name}' has no {weight} kernel"
            )
    if _writes(node, form, target):
        result.forms[node.name] = form
        return
    if looks_up(node) and rule.weight is not None:
        _choose_weights(result, node, graph, rule, target, is_called=False)
        return
    runs = target.integer_forms(node.op)
    has = f"it runs {listed(runs)}" if runs else "it runs none in integers"
    has += "" if target.runs(node.op, "float32") or not target.is_float_allowed else ", and none in float"
    result.keep(node, f"target '{target.name}' has no {form} kernel for it ({has})")


def _writes(node: Node, form: str, target: Target) -> bool:
    """Returns True where the target runs a form, and what is written in it is known."""
    return target.runs(node.op, form) and form in operators.lookup(node.op).versions
