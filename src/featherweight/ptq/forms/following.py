"""What forms of operators ask of others: states of layers, tables and variables that several of them share."""

from __future__ import annotations

from collections.abc import Sequence

from featherweight import operators
from featherweight.graph import Graph, Model, Node, consumers, producers
from featherweight.operators.families import control
from featherweight.ptq import recurrent
from featherweight.ptq.forms.decisions import Forms
from featherweight.ptq.forms.nodes import is_constant, looks_up, picks_rows, weight_roles
from featherweight.targets.target import Target


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
                if operators.lookup(writer.op).same_scale != (0,) or not is_constant(writer.inputs[0], graph):
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


def keep_tables_of_floats(result: Forms, graph: Graph) -> None:
    """Leaves tables float whose recipe only wants them smaller, where another operator reads them in float.

    They are stored in float then, and a copy in integers makes the file larger. What a rule names stays as it is.
    """
    found: dict[int, list[Node]] = {}
    for node in graph.nodes:
        for role in weight_roles(node, graph):
            found.setdefault(id(graph.tensors[node.inputs[role.weight]].data), []).append(node)
    for nodes in found.values():
        floats = [node for node in nodes if result.forms.get(node.name, "float32") == "float32"]
        for node in nodes if floats else ():
            rule, is_table = result.rules.get(node.name), looks_up(node) or picks_rows(node, graph)
            if rule is None or rule.match != "*" or rule.activation is not None or not is_table or node in floats:
                continue
            reader = f"{floats[0].op} '{floats[0].name}' reads it in float"
            result.keep(node, f"{reader}, so that the table is stored so: a copy in integers takes more bytes")


def follow_variables(result: Forms, model: Model, planned: Graph) -> None:
    """Gives all that reads or assigns a variable one integer type, where all of it is planned, or keeps it float."""
    handed = next(control.handed_on(model), None)
    for name, uses in control.uses(model).items():
        real = [use for use in uses if model.graphs[use.graph].tensors[use.value].is_float]
        computed = [use for use in real if use.is_read or not is_constant(use.value, model.graphs[use.graph])]
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
