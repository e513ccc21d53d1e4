"""Chooses activation ranges one by one: by the error at the operators that read them, confirmed at the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featherweight.calibration import Stats, calibrate
from featherweight.diagnosis.exact import Carrier, Exact, exact_values
from featherweight.errors import FeatherweightError
from featherweight.graph import Graph
from featherweight.graph.numerics import QuantParams
from featherweight.ptq import planning
from featherweight.ptq.plan import Plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Recipe
from featherweight.repair.candidate import AUTO_RANGES, Candidate, Repair, Setting
from featherweight.repair.judge import Judge, gain
from featherweight.repair.readers import Group, groups_of, reading_errors, rounded_runs
from featherweight.runtime.progress import track

MINMAX = "minmax"
# What each tensor's range may be chosen by: nothing clipped, blunt fractions of the extremes, the least squared error
# of the tensor's own values, and tails of a thousandth to a hundred-thousandth.
METHODS = (
    *(MINMAX, "clip:0.95", "clip:0.9", "clip:0.8", "clip:0.7", "clip:0.6", "clip:0.5", "clip:0.35", "clip:0.2"),
    *("mse", "percentile:99.999", "percentile:99.99", "percentile:99.9"),
)
# What the ranges of all tensors may be chosen by, where that is better at the output than a choice for each.
WHOLE_METHODS = ("mse", "percentile:99.999", "percentile:99.99", "entropy")
# Runs that tensors are chosen on: their values are many.
_MOST_RUNS = 8
# A grid must take this part of the error at its readers away before it is tried at the output.
_LEAST_REDUCTION = 0.05
# Tensors that are confirmed at the output, those first where most is to be won; the others keep their extremes.
_MOST_CONFIRMED = 64
# Several choices are compared with one: a gain is sure beyond so many of its standard errors.
_SURE = 3.0


@dataclass(frozen=True, eq=False)
class _Choice:
    """One way to choose all ranges: its name, the method of each tensor that is not the rest's, and the plan."""

    name: str
    methods: Mapping[str, str]
    plan: Plan


def choose_ranges(setting: Setting, candidate: Candidate) -> Candidate | str:
    """Returns the candidate with the activation ranges that do best on held-out samples, or why they stay.

    For each group of tensors on one grid, the ranges of `METHODS` are compared by the error at the operators that read
    it, computed in float from exact values and from those on the grid. The best stands if it also lessens the error at
    the model's output when this group alone is rounded. Then this choice, and the methods of `WHOLE_METHODS` for all
    tensors, are compared with the extremes at the output of the quantized model, in pairs; what is surely better by
    more than three standard errors is kept. Tensors of 16 bits, and those whose method a recipe names, are left alone.

    Raises:
        DataError: for samples that can't be used.
    """
    if candidate.stats is None:
        return f"recipe '{candidate.recipe.name}' measures no ranges"
    if len(setting.held_out) < 2:
        return f"{len(setting.samples)} samples are too few to choose ranges by: the extremes stand"
    stats = _with_histograms(setting, candidate)
    recipe = opened(candidate.recipe, setting.ranges)
    plans = {method: _plan(setting, candidate, stats, recipe, method) for method in (*METHODS, "entropy")}
    exact = exact_values(candidate.model, [dict(feed) for feed in setting.held_out], limit=_MOST_RUNS)
    methods = _by_readers(setting, plans, candidate.model.main, exact)
    usual = "the extremes" if setting.ranges in (AUTO_RANGES, MINMAX) else f"'{setting.ranges}'"
    choices = [
        _Choice(method, dict.fromkeys(stats.tensors, method), plans[method])
        for method in (MINMAX, *WHOLE_METHODS)
        if plans[method].params != candidate.plan.params
    ]
    if methods:
        choices.append(_Choice("each", methods, _plan(setting, candidate, stats, recipe, MINMAX, methods)))
    if not choices:
        return f"no method gives other ranges than {usual}"
    judge = Judge(candidate.model, setting.held_out)
    before = judge.levels(rewrite(candidate.model, candidate.plan))
    gains = [gain(before, judge.levels(rewrite(candidate.model, choice.plan))) for choice in choices]
    best = max(range(len(choices)), key=lambda index: gains[index].db)
    others = ", ".join(f"{_title(choice)} {each}" for choice, each in zip(choices, gains, strict=True))
    if gains[best].db <= max(0.0, _SURE * gains[best].error_db):
        return f"{usual} stand: nothing is surely better on {len(before)} held-out samples ({others})"
    chosen = choices[best]
    note = (
        f"ranges: {_said(chosen)}, chosen on {len(before)} held-out samples: {gains[best]} at the output against "
        f"{usual} ({others})"
    )
    changed = replace(candidate, stats=stats, plan=chosen.plan, methods=chosen.methods)
    return changed.with_note(note)


