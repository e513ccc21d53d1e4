"""The forms that operators compute in, as planning decides and revises them, with the reasons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from featherweight.errors import listed
from featherweight.graph import Graph, Node
from featherweight.recipes.recipe import Rule
from featherweight.targets.target import Target

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


def reasons_said(forms: Forms) -> list[str]:
    """Returns what rules say of the operators whose weights are stored as they wish, once for each reason."""
    found: dict[str, list[str]] = {}
    for name, form in forms.forms.items():
        rule = forms.rules.get(name)
        if rule is not None and rule.reason and rule.weight is not None:
            dtype = form.replace("+", "*").rpartition("*")[2]
            if dtype == rule.weight.dtype:
                found.setdefault(rule.reason, []).append(f"'{name}'")
    return [f"{reason}: {listed(names, 3)}" for reason, names in found.items()]


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


def can_free(result: Forms, node: Node, graph: Graph, target: Target) -> bool:
    """True where an operator can leave integers without its weights becoming float."""
    return "*" not in result.forms[node.name] or freed_form(result, node, graph, target) != "float32"
