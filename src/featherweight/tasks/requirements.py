"""What a plan and a quantized model must be, before they are handed out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from featherweight.encoded_files.store import store_encoded
from featherweight.errors import RecipeError, TargetViolation, listed
from featherweight.graph import Model
from featherweight.ptq import plan as plans
from featherweight.recipes import recipe as recipes
from featherweight.report.summary import FileSize
from featherweight.targets import target as targets

if TYPE_CHECKING:
    from featherweight.tasks.quantize import Quantized

# How weights are stored: as the operators read them, or encoded, for runtimes that decode them.
STORES = DENSE, DECODE = ("dense", "decode")


def unchanged(plan: plans.Plan) -> str | None:
    """Returns that a plan leaves everything float, and why; None where it does not."""
    if plan.forms or plan.dropped:
        return None
    reasons = Counter(reason.partition(": ")[2] for reason in plan.kept_float.values())
    found = [f"{reason} ({count} operators)" if count > 1 else reason for reason, count in reasons.most_common()]
    why = listed(found, 3) if found else "it computes nothing with real numbers"
    return f"Recipe '{plan.recipe}' on target '{plan.target}' changes nothing of this model: {why}"


def require_change(plan: plans.Plan) -> None:
    """Raises RecipeError if a plan leaves everything float: what it would return is the model that was given."""
    if why := unchanged(plan):
        raise RecipeError(f"{why}. Choose another recipe or target, or deliver the float model as it is.")


def require_integer(model: Model, plan: plans.Plan) -> None:
    """Raises TargetViolation if an operator computes in float, naming each, with the plan's reason."""
    found: list[str] = []
    for graph in model.graphs:
        for node in graph.nodes:
            form = targets.form_of(node, graph)
            if form is None and (targets.is_border(node, graph) or not targets.converts(node)):
                continue
            if form is None or form.startswith("float32"):
                reason = plan.kept_float.get(node.name) or (
                    "converts between float and integer operators" if form is None else f"computes in {form}"
                )
                found.append(f"{node.op} '{node.name}' ({reason.removeprefix(f'{node.op}: ')})")
    if found:
        raise TargetViolation(
            f"strict: {len(found)} operators are not integer: {listed(found, 20)}. Choose another recipe or target, "
            "change these layers, or leave `strict` out."
        )


def stored_as(store: str, quantized: Quantized, target: targets.Target) -> Quantized:
    """Returns what was quantized with its weights stored as asked for; the report says what that brings and costs."""
    if store == DENSE:
        return quantized
    encoded = store_encoded(quantized.model, target=target)
    notes = (*quantized.report.notes, *encoded.notes)
    report = replace(quantized.report, after=FileSize(encoded.model), notes=notes)
    return replace(quantized, model=encoded.model, report=report, encoded=encoded)


def require_undecided(plan: plans.Plan, io: str | None, ranges: str, *, integers: bool, improve: bool) -> None:
    """Raises RecipeError for wishes that a plan has decided otherwise, or for good."""
    wishes = (("ranges", ranges != "minmax"), ("integers", integers), ("improve", improve))
    idle = [name for name, wish in wishes if wish]
    idle += ["io"] if io not in (None, plan.io) else []
    if idle:
        raise RecipeError(
            f"quantize: {listed(idle)} can't be chosen beside plan=, which decides it (io is {plan.io}). Leave it out, "
            "or plan anew."
        )


def require_effect(recipe: recipes.Recipe, *, is_planned: bool, is_repaired: bool, is_open: bool) -> None:
    """Raises RecipeError for statistics that would not be used."""
    reasons = (
        (is_planned, "a plan"),
        (is_repaired, "improve"),
        (not recipe.needs_ranges, f"recipe '{recipe.name}', which measures none"),
        (is_open, "ranges 'auto', which calibrates with a part of the samples"),
    )
    if why := [reason for holds, reason in reasons if holds]:
        raise RecipeError(f"quantize: stats have no effect beside {why[0]}. Leave them out.")


def require_repairs(folder: str | Path | None, repairs: Sequence[object]) -> None:
    """Raises RecipeError for a folder to keep repairs in where none are to be made."""
    if folder is not None and not repairs:
        raise RecipeError(
            "quantize: folder keeps what comes of repairs, and none are asked for. Name some (improve='auto'), or "
            "leave it out."
        )