def opened(recipe: Recipe, ranges: str) -> Recipe:
    """Returns a recipe whose rules leave open what is to be chosen: rules of `auto`, or all that name no method."""
    schemes = [rule.activation for rule in recipe.rules]
    is_named = any(scheme is not None and scheme.ranges == AUTO_RANGES for scheme in schemes)
    others = ranges if is_named and ranges != AUTO_RANGES else None
    rules = tuple(
        rule
        if scheme is None
        else replace(
            rule, activation=replace(scheme, ranges=None if scheme.ranges == AUTO_RANGES else scheme.ranges or others)
        )
        for rule, scheme in zip(recipe.rules, schemes, strict=True)
    )
    return replace(recipe, rules=rules)


def _with_histograms(setting: Setting, candidate: Candidate) -> Stats:
    stats = candidate.stats
    if stats is not None and all(each.histogram is not None or not each.count for each in stats.tensors.values()):
        return stats
    return calibrate(candidate.model, setting.samples, histograms=True, progress=setting.progress)


def _plan(
    setting: Setting,
    candidate: Candidate,
    stats: Stats,
    recipe: Recipe,
    ranges: str,
    methods: Mapping[str, str] | None = None,
) -> Plan:
    return planning.plan(
        candidate.model,
        stats,
        recipe,
        setting.target,
        io=setting.io,
        ranges=ranges,
        methods=methods or {},
        integers=setting.integers,
    )


def _by_readers(setting: Setting, plans: Mapping[str, Plan], graph: Graph, exact: Exact) -> dict[str, str]:
    """Returns the method of each tensor that does better by it than by its extremes, at its readers and the output."""
    base = plans[MINMAX]
    names = [name for name, params in base.params.items() if params.dtype == "int8" and name in exact.values]
    found: list[tuple[float, Group, str]] = []
    groups = groups_of(base, graph, names)
    for group in track(groups, "choosing ranges", total=len(groups), enabled=setting.progress):
        grids = _grids(group, plans)
        if len(grids) < 2:
            continue
        try:
            errors = reading_errors(exact, group, list(grids), graph.outputs)
        except FeatherweightError:  # an operator that does not run alone: its tensors keep their extremes
            continue
        best = int(np.argmin(errors))
        if errors[best] < (1 - _LEAST_REDUCTION) * errors[0]:
            found.append((errors[0] - errors[best], group, list(grids.values())[best]))
    found.sort(key=lambda each: -each[0])
    methods: dict[str, str] = {}
    for _, group, method in found[:_MOST_CONFIRMED]:
        grids = [plans[each].params[group.names[0]] for each in (MINMAX, method)]
        if _is_confirmed(exact, group, grids):
            methods |= dict.fromkeys(group.names, method)
    return methods


def _grids(group: Group, plans: Mapping[str, Plan]) -> dict[QuantParams, str]:
    """Returns the different parameters that methods give a group, each with the first that does, extremes first."""
    found: dict[QuantParams, str] = {}
    for method in METHODS:
        given = {plans[method].params.get(name) for name in group.names}
        params = given.pop()
        if not given and params is not None and params.dtype == "int8":
            found.setdefault(params, method)
    return found if MINMAX in found.values() else {}


def _is_confirmed(exact: Exact, group: Group, grids: Sequence[QuantParams]) -> bool:
    """True where the second grid makes less error at the model's outputs than the first, all else being exact."""
    try:
        with Carrier(exact, dict.fromkeys(group.names)) as carrier:
            ratios = [carrier.level(rounded_runs(exact, group, params)).ratio for params in grids]
    except FeatherweightError:
        return False
    return ratios[1] < ratios[0]


def _title(choice: _Choice) -> str:
    return "a choice for each tensor" if choice.name == "each" else f"'{choice.name}' for all"


def _said(choice: _Choice) -> str:
    if choice.name != "each":
        return f"'{choice.name}' for all tensors"
    counts = Counter(choice.methods.values())
    listed = ", ".join(f"{count} {method}" for method, count in sorted(counts.items(), key=lambda each: -each[1]))
    return f"{len(choice.methods)} tensors otherwise than by their extremes ({listed})"


RANGES = Repair("ranges", "chooses activation ranges by the error at the operators that read them", choose_ranges, 2)
