"""Chooses activation ranges one by one: by the error at the operators that read them, confirmed at the output."""

from __future__ import annotations

import math
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
from featherweight.repair.candidate import AUTO_RANGES, Candidate, Repair, Setting, digest, planned, with_stored
from featherweight.repair.judge import Gain, Judge, gain
from featherweight.repair.readers import Group, groups_of, reading_errors, rounded_runs
from featherweight.runtime.progress import track

MINMAX = "minmax"
# What each tensor's range may be chosen by: nothing clipped, blunt fractions of the extremes, the tensor's own values
# (least squared error, least divergence, tails of a thousandth to a hundred-thousandth).
METHODS = (
    *(MINMAX, "clip:0.95", "clip:0.9", "clip:0.8", "clip:0.7", "clip:0.6", "clip:0.5", "clip:0.35", "clip:0.2"),
    *("mse", "entropy", "percentile:99.999", "percentile:99.99", "percentile:99.9"),
)
# What the ranges of all tensors may be chosen by, where that is better at the output than a choice for each.
WHOLE_METHODS = ("mse", "percentile:99.999", "percentile:99.99", "entropy")
# Runs that tensors are chosen on: their values are many.
_MOST_RUNS = 8
# A grid must take this part of the error at its readers away before it is tried at the output.
_LEAST_REDUCTION = 0.05
# Tensors that are confirmed at the output, those first where most is to be won; the others keep their extremes.
_MOST_CONFIRMED = 64
# Several choices are compared with one: a gain is sure beyond so many of its standard errors, of few samples more. What
# clips may lose more on data unlike the samples, which those held out resemble: a smaller gain is not worth that.
_SURE, _LEAST_GAIN_DB = 3.0, 0.5
# Of fewer different samples, differences say nothing.
_LEAST_DIFFERENT = 4
# Of all tensors that do better alone, these parts are tried together: what clips much in sum may do harm.
_PARTS = (1, 2, 4, 8)
# Held-out samples that reach so many times as far as those that were calibrated with disagree with them.
_MUCH_FARTHER = 1.5


@dataclass(frozen=True, eq=False)
class _Choice:
    """One way to choose all ranges: what it is called, the methods of tensors that have one of their own, the plan."""

    name: str
    methods: Mapping[str, str]
    plan: Plan


