"""What the user asks for: rules that give operators a scheme for their weights and activations.

A recipe is an ordered list of rules; the first rule that matches an operator decides. It comes by name (the shipped
ones lie in ``recipes/``), from a TOML file, or from Python.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from featherweight import ops
from featherweight.errors import RecipeError, listed
from featherweight.graph import Graph, Model, Node

WEIGHT_DTYPES = ("float16", "int8", "int4")
ACTIVATION_DTYPES = ("int8", "int16")


@dataclass(frozen=True)
class Scheme:
    """How numbers are asked to be stored; `QuantParams` is what comes of it.

    Attributes:
        dtype: ``int8``, ``int16``, ``int4`` or ``float16``.
        symmetric: whether zero sits in the middle of the grid.
        per_channel: one scale per output channel instead of one per tensor, where the operator has an axis for it.
        block_size: one scale per so many consecutive elements of a dense layer's rows, or None.
        narrow_range: leaves out the lowest integer.
        range_method: how a range is chosen from what was measured; None takes the caller's choice.
    """

    dtype: str
    symmetric: bool = True
    per_channel: bool = True
    block_size: int | None = None
    narrow_range: bool = True
    range_method: str | None = None


@dataclass(frozen=True)
class Rule:
    """One line of a recipe. Without `weight` and `activation` it keeps what it matches float.

    Attributes:
        match: shell pattern for the operator's output or weight names (each ``;``-separated part counts).
        op: operator type, or None for any.
        weight_only: store the weights as integers but compute in float (a DEQUANTIZE before the operator).
    """

    match: str = "*"
    op: str | None = None
    weight: Scheme | None = None
    activation: Scheme | None = None
    weight_only: bool = False

    def __str__(self) -> str:
        """The rule as a message names it."""
        return f"match='{self.match}'" + (f", op='{self.op}'" if self.op else "")


@dataclass(frozen=True)
class Recipe:
    """An ordered list of rules under a name."""

    name: str
    rules: tuple[Rule, ...]
    description: str = ""

    @property
    def needs_ranges(self) -> bool:
        """True if some rule quantizes activations, so that ranges must be measured."""
        return any(rule.activation is not None for rule in self.rules)


def available() -> tuple[str, ...]:
    """Returns the names of the shipped recipes.

    >>> available()
    ('dynamic', 'float16', 'int16x8', 'int8', 'w4a8', 'weights4', 'weights8')
    """
    folder = resources.files("featherweight") / "recipes"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load(recipe: str | Path | Recipe) -> Recipe:
    """Returns a shipped recipe by name, or one from a TOML file; a `Recipe` is returned as it is.

    Raises:
        RecipeError: if there is no such recipe, or its file is not a recipe.
    """
    if isinstance(recipe, Recipe):
        return recipe
    name = str(recipe)
    try:
        if name in available():
            text = (resources.files("featherweight") / "recipes" / f"{name}.toml").read_text("utf-8")
        elif name.endswith(".toml"):
            text = Path(name).read_text("utf-8")
        else:
            raise RecipeError(
                f"Unknown recipe '{name}'. Choose one of {listed(available(), 20)}, or give the path of a .toml file."
            )
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"Recipe '{name}' can't be read: {error}. Compare it with a shipped recipe.") from error
    return _parse(table, name)


def _parse(table: dict[str, Any], name: str) -> Recipe:
    if unknown := sorted(set(table) - {"name", "description", "base", "rule"}):
        raise RecipeError(f"Recipe '{name}': unknown key {listed(unknown)} (allowed: base, description, name, rule).")
    rules = tuple(_parse_rule(row, f"Recipe '{name}', rule {i}") for i, row in enumerate(table.get("rule", ()), 1))
    if "base" in table:
        rules += load(table["base"]).rules
    if not rules:
        raise RecipeError(f"Recipe '{name}' has no rules. Add a [[rule]], or a base such as \"int8\".")
    return Recipe(table.get("name", Path(name).stem), rules, table.get("description", ""))


def _parse_rule(row: dict[str, Any], where: str) -> Rule:
    if unknown := sorted(set(row) - {"match", "op", "weight", "activation", "weight_only"}):
        raise RecipeError(
            f"{where}: unknown key {listed(unknown)} (allowed: activation, match, op, weight, weight_only)."
        )
    weight = _parse_scheme(row.get("weight"), WEIGHT_DTYPES, f"{where}, weight")
    activation = _parse_scheme(row.get("activation"), ACTIVATION_DTYPES, f"{where}, activation")
    if activation is not None:
        is_int16 = activation.dtype == "int16"
        activation = replace(activation, symmetric=is_int16, narrow_range=False, per_channel=False)
    if activation is not None and (row.get("weight_only") or (weight and weight.dtype == "float16")):
        raise RecipeError(
            f"{where}: integer activations need integer weights. Drop `activation`, or use weight = 'int8'."
        )
    return Rule(row.get("match", "*"), row.get("op"), weight, activation, bool(row.get("weight_only", False)))


def _parse_scheme(value: Any, allowed: tuple[str, ...], where: str) -> Scheme | None:
    if value is None or value == "float32":
        return None
    table: dict[str, Any] = {"dtype": value} if isinstance(value, str) else value
    fields = ("dtype", "per_channel", "block_size", "range_method")
    unknown = sorted(set(table) - set(fields)) if isinstance(table, dict) else [repr(value)]
    if unknown:
        raise RecipeError(
            f"{where}: {listed(unknown)} is not understood (allowed: a dtype, or a table of {listed(fields)})."
        )
    if table.get("dtype") not in allowed:
        raise RecipeError(f"{where}: dtype {table.get('dtype')!r} is not one of {listed((*allowed, 'float32'))}.")
    return Scheme(**table)


def with_rules(recipe: Recipe, rules: Iterable[Rule]) -> Recipe:
    """Returns the recipe with rules put before its own."""
    return replace(recipe, rules=(*rules, *recipe.rules))


def names_of(node: Node, graph: Graph) -> tuple[str, ...]:
    """Returns the names under which rules find a node: its outputs and weight, whole and ``;``-separated."""
    weight = ops.lookup(node.op).weight
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

    Raises:
        RecipeError: if a rule with a pattern or an operator type matches no node at all.
    """
    found: dict[str, Rule] = {}
    used: set[int] = set()
    for graph in model.graphs:
        for node in graph.nodes:
            hits = [i for i, rule in enumerate(recipe.rules) if matches(rule, node, graph)]
            used.update(hits)
            if hits:
                found[node.name] = recipe.rules[hits[0]]
    for index, rule in enumerate(recipe.rules):
        if index not in used and rule.match != "*":
            names = [node.name for node in model.main.nodes]
            raise RecipeError(
                f"Recipe '{recipe.name}': rule {index + 1} ({rule}) matches no operator. The model's operators are "
                f"named {listed(names, 5)}; `featherweight inspect` lists them."
            )
    return found
