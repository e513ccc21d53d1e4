"""Which rule of a recipe is about which operator, by type and by the names that rules find it under."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Mapping

from featherweight import operators
from featherweight.errors import RecipeError, listed
from featherweight.graph import Graph, Model, Node
from featherweight.operators.layers import layer_names, shown_names
from featherweight.recipes.recipe import Recipe, Rule
from featherweight.recipes.toml import check_known
from featherweight.tflite.names import OP_CODES

# A model has thousands of operators: an error names those most like what was asked for.
_NAMES_IN_ERRORS = 10
# A special character of patterns between brackets stands for itself.
_ESCAPED = re.compile(r"\[([*?[])\]")
_LITERAL = re.compile(r"(?:[^*?[]|\[[*?[]\])*")


def exactly(name: str) -> str:
    """Returns the pattern that matches a name and nothing else.

    >>> exactly("a[0]*")
    'a[[]0][*]'
    """
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def names_of(node: Node, graph: Graph) -> tuple[str, ...]:
    """Returns the names under which rules find a node: its outputs and weight, whole and ``;``-separated."""
    weight = operators.lookup(node.op).weight
    names = list(node.outputs)
    if weight is not None and weight < len(node.inputs):
        names.append(node.inputs[weight])
    parts = [part for name in names for part in name.split(";")]
    return tuple(dict.fromkeys([*names, *parts]))


def matches(rule: Rule, node: Node, graph: Graph) -> bool:
    """True if the rule is about the node."""
    if rule.op is not None and rule.op != node.op:
        return False
    return rule.match == "*" or any(fnmatch.fnmatchcase(name, rule.match) for name in names_of(node, graph))


def resolve(recipe: Recipe, model: Model) -> dict[str, Rule]:
    """Maps every node (by name) to the first rule that matches it; nodes without one are left out.

    A rule that matches no tensor's name is about the layers of that name, as `inspect` and reports show them.

    Raises:
        RecipeError: if a rule with a pattern matches no node at all, or names an operator type that does not exist.
    """
    found, used = _matched(recipe, model)
    if any(rule.match != "*" for index, rule in enumerate(recipe.rules) if index not in used):
        found, used = _matched(recipe, model, frozenset(range(len(recipe.rules))) - used)
    for index, rule in enumerate(recipe.rules):
        if index in used:
            continue
        if rule.op is not None:
            check_known(rule.op, OP_CODES, "operator", f"Recipe '{recipe.name}', rule {index + 1}")
        if rule.match != "*":
            raise RecipeError(
                f"Recipe '{recipe.name}': rule {index + 1} ({rule}) matches no operator. Of its names, the "
                f"nearest are {listed(_nearest(rule, model), _NAMES_IN_ERRORS)}; `featherweight inspect` lists them."
            )
    return found


def _matched(recipe: Recipe, model: Model, by_layer: frozenset[int] = frozenset()) -> tuple[dict[str, Rule], set[int]]:
    """Returns the first rule of each node, and the indices of all rules that match one; some find layers, too."""
    found: dict[str, Rule] = {}
    used: set[int] = set()
    exact: dict[str, list[int]] = {}
    patterns: list[int] = []
    for index, rule in enumerate(recipe.rules):
        name = _only_name(rule.match)
        (patterns if name is None else exact.setdefault(name, [])).append(index)
    for graph in model.graphs:
        layers, shown = (layer_names(graph), shown_names(graph)) if by_layer else ({}, {})
        for node in graph.nodes:
            named = {index for name in names_of(node, graph) for index in exact.get(name, ())} if exact else ()
            hits = [i for i in patterns if matches(recipe.rules[i], node, graph)]
            hits += [i for i in by_layer if _matches_layer(recipe.rules[i], node, layers[node.name], shown)]
            hits = sorted([*hits, *(i for i in named if recipe.rules[i].op in (None, node.op))])
            used.update(hits)
            if hits:
                found[node.name] = recipe.rules[hits[0]]
    return found, used


def _matches_layer(rule: Rule, node: Node, layer: str, shown: Mapping[str, str]) -> bool:
    names = (layer, *(shown[name] for name in (*node.inputs, *node.outputs) if shown.get(name, "").startswith(layer)))
    return rule.op in (None, node.op) and any(fnmatch.fnmatchcase(name, rule.match) for name in names)


def _only_name(pattern: str) -> str | None:
    """Returns the one name that a pattern matches, or None where it matches others, too."""
    return _ESCAPED.sub(r"\1", pattern) if _LITERAL.fullmatch(pattern) else None


def _nearest(rule: Rule, model: Model) -> list[str]:
    """Returns the names that rules find operators under, those most like the rule's pattern first."""
    names = (
        name for graph in model.graphs for node in graph.nodes for name in names_of(node, graph) if ";" not in name
    )
    pattern = difflib.SequenceMatcher(b=rule.match.strip("*"), autojunk=False)

    def likeness(name: str) -> float:
        pattern.set_seq1(name)
        return pattern.ratio()

    return sorted(dict.fromkeys(names), key=likeness, reverse=True)
