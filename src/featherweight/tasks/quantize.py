"""Quantization from end to end: a model from anywhere in, integers out, with what was decided beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featherweight import tflite
from featherweight.arguments import checked, choice, count, either, flag, instance, path, several, shapes, stream, text
from featherweight.calibration import Stats, calibrate, load_stats, needs_histogram
from featherweight.calibration.odd_samples import Reaches
from featherweight.choosing.folder import locked
from featherweight.encoded_files.records import Encoded
from featherweight.encoded_files.store import check_decodes
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model, present_names
from featherweight.operators.entries import entries
from featherweight.passes.substitutes import substituted
from featherweight.ptq import plan as plans
from featherweight.ptq import planning
from featherweight.ptq.recurrent import choose_style
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import AUTO_RANGES, Setting, without_auto
from featherweight.repair.factors.equalize import Caps, Equalized, equalize_graph
from featherweight.repair.improve import AUTO, asked_repairs, repaired
from featherweight.repair.ranges import MINMAX, RANGES
from featherweight.repair.repairs import REPAIRS
from featherweight.report import Report, make_report
from featherweight.runtime.samples import feeds
from featherweight.targets import target as targets
from featherweight.targets.delivery import for_device
from featherweight.tasks.load import load, load_with_notes, peeked, peeked_parts
from featherweight.tasks.requirements import (
    DECODE,
    DENSE,
    STORES,
    require_change,
    require_effect,
    require_integer,
    require_repairs,
    require_undecided,
    stored_as,
)
from featherweight.tasks.verification import data_causes, measured, notes_against_extremes

_log = logging.getLogger("featherweight")
# Examples that show how far channels reach.
_EQUALIZED_WITH = 64


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized model with the plan that it was made by and the report on it.

    Attributes:
        float_model: the float graph that the plan is about: the lowered one, as repairs have changed it.
        encoded: what became of each weight where they are stored encoded, and what decoding costs.
    """

    model: Model
    plan: plans.Plan
    report: Report
    float_model: Model | None = field(default=None, repr=False)
    encoded: Encoded | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        shape = repr(self.model).replace("Model", "Quantized model", 1)
        violations = f"  violations of '{self.report.target}': {len(self.report.violations)}"
        return "\n".join([shape, *repr(self.plan).splitlines()[:3], violations])

    def save(self, path: str | Path) -> int:
        """Writes the model as a ``.tflite`` file, atomically, and returns its size in bytes."""
        return tflite.save(self.model, path)


