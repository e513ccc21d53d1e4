"""The parts of a model that a search decides about, and the forms that each can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from featherweight import operators
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model, producers
from featherweight.ptq.forms.nodes import touches_float, weight_position
from featherweight.recipes.matching import exactly
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.targets.target import Target

FLOAT = "float32"


class Form(NamedTuple):
    """What is asked of weights and activations, as types; `grid` is that of `Scheme`: fewer bytes once compressed."""

    weight: str | None
    activation: str | None
    grid: str | None = None

    @property
    def steps(self) -> str | None:
        """The type whose steps the weights have."""
        return self.grid or self.weight


# By the name of the recipe that asks for it everywhere.
FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "int8": Form("int8", "int8"),
        "w4a8": Form("int4", "int8"),
        "grid4": Form("int8", "int8", "int4"),
        "int16x8": Form("int8", "int16"),
        "dynamic": Form("int8", None),
        "weights4": Form("int4", None),
        FLOAT: Form(None, None),
    }
)


@dataclass(frozen=True)
class Part:
    """An operator with weights, and the ones without that follow it: they take its type of activations.

    Attributes:
        name: of the operator with weights, or ``inputs``: what comes before any of them.
        operators: the names of all.
        weight_elements: the number of its weights.
    """

    name: str
    operators: tuple[str, ...]
    weight_elements: int


def parts_of(model: Model) -> tuple[Part, ...]:
    """Returns the parts of a float model's main graph, in order; together they are all that computes with floats."""
    graph, made = model.main, producers(model.main)
    owner: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for node in graph.nodes:
        if not touches_float(node, graph) or not node.outputs:
            continue
        position = weight_position(node, graph) if operators.lookup(node.op).weight is not None else None
        # (The part that is nearest to the output decides: a sum of two branches belongs to the later one.)
        before = [owner[made[name].name] for name in node.inputs if name in made and made[name].name in owner]
        part = node.name if position is not None else max(before, key=list(members).index, default="inputs")
        owner[node.name] = part
        members.setdefault(part, []).append(node.name)
        if position is not None:
            sizes[part] = graph.tensors[node.inputs[position]].elements
    return tuple(Part(name, tuple(names), sizes.get(name, 0)) for name, names in members.items())


def allowed_forms(part: Part, model: Model, target: Target, forms: Sequence[str]) -> tuple[str, ...]:
    """Returns the forms of those wished that the target runs the part's weighted operator in."""
    node = next(node for node in model.main.nodes if node.name == part.operators[0])
    found: list[str] = []
    for form in forms:
        weight, activation, steps = FORMS[form].weight, FORMS[form].activation, FORMS[form].steps
        if form == FLOAT:
            runs = target.runs(node.op, FLOAT)
        elif not part.weight_elements:
            runs = activation is not None and steps == "int8" and target.runs(node.op, activation)
        else:
            runs = target.runs(node.op, f"{activation or FLOAT}*{weight}")
            runs = runs and not (steps == "int4" and operators.lookup(node.op).weight_kind == "depthwise")
        found += [form] if runs else []
    return tuple(found)


def check_forms(forms: Sequence[str]) -> tuple[str, ...]:
    """Returns forms once each is known.

    Raises:
        RecipeError: for a form that there is not, or no form at all.
    """
    for form in forms:
        if form not in FORMS:
            raise RecipeError(f"search: '{form}' is no form (allowed: {listed(FORMS)}).")
    if not forms:
        raise RecipeError(f"search: no forms to choose from (allowed: {listed(FORMS)}).")
    return tuple(dict.fromkeys(forms))


def recipe_of(choice: Mapping[str, str], parts: Sequence[Part], name: str = "search") -> Recipe:
    """Returns the recipe that gives each part its form, and leaves the others float."""
    rules: list[Rule] = []
    for part in parts:
        weight, activation, grid = FORMS[choice.get(part.name, FLOAT)]
        if weight is None:
            continue
        scheme = None if activation is None else Scheme(activation, per_channel=False)
        rules += [Rule(exactly(each), weight=Scheme(weight, grid=grid), activation=scheme) for each in part.operators]
    return Recipe(name, (*rules, Rule()))
