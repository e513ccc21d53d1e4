"""Decides for every operator in which form it computes, and says why where it stays float."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from featherweight import operators
from featherweight.errors import FormatError, listed
from featherweight.graph import Graph, Model, Node, Tensor, consumers, producers
from featherweight.graph.numerics import INTEGER_BITS
from featherweight.operators.families import control
from featherweight.operators.relevance import EVERYTHING
from featherweight.ptq import recurrent
from featherweight.ptq.relevance import finite_values, relevant_intervals
from featherweight.recipes.recipe import Recipe, Rule, resolve
from featherweight.targets.target import Target

# Below this size a constant of an operator that has no weight is an operand (an epsilon, a mean), not a weight.
_SMALLEST_TABLE_ELEMENTS = 1024

_NO_RANGES = "integers need fixed ranges"

Obstacle = Callable[[Node, Graph, str], str | None]
"""Says why something that must compute a node besides the target can't do so in a form, or None."""


def no_obstacle(node: Node, graph: Graph, form: str) -> str | None:
    """Returns None: every form will do."""
    return None


@dataclass
class Forms:
    """The decisions for all operators of a model: each is in one of the three, or handles no real numbers."""

    rules: Mapping[str, Rule]
    obstacle: Obstacle = no_obstacle
    forms: dict[str, str] = field(default_factory=dict[str, str])
    kept_float: dict[str, str] = field(default_factory=dict[str, str])
    dropped: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])

    def activation(self, node: Node | None) -> str | None:
        """Returns the integer type in which a node's activations live, or None for float."""
        form = self.forms.get(node.name, "float32") if node else "float32"
        dtype = form.split("*")[0].split("+")[0]
        return None if dtype == "float32" else dtype

    def keep(self, node: Node, reason: str) -> None:
        """Notes that an operator stays float."""
        self.forms.pop(node.name, None)
        self.kept_float[node.name] = f"{node.op}: {reason}"


def freed_form(result: Forms, node: Node, graph: Graph, target: Target) -> str:
    """Returns the form of an operator that must leave integers: integer weights stay where the target can, or float."""
    weight = result.forms[node.name].partition("*")[2]
    hybrid = f"float32*{weight}"
    can_stay = weight and target.runs(node.op, hybrid) and result.obstacle(node, graph, hybrid) is None
    return hybrid if can_stay else "float32"


def set_free(result: Forms, node: Node, graph: Graph, target: Target, reason: str) -> None:
    """Takes an operator out of integers, and says why."""
    form = freed_form(result, node, graph, target)
    if form == "float32":
        result.keep(node, reason)
    else:
        result.forms[node.name] = form
        result.notes.append(f"{node.op} '{node.name}': its inputs are quantized on the fly: {reason}")


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
        is_weight = op.weight < len(node.inputs) and _is_constant(node.inputs[op.weight], graph)
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


def _is_constant(name: str, graph: Graph) -> bool:
    return bool(name) and graph.tensors[name].is_constant


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


def picks_rows(node: Node, graph: Graph) -> bool:
    """True for an operator that copies out of a constant table: it can do so in integers without any calibration."""
    op, position = operators.lookup(node.op), weight_position(node, graph)
    return op.weight is None and position in op.same_scale and len(list(graph.float_inputs(node))) == 1


def looks_up(node: Node) -> bool:
    """True for an operator that copies rows out of its weight: it needs no real number but those."""
    op = operators.lookup(node.op)
    return op.weight is not None and op.weight == op.activation


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
    if operators.lookup(node.op).weight is None and (flaw := _flaw_of_table(node, graph, dtype, result.notes)):
        result.keep(node, flaw)
    elif not target.is_float_allowed:
        result.keep(node, f"target '{target.name}' runs integers only; choose the recipe int8")
    elif (dtype == "float16" or rule.weight_only) and dtype not in target.weight_only:
        result.keep(
            node, f"target '{target.name}' does not turn {dtype} weights into float ones; choose the recipe int8"
        )
    elif dtype == "float16" or rule.weight_only:
        result.forms[node.name] = f"float32+{dtype}"
    elif target.runs(node.op, f"float32*{dtype}"):
        result.forms[node.name] = f"float32*{dtype}"
    elif picks_rows(node, graph) and _writes(node, dtype, target) and not is_called:
        result.forms[node.name] = dtype
    else:
        result.keep(node, f"target '{target.name}' has no kernel for {dtype} weights beside float activations")


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
        if bias and not _is_constant(bias, graph):
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


