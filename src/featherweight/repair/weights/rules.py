"""Other rules for some weights of a candidate, whose ranges of activations stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from featherweight.recipes.recipe import Rule
from featherweight.repair.candidate import Candidate, Setting, planned


def started_anew(candidate: Candidate) -> Candidate:
    """Returns the candidate before repairs of weights have chosen integers."""
    chosen = candidate.chosen
    return candidate if chosen is None else replace(candidate, model=chosen.model, plan=chosen.plan, chosen=None)


def with_rules(setting: Setting, base: Candidate, rules: Sequence[Rule]) -> Candidate:
    """Returns the candidate planned anew with more rules, which come first; parameters of activations stay."""
    recipe, tensors = replace(base.recipe, rules=(*rules, *base.recipe.rules)), base.model.tensors
    given = {n: p for n, p in base.plan.params.items() if n in tensors and not tensors[n].is_constant}
    found = planned(setting, base.model, recipe, stats=base.stats, methods=base.methods, given=given or None)
    return replace(found, notes=base.notes)