@checked(
    {"samples": "limit"},
    calibration=stream,
    stats=either(instance(Stats), path, allowed="Stats, or the path of the file that Stats.save wrote"),
    io=choice("float32", "int8", "uint8"),
    strict=flag,
    ranges=text,
    limit=count(way="Data go to calibration=."),
    recurrent=text,
    integers=flag,
    verify=flag,
    improve=either(text, several(text), allowed="'auto', 'none', a repair, or several"),
    folder=path,
    keep_names=flag,
    keep_order=flag,
    store=choice(*STORES),
    input_shapes=shapes,
    progress=flag,
)
def quantize(
    source: Any,
    recipe: str | Path | recipes.Recipe = "int8",
    *,
    calibration: Iterable[Any] | None = None,
    stats: Stats | str | Path | None = None,
    target: str | Path | targets.Target = "litert",
    io: str | None = None,
    strict: bool = False,
    ranges: str = "minmax",
    plan: plans.Plan | str | Path | None = None,
    limit: int | None = None,
    recurrent: str = "auto",
    integers: bool = False,
    verify: bool = True,
    improve: str | Sequence[str] | None = None,
    folder: str | Path | None = None,
    keep_names: bool = False,
    keep_order: bool = False,
    store: str = DENSE,
    input_shapes: Any = None,
    progress: bool = True,
) -> Quantized:
    """Quantizes a model after training and returns it with its plan and report.

    Args:
        source: what `load` takes.
        recipe: a recipe's name, TOML file or value.
        calibration: samples from the training split, any iterable; needed by recipes with integer activations. For a
            file of several signatures, a dict of them by the signatures' names: one that is left out stays float. For a
            model that keeps state, successive steps: they run in order, as one sequence from the initial state.
        stats: statistics to take ranges from (a `Recorder`'s, or `calibrate`'s), or their file: samples then only
            measure the result.
        target: the device, by name, TOML file or value.
        io: ``float32``, ``int8`` or ``uint8`` inputs and outputs (a CAST of bytes to floats is then part of the
            conversion to integers); None takes the target's habit.
        strict: raise if any operator but the border conversions computes in float.
        ranges: how activation ranges are chosen: ``minmax`` (the extremes), ``percentile``, ``mse``, ``entropy``,
            ``clip`` (a fraction of the extremes), or ``auto``: for each tensor what does best at the operators that
            read it and at the output, on a quarter of the calibration samples, which calibration leaves out until then.
        plan: a plan (or its JSON file) to carry out instead of making one.
        limit: use at most so many samples.
        recurrent: the style of the recurrent layers of a framework model: ``loop``, ``fused`` (LSTM layers as one
            operator each), ``unrolled``, or ``auto``: what suits recipe and target; the plan's notes say which and why.
        integers: write in integers all that the target runs in integers, as `strict` and `quantize_aware` do. Without,
            operators stay float where integers are slower on the target, or can't follow the values that they see.
        verify: run both models on some of the calibration samples (up to 16): the report then has the error of each
            output and of its columns, and a warning names what has become noise, and ranges that do worse than the
            extremes would.
        improve: repairs to make (`featherweight.repair`): a name, several, or ``auto`` for those that measurably
            help on a quarter of the calibration samples, which calibration then leaves out. The plan's notes say what
            each brought.
        folder: where what came of each repair is kept (``improve.json`` and the model so far): the same call goes on
            from there, and loses no more than the repair that was in progress when it was ended.
        keep_names: write the names of all tensors, on targets too whose runtimes don't read them.
        keep_order: leave the operators in their order, on targets too where another needs less memory.
        store: ``decode``: weights encoded where that makes the file smaller, for targets that decode (`store_encoded`).
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for an unknown name or option, missing samples, a recipe that changes nothing on the target, or a
            folder that keeps the repairs of another model, other samples or options, or that is in use.
        DataError: for samples or weights that can't be used.
        TargetViolation: if `strict` is broken, with every operator that stands in the way.
    """
    recipe, target = recipes.load(recipe), targets.load(target)
    if store == DECODE:
        check_decodes(target)
    repairs = asked_repairs(improve)
    is_auto = AUTO in (improve or ())
    for method in (ranges, *methods(recipe)):
        needs_histogram(method)  # raises for one that there is not
    given = plan if plan is None or isinstance(plan, plans.Plan) else plans.load(plan)
    if given is not None:
        require_undecided(given, io, ranges, integers=integers, improve=bool(repairs))
    first, calibration = peeked(calibration)
    style = choose_style(recipe, target, recurrent)
    lowered = load_with_notes(source, unroll=style.unroll, fuse=style.fuse, samples=first, input_shapes=input_shapes)
    model = lowered.model
    given = given if given is None else plans.with_present_names(given, model)
    if isinstance(stats, (str, Path)):
        stats = load_stats(stats)
    stats = stats if stats is None else _with_present_names(stats, model)
    is_open = AUTO_RANGES in (ranges, *methods(recipe))
    if stats is not None:
        require_effect(recipe, is_planned=given is not None, is_repaired=bool(repairs), is_open=is_open)
    if given is None and recipe.needs_ranges and calibration is None and stats is None:
        raise RecipeError(
            f"Recipe '{recipe.name}' measures activation ranges: pass calibration samples from the training split "
            "(calibration=…, --calibration DATA), or use 'dynamic', which needs none."
        )
    parts = {} if calibration is None else peeked_parts(calibration, model)
    exact, decided = model, given
    substitutes: tuple[str, ...] = ()
    if recipe.needs_ranges:
        model, substitutes = substituted(model, target)
    seen = {index: part for index, (part, _) in parts.items()} if verify else {}
    wish = Setting(target, (), (), io, ranges, integers or strict, progress)
    left_out, reaches = list[str](), Reaches()
    if decided is None and recipe.needs_ranges and is_open:
        if len(entries(model)) > 1:
            wish, recipe = replace(wish, ranges=MINMAX if ranges == AUTO_RANGES else ranges), without_auto(recipe)
            left_out.append("ranges 'auto' are chosen for models of one signature: this one takes the extremes")
        else:
            repairs = tuple(repair for repair in REPAIRS if repair in (*repairs, RANGES))
    require_repairs(folder, repairs)
    if decided is None and repairs:
        with locked(folder, "repairs") as held:
            model, decided, held_out = repaired(
                wish, model, exact, recipe, repairs, parts, limit, is_auto=is_auto, check=require_change, folder=held
            )
        seen = {0: held_out or seen[0]} if seen else {}
    elif decided is None:
        stats = stats or _measured(model, recipe, wish, parts, limit, reaches)
        decided = planning.plan(model, stats, recipe, target, io=io, ranges=wish.ranges, integers=wish.integers)
    if given is None:
        notes = [f"Recurrent layers: {listed(lowered.recurrent)}; {style.reason}."] if lowered.recurrent else []
        decided = replace(decided, notes=(*lowered.notes, *substitutes, *notes, *left_out, *decided.notes))
        require_change(decided)
    result, order = for_device(rewrite(model, decided), target, keep_names=keep_names, keep_order=keep_order)
    decided = replace(decided, notes=tuple(dict.fromkeys((*decided.notes, *order))))
    if strict:
        require_integer(result, decided)
    if stats is not None:
        against = notes_against_extremes(wish, model, stats, recipe, result, seen, limit)
        decided = replace(decided, notes=(*decided.notes, *against))
        for note in against:
            _log.warning(note)
    wrong = data_causes(lowered.source, first if verify and decided.params else None, reaches)
    decided, errors = measured(exact, result, decided, seen, limit, wrong)
    report = make_report(exact, result, decided, targets.check(result, target))
    return stored_as(store, Quantized(result, decided, replace(report, outputs=errors), model), target)