def follow_layers(result: Forms, graph: Graph, target: Target) -> None:
    """Gives what writes the states of fused recurrent layers the states' types, or keeps such a layer float."""
    made = producers(graph)
    for node in graph.nodes:
        writers = {name: made[name] for name in recurrent.states(node) if name in made}
        if result.activation(node):
            if len(writers) < len(recurrent.states(node)):
                result.notes.append(f"{node.op} '{node.name}': nothing resets its state; it lasts from run to run")
            for name, writer in writers.items():
                dtype = recurrent.states(node)[name]
                if operators.lookup(writer.op).same_scale != (0,) or not _is_constant(writer.inputs[0], graph):
                    result.keep(node, f"its state '{name}' is computed")
                elif not target.runs(writer.op, dtype):
                    result.keep(node, f"target '{target.name}' has no {dtype} kernel for {writer.op}, which resets it")
        for name, writer in writers.items():
            if result.activation(node):
                result.kept_float.pop(writer.name, None)
                result.forms[writer.name] = recurrent.states(node)[name]
            else:
                result.keep(writer, "it writes the state of a float layer")


def stored_types(result: Forms, graph: Graph) -> dict[int, dict[str, tuple[Node, str]]]:
    """Returns constant (by the identity of its data) → operator → (it, the type in which it reads the constant)."""
    found: dict[int, dict[str, tuple[Node, str]]] = {}
    for node in graph.nodes:
        form = result.forms.get(node.name, "float32")
        if form != "float32":
            for role in weight_roles(node, graph):
                data = graph.tensors[node.inputs[role.weight]].data
                found.setdefault(id(data), {})[node.name] = node, form.replace("+", "*").rpartition("*")[2]
    return {data: readers for data, readers in found.items() if len(readers) > 1}


def share_tables(result: Forms, graph: Graph, target: Target) -> None:
    """Lets what reads a constant in int4, or copies out of it in int16, read it in int8 where another operator must.

    One copy in int8 takes less than one of each, and is finer than int4. Operators that a rule names stay as they are.
    """
    for readers in stored_types(result, graph).values():
        if "int8" not in {dtype for _, dtype in readers.values()}:
            continue
        for node, dtype in readers.values():
            form = result.forms[node.name]
            shared = form.removesuffix(dtype) + "int8"
            if result.rules[node.name].match != "*":  # as asked for by name
                continue
            can_share = dtype == "int4" or (dtype == "int16" and form == dtype and picks_rows(node, graph))
            if can_share and ("+" in form or target.runs(node.op, shared)):
                result.forms[node.name] = shared
                result.notes.append(
                    f"{node.op} '{node.name}': it reads its table in int8, as other operators do: it is stored once"
                )


def follow_variables(result: Forms, model: Model, planned: Graph) -> None:
    """Gives all that reads or assigns a variable one integer type, where all of it is planned, or keeps it float."""
    handed = next(control.handed_on(model), None)
    for name, uses in control.uses(model).items():
        real = [use for use in uses if model.graphs[use.graph].tensors[use.value].is_float]
        computed = [use for use in real if use.is_read or not _is_constant(use.value, model.graphs[use.graph])]
        if handed is not None or not name:
            where = f"{handed.op} '{handed.name}' hands it" if handed is not None else "it comes"
            obstacle = f"{where} from graph to graph, where it is not followed"
        else:
            obstacle = _obstacle_of_variable(result, [use.node for use in computed], planned)
        for use in real:
            if obstacle is not None:
                result.keep(use.node, f"its variable '{name}' stays float: {obstacle}")
            elif use not in computed:
                result.kept_float.pop(use.node.name, None)
                result.forms[use.node.name] = result.forms[computed[0].node.name]


def _obstacle_of_variable(result: Forms, users: Sequence[Node], planned: Graph) -> str | None:
    """Returns why what reads a variable, or assigns computed values to it, can't do so in one integer type."""
    made, read = producers(planned), consumers(planned)
    for node in users:
        if result.activation(node) is None:
            return result.kept_float[node.name].rpartition("stays float: ")[2].removeprefix(f"{node.op}: ")
    if len({result.activation(node) for node in users}) > 1:
        return "a rule of the recipe gives it two types"
    around = [made.get(node.inputs[-1]) for node in users]
    around += [reader for node in users for name in node.outputs for reader in read.get(name, ())]
    if not any(node is not None and node not in users and result.activation(node) for node in around):
        return "it only keeps data, between float operators"
    return None


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
