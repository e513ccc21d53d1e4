"""Planning with repairs: samples are divided, each repair is tried, and what stays is a float graph with its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from featherweight.errors import RecipeError
from featherweight.graph import Model
from featherweight.ptq import plan as plans
from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import Repair, Setting, planned
from featherweight.repair.improve import AUTO, check_improvable, divided, improved, with_notes
from featherweight.tasks.requirements import require_change


def repaired(
    setting: Setting,
    model: Model,
    reference: Model,
    recipe: recipes.Recipe,
    repairs: Sequence[Repair],
    parts: Mapping[int, tuple[Any, Any]],
    limit: int | None,
    *,
    is_auto: bool,
) -> tuple[Model, plans.Plan, Sequence[Any]]:
    """Returns the repaired float graph with its plan, and the samples that judged it."""
    check_improvable(model)
    if is_auto and not parts:
        raise RecipeError(
            f"improve '{AUTO}' keeps what helps on samples: pass some of the training split (calibration=…, "
            "--calibration DATA), or name the repairs."
        )
    if parts:
        samples, held_out = divided(parts[0][1], model, limit, is_auto=is_auto)
        setting = replace(setting, samples=samples, held_out=held_out)
    candidate = planned(setting, model, recipe)
    require_change(candidate.plan)
    candidate, attempts = improved(setting, candidate, reference, repairs, is_auto=is_auto)
    candidate = with_notes(setting, candidate, reference, attempts)
    return candidate.model, candidate.plan, setting.held_out
