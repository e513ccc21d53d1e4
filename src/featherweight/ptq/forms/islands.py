"""Operators that stay float between two conversions, in spite of integer kernels: float is faster there, or finer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from featherweight import operators
from featherweight.graph import Graph, Model, Node, consumers, producers
from featherweight.ptq.forms.decisions import Forms
from featherweight.ptq.forms.following import follow_layers, follow_variables
from featherweight.recipes.recipe import Recipe
from featherweight.targets.target import Target

# What an operator must save to be worth two conversions, each an operator of its own.
_LEAST_SAVED_NS = 20_000
# From here on, the average of so many probabilities is less than two steps of 1/256.
_MOST_CLASSES = 127
_PROBABILITY_SCALE = 1 / 256


def settle(result: Forms, model: Model, planned: Graph, recipe: Recipe, target: Target) -> None:
    """Draws the consequences of forms that were chosen, or changed: for states of layers, and for moved data.

    `planned` joins the graphs of the model that can compute in integers.
    """
    if recipe.needs_ranges:
        _drop_final_softmax(result, planned, target)
    for graph in model.graphs:
        follow_layers(result, graph, target)
    if recipe.needs_ranges:
        follow_variables(result, model, planned)
        _keep_islands_float(result, planned)


def keep_faster_float(forms: Forms, graph: Graph, target: Target) -> None:
    """Keeps operators float whose int8 kernels are slower on the target than float ones, unless a rule names them."""
    for node in graph.nodes:
        if forms.activation(node) != "int8" or node.op not in target.slower_ns or is_named(forms, node):
            continue
        saved = target.slower_ns[node.op] * sum(graph.tensors[name].elements for name in node.outputs)
        if saved >= _LEAST_SAVED_NS:
            forms.keep(node, f"slower in integers on target '{target.name}', by about {saved / 1000:.0f} µs")


def keep_chains_float(forms: Forms, graph: Graph) -> None:
    """Keeps float what leads from one tensor to a float operator alone: a function that has no kernel in integers.

    Between the two, integers would be converted more often, and each polynomial of a rational function be rounded.
    """
    read = consumers(graph)
    for last in graph.nodes:
        if forms.activation(last) or operators.lookup(last.op).elementwise != 2 or last.name not in forms.kept_float:
            continue
        chain, front = [last], {t.name for _, t in graph.float_inputs(last) if not t.is_constant}
        for node in reversed(graph.nodes[: graph.nodes.index(last)]):
            if len(front) == 1 or node.name not in front:
                continue
            if not operators.lookup(node.op).elementwise or any(r not in chain for r in read.get(node.name, ())):
                break
            chain.append(node)
            front = (front - {node.name}) | {t.name for _, t in graph.float_inputs(node) if not t.is_constant}
        if len(front) == 1 and len(chain) > 2:
            for node in chain[1:]:
                if forms.activation(node) and not is_named(forms, node):
                    forms.keep(node, f"it leads to {last.op} '{last.name}' alone, which is float")


def keep_scores_float(forms: Forms, graph: Graph, io: str) -> None:
    """Keeps the probabilities of many classes float at a float output, unless a rule names the operator."""
    for node, classes in _scores(forms, graph) if io == "float32" else ():
        if not is_named(forms, node):
            forms.keep(node, f"steps of 1/256 would make most of its {classes} probabilities 0")


def hidden_scores(forms: Forms, graph: Graph) -> list[str]:
    """Returns a note for each output of so many probabilities that steps of 1/256 hide most of them."""
    return [
        f"output '{node.outputs[0]}': its {classes} probabilities are in steps of 1/256, so that most are 0 and many "
        "equal; read it as float32, or leave the last operator to the reader"
        for node, classes in _scores(forms, graph)
    ]


def _scores(forms: Forms, graph: Graph) -> Iterator[tuple[Node, int]]:
    """Yields the int8 operators that compute probabilities of many classes as an output, with their number."""
    for node in graph.nodes:
        scale, _ = operators.lookup(node.op).fixed_output.get("int8", (0.0, 0))
        if forms.activation(node) == "int8" and scale == _PROBABILITY_SCALE and node.outputs[0] in graph.outputs:
            classes = (graph.tensors[node.outputs[0]].shape or (1,))[-1]
            if classes > _MOST_CLASSES:
                yield node, classes


def is_named(forms: Forms, node: Node) -> bool:
    """True where a rule of the recipe is about this operator, or this type of operator, in particular."""
    rule = forms.rules.get(node.name)
    return rule is not None and (rule.op is not None or rule.match != "*")


def slow_in_16_bits(forms: Forms, graph: Graph, target: Target) -> list[str]:
    """Returns one note that names the operators whose 16-bit kernels are not optimized, with their factors."""
    counts = Counter(
        node.op for node in graph.nodes if forms.activation(node) == "int16" and target.unoptimized.get(node.op, 0) > 1
    )
    if not counts:
        return []
    named = [f"{count} {op} take about {target.unoptimized[op]:.0f} times" for op, count in counts.most_common()]
    return [
        f"target '{target.name}' has no optimized kernels for int16 activations: {', '.join(named)} as long as in float"
    ]


def _drop_final_softmax(result: Forms, graph: Graph, target: Target) -> None:
    """Leaves out a SOFTMAX at an output where the target's int8 kernel can abort (ECOSYSTEM: 512 classes and more)."""
    if target.softmax_limit is None:
        return
    for node in graph.nodes:
        if operators.lookup(node.op).probability != "softmax" or result.forms.get(node.name) != "int8":
            continue
        classes = graph.tensors[node.inputs[0]].shape[-1]
        if classes < target.softmax_limit:
            continue
        reason = (
            f"the int8 kernel of target '{target.name}' stops the device from {target.softmax_limit} classes on "
            f"(it has {classes})"
        )
        is_last = node.outputs[0] in graph.outputs and node.outputs[0] not in consumers(graph)
        if is_last and node.inputs[0] not in graph.inputs:
            del result.forms[node.name]
            result.dropped[node.name] = (
                f"{node.op}: {reason}; the output is what went into it, whose largest class is the same"
            )
        else:
            result.keep(node, reason)


def _keep_islands_float(result: Forms, graph: Graph) -> None:
    """Keeps data movement float where everything around it is float: two conversions would gain nothing."""
    made, read = producers(graph), consumers(graph)

    def is_island(node: Node) -> bool:
        if node.name not in result.forms or not operators.lookup(node.op).is_mover:
            return False
        before = [made.get(t.name) for _, t in graph.float_inputs(node) if not t.is_constant]
        if not before or any(n is None or result.activation(n) for n in before):
            return False
        after = [n for name in node.outputs for n in read.get(name, ())]
        is_output = any(name in graph.outputs for name in node.outputs)
        return not is_output and not any(result.activation(n) for n in after)

    changed = True
    while changed:
        islands = [node for node in graph.nodes if is_island(node)]
        for node in islands:
            result.keep(node, "it only moves data, between float operators")
        changed = bool(islands)