def _with_present_names(stats: Stats, model: Model) -> Stats:
    names, unknown = present_names(model), stats.tensors.keys() - model.tensors.keys()
    return stats.renamed(names) if unknown and unknown <= names.keys() else stats


def _measured(
    model: Model,
    recipe: recipes.Recipe,
    wish: Setting,
    parts: Mapping[int, tuple[Any, Any]],
    limit: int | None,
    reaches: Reaches,
) -> Stats | None:
    """Returns what calibration measures of a model, or None for a recipe that needs no ranges."""
    if not recipe.needs_ranges or not parts:
        return None
    named = {entries(model)[index]: part for index, (_, part) in parts.items()}
    return calibrate(
        model,
        parts[0][1] if [*parts] == [0] else named,
        histograms=any(needs_histogram(method) for method in (wish.ranges, *methods(recipe))),
        limit=limit,
        reaches=reaches,
        progress=wish.progress,
    )


@checked(samples=stream, caps=choice("fixed", "kept", "minimum"), input_shapes=shapes)
def equalize(
    source: Any, *, samples: Iterable[Any] | None = None, caps: Caps | None = None, input_shapes: Any = None
) -> Equalized:
    """Gives the channels of neighbouring weights like ranges, without changing the function (`factors.equalize`).

    It serves targets with one scale for a whole weight, where channels with small weights get few integers: pass the
    `model` of what it returns to `quantize` or `quantize_aware`.

    Args:
        source: what `load` takes.
        samples: inputs that show which channels reach the bound of a ReLU6, and that a lowered model is verified with
            (a PyTorch module or JAX function needs at least one); up to 64 examples are used.
        caps: what becomes of the bound of a ReLU6, which is one for all channels: ``fixed`` leaves channels before it
            alone; ``kept`` scales those that stay below half of it on the samples, and keeps it; ``minimum`` puts a
            MINIMUM with a bound for each channel behind the layer, which is exact. By default they are kept where there
            are samples, and fixed otherwise.
        input_shapes: as in `load`.

    Raises:
        FormatError: if the model is quantized.
        DataError: if samples don't fit, or weights, or values that samples bring, are not finite.
        RecipeError: if caps are to be kept, and there are no samples.
    """
    if caps == "kept" and samples is None:
        raise RecipeError(
            "equalize: caps='kept' needs samples, which show what reaches them. Pass samples=…, or 'minimum'."
        )
    first, samples = peeked(samples)
    model = load(source, samples=first, input_shapes=input_shapes)
    fed = [] if samples is None else [feed.arrays for feed in feeds(samples, model, limit=_EQUALIZED_WITH, batch=1)]
    return equalize_graph(model, fed, caps=caps)


def methods(recipe: recipes.Recipe) -> list[str]:
    """Returns the range methods that a recipe's rules name."""
    return [r.activation.ranges for r in recipe.rules if r.activation and r.activation.ranges]
