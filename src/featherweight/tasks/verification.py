"""Says what quantization has cost on samples: errors of outputs, and ranges that do worse than extremes would."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from featherweight.analysis.noise import OutputError, most_examples, notes_on_noise, output_errors
from featherweight.calibration import Stats
from featherweight.calibration.odd_samples import Reaches
from featherweight.diagnosis.cause import REMEDIES
from featherweight.diagnosis.finding import first_cause
from featherweight.diagnosis.normalization import normalization_said
from featherweight.errors import FeatherweightError, TargetViolation, listed
from featherweight.graph import Model
from featherweight.operators.entries import entries, with_main
from featherweight.ptq import plan as plans
from featherweight.ptq import planning
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes.recipe import Recipe
from featherweight.repair.candidate import Setting
from featherweight.repair.factors.units import in_units_of
from featherweight.repair.judge import Gain, Judge, gain
from featherweight.runtime.litert import runs
from featherweight.runtime.samples import feeds, input_tensors

_log = logging.getLogger("featherweight")
EXTREMES = "minmax"
# A loss that is worth a word, of a single example.
_LEAST_LOSS_OF_ONE_DB = 1.0


def notes_against_extremes(
    setting: Setting,
    model: Model,
    stats: Stats,
    recipe: Recipe,
    result: Model,
    seen: Mapping[int, Sequence[Any] | None],
    limit: int | None = None,
) -> list[str]:
    """Returns a note for each signature where the ranges do worse at the output than the tensors' extremes.

    Args:
        setting: what the model was planned with.
        model: the float model that was planned.
        stats: what calibration measured.
        recipe: may name range methods.
        result: the quantized model.
        seen: index of a signature's graph → samples of it.
        limit: use at most so many examples.
    """
    methods = [rule.activation.ranges or setting.ranges for rule in recipe.rules if rule.activation]
    others = [method for method in dict.fromkeys(methods) if method != EXTREMES]
    if not others or not any(seen.values()):
        return []
    schemes = [rule.activation and replace(rule.activation, ranges=None) for rule in recipe.rules]
    rules = tuple(replace(rule, activation=scheme) for rule, scheme in zip(recipe.rules, schemes, strict=True))
    plain = planning.plan(
        model, stats, replace(recipe, rules=rules), setting.target, io=setting.io, integers=setting.integers
    )
    unclipped, notes = rewrite(model, plain), list[str]()
    for index, samples in seen.items():
        if not samples:
            continue
        where = f"signature '{entries(model)[index]}': " if len(seen) > 1 else ""
        first, second, third = (with_main(each, index) for each in (model, unclipped, result))
        most = 2 * most_examples(first)  # as many runs as there are of both models elsewhere
        try:
            fed = feeds(samples, first, limit=min(limit or most, most), batch=1 if input_tensors(first) else None)
            judge = Judge(first, [feed.arrays for feed in fed])
            found = gain(judge.levels(second), judge.levels(third))
        except FeatherweightError:  # what can't be compared is said where outputs are measured
            continue
        if _is_loss(found):
            named = listed([f"'{method}'" for method in others])
            notes.append(
                f"{where}ranges {named} do worse than the extremes of the tensors ('{EXTREMES}'): {_said(found)} at "
                f"the output, on {found.examples} calibration samples. Use '{EXTREMES}', or 'auto', which chooses by "
                "samples that are held out"
            )
    return notes


def _said(found: Gain) -> str:
    return str(found) if found.examples > 1 else f"{found.db:+.2f} dB"


def _is_loss(found: Gain) -> bool:
    if found.examples < 2:
        return found.db <= -_LEAST_LOSS_OF_ONE_DB
    return found.is_loss


def measured(
    before: Model,
    after: Model,
    plan: plans.Plan,
    seen: Mapping[int, Sequence[Any] | None],
    limit: int | None = None,
    data: Sequence[DataCause] = (),
) -> tuple[plans.Plan, tuple[OutputError, ...]]:
    """Returns the errors of a quantized model's outputs on samples, and the plan with a note where they are noise.

    Other notes tell what is wrong with the samples. Notes are logged as warnings, too. Without quantized operators,
    there is nothing to measure.

    Args:
        before: the float model.
        after: the quantized one.
        plan: what it was made by.
        seen: index of a signature's graph → samples of it.
        limit: use at most so many examples.
        data: what is wrong with the samples that it was calibrated with.

    Raises:
        TargetViolation: if LiteRT runs the float model, but not the quantized one.
    """
    found: list[OutputError] = []
    notes: list[str] = []
    for index, samples in seen.items() if plan.forms else ():
        if not samples:
            continue
        pair = with_main(before, index), with_main(after, index)
        where = f"signature '{entries(before)[index]}': " if len(seen) > 1 else ""
        try:
            errors = output_errors(*pair, samples, limit)
            cause = functools.partial(_cause, *pair, samples, data)
            noise = notes_on_noise(*pair, samples, errors, plan.recipe, cause)
        except FeatherweightError as error:  # a file whose batch is not as free as it says
            if runs(pair[0]) and not runs(pair[1]):
                raise TargetViolation(
                    f"The integer file would not run in LiteRT, which runs the float one: {error} Keep that operator "
                    "float by a rule of the recipe, and please report it: plans are not to end like this."
                ) from error
            notes.append(f"{where}the outputs could not be compared with the float model's: {error}")
            continue
        found += [replace(error, name=f"{where}{error.name}") for error in errors]
        notes += [f"{where}{note}" for note in noise]
    if plan.forms and not notes:  # notes on noise name them already
        notes = [f"calibration data: {each.said}{each.way}" for each in data]
    for note in notes:
        _log.warning(note)
    return replace(plan, notes=(*plan.notes, *notes)), tuple(found)


def _cause(before: Model, after: Model, samples: Sequence[Any], data: Sequence[DataCause]) -> str:
    """Returns the first cause of the error, in two sentences; what is wrong with the data comes before any other."""
    if not data:
        return first_cause(in_units_of(before, after), after, samples)
    return f"First cause, {data[0].name}: {data[0].said}{data[0].way}"


@dataclass(frozen=True)
class DataCause:
    """Something that is wrong with calibration data.

    Attributes:
        name: the cause's.
        said: what is so, and what to do.
        way: an argument that repairs it, in brackets.
    """

    name: str
    said: str
    way: str = ""


def data_causes(source: Any, first: Sequence[Any] | None, reaches: Reaches) -> tuple[DataCause, ...]:
    """Returns what is wrong with calibration data: odd samples, or other statistics than training had.

    Args:
        source: the model as the user gave it.
        first: the first samples; None or none: their statistics are not looked at.
        reaches: of all samples.
    """
    odd = [
        DataCause("odd-samples", f"{each}. {REMEDIES['odd-samples'][1]}", " (ranges='auto')") for each in reaches.odd()
    ]
    strange = "" if odd else normalization_said(source, first)
    return (*odd, *([DataCause("unlike-data", strange)] if strange else []))
