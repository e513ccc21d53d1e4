"""What a repair takes and gives: a float graph with the plan that the one rewriter carries out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from featherweight.calibration import Stats, calibrate, needs_histogram
from featherweight.graph import Model
from featherweight.graph.numerics import QuantParams
from featherweight.ptq import planning
from featherweight.ptq.plan import Plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Recipe, Scheme
from featherweight.repair.weights.layerwise import Choices
from featherweight.targets.target import Target

AUTO_RANGES = "auto"
Arrays = Mapping[str, np.ndarray]
"""What one run takes: public input name → array with a batch dimension."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What all repairs of one model share.

    Attributes:
        io, ranges, integers, float_joins: as `planning.plan` takes them.
        samples: feeds that repairs may choose by.
        held_out: feeds that only judge what a repair brought.
    """

    target: Target
    samples: tuple[Arrays, ...]
    held_out: tuple[Arrays, ...]
    io: str | None = None
    ranges: str = "minmax"
    integers: bool = False
    progress: bool = False
    float_joins: bool | None = None


class Chosen(NamedTuple):
    """What weight repairs have chosen so far, and the float graph and plan that they start from each time."""

    model: Model
    plan: Plan
    choices: Choices


@dataclass(frozen=True, eq=False)
class Candidate:
    """A float graph with what is decided about it.

    Attributes:
        stats: of that very graph.
        notes: what the plan will say beside its own notes.
        methods: tensor → range method, where one was chosen for it; plan anew with them.
        chosen: what repairs of weights have done; they come last, after those of the graph and of ranges.
    """

    model: Model
    recipe: Recipe
    stats: Stats | None
    plan: Plan
    notes: tuple[str, ...] = ()
    methods: Mapping[str, str] = field(default_factory=dict[str, str])
    chosen: Chosen | None = None

    def with_note(self, note: str) -> Candidate:
        """Returns the candidate with one more note, which the plan will hold."""
        return replace(self, notes=(*self.notes, note))


@dataclass(frozen=True)
class Repair:
    """One way to lose less.

    Attributes:
        name: what users call it.
        description: what it does, in half a sentence.
        apply: returns a changed candidate, or why there is nothing that it can do. It raises DataError only for data
            that no repair could use.
        costs: a rough order of what it takes: 1 for seconds, 2 for a minute, 3 for many minutes, 4 for training, which
            `auto` leaves out.
        saves: True of what makes a file smaller rather than better: `auto` leaves it out.
    """

    name: str
    description: str
    apply: Callable[[Setting, Candidate], Candidate | str]
    costs: int = 1
    saves: bool = False


def planned(
    setting: Setting,
    model: Model,
    recipe: Recipe,
    *,
    stats: Stats | None = None,
    methods: Mapping[str, str] | None = None,
    given: Mapping[str, QuantParams] | None = None,
) -> Candidate:
    """Returns a float graph with a new plan; it is calibrated where the recipe needs that and no `stats` are given.

    Ranges that are to be chosen (`auto`) are the extremes until the repair of that name has chosen them.

    Args:
        setting: what all repairs share.
        model: the float graph.
        recipe: may leave ranges to be chosen.
        stats: what calibration measured of that graph.
        methods: tensor → range method, as a candidate has chosen them.
        given: parameters of activations that other repairs chose, and that stand.

    Raises:
        DataError, RecipeError: as `calibrate` and `planning.plan`.
    """
    if stats is None and recipe.needs_ranges:
        named = [rule.activation.ranges for rule in recipe.rules if rule.activation and rule.activation.ranges]
        histograms = any(needs_histogram(method) for method in (setting.ranges, *named, *(methods or {}).values()))
        stats = calibrate(model, setting.samples, histograms=histograms, progress=setting.progress)
    plan = planning.plan(
        model,
        stats,
        without_auto(recipe),
        setting.target,
        io=setting.io,
        ranges="minmax" if setting.ranges == AUTO_RANGES else setting.ranges,
        methods=methods or {},
        given=given,
        integers=setting.integers,
        float_joins=setting.float_joins,
    )
    return Candidate(model, recipe, stats, plan, methods=methods or {})


def with_stored(found: Candidate, old: Candidate) -> Candidate:
    """Returns a candidate with constants stored in the scales of another one, where these are of the same kind."""
    tensors = old.model.tensors
    stored = {
        name: was
        for name, params in found.plan.params.items()
        if name not in tensors or tensors[name].is_constant
        if (was := old.plan.params.get(name)) is not None and _kind(was) == _kind(params)
    }
    return replace(found, plan=replace(found.plan, params={**found.plan.params, **stored}))


def _kind(params: QuantParams) -> tuple[str, int | None, int, int | None]:
    return params.dtype, params.axis, len(params.scale), params.block_size


def without_auto(recipe: Recipe) -> Recipe:
    """Returns a recipe whose rules take the extremes where they name no range method that statistics tell."""

    def settled(scheme: Scheme | None) -> Scheme | None:
        return replace(scheme, ranges="minmax") if scheme is not None and scheme.ranges == AUTO_RANGES else scheme

    return replace(recipe, rules=tuple(replace(rule, activation=settled(rule.activation)) for rule in recipe.rules))


def integer_model(candidate: Candidate) -> Model:
    """Returns what the candidate becomes: its graph in the plan's integers."""
    return rewrite(candidate.model, candidate.plan)


def digest(arrays: Arrays) -> bytes:
    """Returns a key by which feeds have an order of their own."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.digest()
