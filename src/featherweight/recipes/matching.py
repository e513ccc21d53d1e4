"""Which rule of a recipe is about which operator, by type and by the names that rules find it under."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping

from featherweight import operators
from featherweight.errors import RecipeError, listed
from featherweight.graph import Graph, Model, Node
from featherweight.operators.layers import is_named_after_layers, layer_names, shown_names
from featherweight.recipes.recipe import Recipe, Rule
from featherweight.recipes.toml import check_known
from featherweight.tflite.names import OP_CODES

# A model has thousands of operators: an error names those most like what was asked for.
_NAMES_IN_ERRORS = 10
# A special character of patterns between brackets stands for itself.
_ESCAPED = re.compile(r"\[([^]])\]")
_LITERAL = re.compile(r"(?:[^*?[]|\[[^]!]\])*")
_SPECIAL = frozenset("*?[")


def exactly(name: str) -> str:
    """Returns the pattern that matches a tensor of this name and nothing else, no layer either.

    >>> exactly("a[0]*")
    '[a][[]0][*]'
    """
    return "".join(f"[{c}]" if c in _SPECIAL or (not i and c.isalnum()) else c for i, c in enumerate(name))


def names_of(node: Node, graph: Graph, *, former: bool = False) -> tuple[str, ...]:
    """Returns the names under which rules find a node: its outputs and weight, whole and ``;``-separated.

    With `former`, they are those that tensors had before they were named after layers.
    """
    weight = operators.lookup(node.op).weight
    names = list(node.outputs)
    if weight is not None and weight < len(node.inputs):
        names.append(node.inputs[weight])
    if former:
        names = [old for name in names if name and (old := graph.tensors[name].former_name)]
    parts = [part for name in names for part in name.split(";")]
    return tuple(dict.fromkeys([*names, *parts]))


def matches(rule: Rule, node: Node, graph: Graph) -> bool:
    """True if the rule is about the node."""
    if rule.op is not None and rule.op != node.op:
        return False
    return rule.match == "*" or any(fnmatch.fnmatchcase(name, rule.match) for name in names_of(node, graph))


def resolve(recipe: Recipe, model: Model) -> dict[str, Rule]:
    """Maps every node (by name) to the first rule that matches it; nodes without one are left out.

    A rule that matches no tensor's name is about the layers of that name, as `inspect` and reports show them; so is one
    that is the name of a layer, in a model that is named after its layers. One that matches nothing at all is held
    against the names that tensors had before they were named so.

    Raises:
        RecipeError: if a rule with a pattern matches no node at all, or names an operator type that does not exist.
    """
    found, used, _ = _resolved(recipe, model)
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


def outdated_rules(recipe: Recipe, model: Model) -> tuple[str, ...]:
    """Returns a note on the rules that match former names of tensors only."""
    old = sorted(_resolved(recipe, model)[2])
    if not old:
        return ()
    said = listed(f"'{recipe.rules[index].match}'" for index in old)
    return (
        f"rules match by former names of tensors: {said}. Name layers as `featherweight inspect` lists them: the next "
        "release knows no others",
    )


def _resolved(recipe: Recipe, model: Model) -> tuple[dict[str, Rule], set[int], set[int]]:
    """Returns the first rule of each node, the indices of rules that match one, and those that do by a former name."""
    everything = frozenset(i for i, rule in enumerate(recipe.rules) if rule.match != "*")
    found, used = _matched(recipe, model)
    if unused := everything - used:
        found, used = _matched(recipe, model, unused)
    old: set[int] = set()
    if unused := everything - used:
        found, now = _matched(recipe, model, everything - used, unused)
        old, used = now - used, now | used
    return found, used, old


def _matched(
    recipe: Recipe,
    model: Model,
    by_layer: frozenset[int] = frozenset(),
    by_former: frozenset[int] = frozenset(),
) -> tuple[dict[str, Rule], set[int]]:
    """Returns the first rule of each node, and the indices of all rules that match one.

    Some find layers, or former names, too; plain words that are a layer's name are about the layer where the model is
    named after its layers.
    """
    found: dict[str, Rule] = {}
    used: set[int] = set()
    exact: dict[str, list[int]] = {}
    patterns: list[int] = []
    for index, rule in enumerate(recipe.rules):
        name = _only_name(rule.match)
        (patterns if name is None else exact.setdefault(name, [])).append(index)
    for graph in model.graphs:
        words = {i for i, rule in enumerate(recipe.rules) if not _SPECIAL & set(rule.match)} - by_layer
        words = words if words and is_named_after_layers(graph) else set[int]()
        layers, shown = (layer_names(graph), shown_names(graph)) if by_layer or words else ({}, {})
        for node in graph.nodes:
            named = {index for name in names_of(node, graph) for index in exact.get(name, ())} if exact else ()
            hits = [i for i in patterns if matches(recipe.rules[i], node, graph)]
            hits += [i for i in by_layer if _matches_layer(recipe.rules[i], node, layers[node.name], shown)]
            hits += [i for i in words if _matches_one(recipe.rules[i], node, [layers[node.name]])]
            if by_former:
                old = names_of(node, graph, former=True)
                hits += [i for i in by_former if _matches_one(recipe.rules[i], node, old)]
            hits = sorted([*hits, *(i for i in named if recipe.rules[i].op in (None, node.op))])
            used.update(hits)
            if hits:
                found[node.name] = recipe.rules[hits[0]]
    return found, used


def _matches_layer(rule: Rule, node: Node, layer: str, shown: Mapping[str, str]) -> bool:
    names = (layer, *(shown[name] for name in (*node.inputs, *node.outputs) if shown.get(name, "").startswith(layer)))
    return _matches_one(rule, node, names)


def _matches_one(rule: Rule, node: Node, names: Iterable[str]) -> bool:
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