def choose_ranges(setting: Setting, candidate: Candidate) -> Candidate | str:
    """Returns the candidate with the activation ranges that do best on held-out samples, or why they stay.

    For each group of tensors on one grid, the ranges of `METHODS` are compared by the error at the operators that read
    it, computed in float from exact values and from those on the grid. The best stands if it also lessens the error at
    the model's output when this group alone is rounded. Then the methods of `WHOLE_METHODS` for all tensors, all of
    these choices, the half, a quarter and an eighth of them, by themselves and beside the best of those methods, are
    compared with the ranges so far at the output of the quantized model, in pairs; the best is kept where it is surely
    better. Tensors of 16 bits, and those whose method a recipe names, are left alone.

    Raises:
        DataError: for samples that can't be used.
    """
    if candidate.stats is None:
        return f"recipe '{candidate.recipe.name}' measures no ranges"
    if len({digest(feed) for feed in setting.held_out}) < _LEAST_DIFFERENT:
        count = len(setting.samples) + len(setting.held_out)
        different = len({digest(feed) for feed in (*setting.samples, *setting.held_out)})
        found = f"{count} samples" if count == different else f"{count} samples, {different} of them different,"
        return f"{found} are too few to choose ranges by: the extremes stand"
    stats = _with_histograms(setting, candidate)
    recipe = opened(candidate.recipe, setting.ranges)
    plans = {method: _plan(setting, candidate, stats, recipe, method) for method in METHODS}
    exact = exact_values(candidate.model, [dict(feed) for feed in setting.held_out], limit=_MOST_RUNS)
    usual = "the extremes" if setting.ranges in (AUTO_RANGES, MINMAX) else f"'{setting.ranges}'"
    disagreeing = _disagreeing(stats, exact)
    judge = Judge(candidate.model, setting.held_out)
    before = judge.levels(rewrite(candidate.model, candidate.plan))
    tried: list[tuple[Gain, _Choice]] = []

    def attempt(name: str, methods: Mapping[str, str], plan: Plan | None = None) -> None:
        plan = plan or _plan(setting, candidate, stats, recipe, MINMAX, methods)
        found = gain(before, judge.levels(rewrite(candidate.model, plan)))
        tried.append((found, _Choice(name, methods, plan)))

    if plans[MINMAX].params != candidate.plan.params:
        attempt(f"'{MINMAX}' for all tensors", {}, plans[MINMAX])
    for method in WHOLE_METHODS:
        given, base = plans[method].params, plans[MINMAX].params
        differing = {name for name, params in given.items() if params != base.get(name)}
        open_ones = {name for name in differing if given[name].dtype == "int8"}
        if open_ones:
            plan = plans[method] if open_ones == differing else None
            attempt(f"'{method}' for all tensors", dict.fromkeys(sorted(open_ones), method), plan)
    start = max(tried, key=lambda each: each[0].db, default=None)
    better = _by_readers(setting, plans, candidate.model.main, exact)
    parts = [better[: len(better) // part] for part in _PARTS if len(better) >= part]
    own = [{name: method for group, method in part for name in group.names} for part in parts]
    for methods in own:
        number = f"{len(methods)} tensors" if len(methods) > 1 else "one tensor"
        attempt(f"{number} by methods chosen for each", methods)
    if start is not None and start[0].db > 0:
        for methods in own:
            attempt(
                f"{len(methods)} by methods chosen for each beside {start[1].name}", {**start[1].methods, **methods}
            )
    if not tried:
        return f"no method gives other ranges than {usual}{disagreeing}"
    best, chosen = max(tried, key=lambda each: each[0].db)
    found = f"on {len(before)} held-out samples ({', '.join(f'{choice.name} {each}' for each, choice in tried)})"
    if best.db <= max(_LEAST_GAIN_DB, _SURE * (1 + 2 / (len(before) - 1)) * best.error_db):
        return f"{usual} stand: nothing is surely better {found}{disagreeing}"
    note = (
        f"ranges: {chosen.name} ({_counted(chosen.methods)}), {best} at the output against {usual} {found}{disagreeing}"
    )
    changed = replace(candidate, stats=stats, plan=chosen.plan, methods=chosen.methods)
    return changed.with_note(note)


def with_all_samples(setting: Setting, candidate: Candidate) -> Candidate:
    """Returns the candidate planned with what held-out samples hold, too; weights stay as repairs have chosen them.

    Where repairs have chosen parameters of activations, those stand, and nothing changes. Nor where held-out samples
    lose by it, which is noted: ranges that come out a little different can move an operator to another form.
    """
    if candidate.stats is None:
        return candidate
    exact, recipe, methods = candidate.model, candidate.recipe, candidate.methods
    if candidate.chosen is not None:
        exact = candidate.chosen.model
        usual = planned(setting, exact, recipe, stats=candidate.stats, methods=methods).plan.params
        given = (name for name, tensor in exact.tensors.items() if not tensor.is_constant)
        if any(usual.get(name) != candidate.plan.params.get(name) for name in given):
            return candidate
    histograms = any(each.histogram is not None for each in candidate.stats.tensors.values())
    others = calibrate(exact, setting.held_out, histograms=histograms, progress=setting.progress)
    found = planned(setting, candidate.model, recipe, stats=candidate.stats.merge(others), methods=methods)
    if candidate.chosen is not None:
        found = with_stored(found, candidate)
    judge = Judge(exact, setting.held_out)
    brought = gain(*(judge.levels(rewrite(each.model, each.plan)) for each in (candidate, found)))
    if brought.is_loss:
        return candidate.with_note(
            f"improve: ranges are those of {len(setting.samples)} samples: with the {len(setting.held_out)} held-out "
            f"ones, {brought} at the output"
        )
    return replace(found, notes=candidate.notes, chosen=candidate.chosen)


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


def _by_readers(setting: Setting, plans: Mapping[str, Plan], graph: Graph, exact: Exact) -> list[tuple[Group, str]]:
    """Returns the groups of tensors that do better by a method than by their extremes, with it, what wins most first.

    They do better at their readers, and at the output.
    """
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
    confirmed: list[tuple[float, Group, str]] = []
    for _, group, method in found[:_MOST_CONFIRMED]:
        won = _won(exact, group, [plans[each].params[group.names[0]] for each in (MINMAX, method)])
        if won > 0:
            confirmed.append((won, group, method))
    confirmed.sort(key=lambda each: -each[0])
    return [(group, method) for _, group, method in confirmed]


def _grids(group: Group, plans: Mapping[str, Plan]) -> dict[QuantParams, str]:
    """Returns the different parameters that methods give a group, each with the first that does, extremes first."""
    found: dict[QuantParams, str] = {}
    for method in METHODS:
        given = {plans[method].params.get(name) for name in group.names}
        params = given.pop()
        if not given and params is not None and params.dtype == "int8":
            found.setdefault(params, method)
    return found if MINMAX in found.values() else {}


def _won(exact: Exact, group: Group, grids: Sequence[QuantParams]) -> float:
    """Returns how much less noise to signal the second grid makes at the outputs than the first, all else exact."""
    try:
        with Carrier(exact, dict.fromkeys(group.names)) as carrier:
            first, second = (carrier.level(rounded_runs(exact, group, params)).ratio for params in grids)
    except FeatherweightError:
        return 0.0
    return first - second if math.isfinite(first) and math.isfinite(second) else 0.0


def _counted(methods: Mapping[str, str]) -> str:
    counts = Counter(methods.values())
    each = [f"{count} by {method}" for method, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    return f"{', '.join(each)}; all others by their extremes"


def _disagreeing(stats: Stats, exact: Exact) -> str:
    """Returns words on tensors that reach much farther in held-out samples than in those calibrated with, if any do."""
    farther: dict[str, float] = {}
    for name, runs in exact.values.items():
        known = stats.tensors.get(name)
        if known is None or not known.count or known.is_infinite or known.is_masked:
            continue
        largest = max((float(np.abs(values).max(initial=0)) for values in runs), default=0.0)
        reached = max(-known.low, known.high)
        if reached > 0 and math.isfinite(largest) and largest > _MUCH_FARTHER * reached:
            farther[name] = largest / reached
    if not farther:
        return ""
    worst = max(farther, key=lambda name: farther[name])
    return (
        f"; samples disagree: in those held out, {len(farther)} tensors reach more than {_MUCH_FARTHER} times as far "
        f"as in the others ('{worst}' {farther[worst]:.3g} times): calibrate with more, or more typical, samples"
    )


RANGES = Repair("ranges", "chooses activation ranges by the error at the operators that read them", choose_ranges, 2)
