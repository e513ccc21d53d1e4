"""Diagnosis from end to end: a float model, what became of it or a recipe, and samples in; causes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featherweight import tflite
from featherweight.analysis.places import Pair
from featherweight.arguments import checked, choice, count, flag, shapes, stream, text
from featherweight.calibration import Stats, calibrate, needs_histogram
from featherweight.calibration.copies import copies_said
from featherweight.calibration.odd_samples import OddSamples, odd_samples
from featherweight.diagnosis.cause import Cause
from featherweight.diagnosis.evidence import Evidence, quantized_values
from featherweight.diagnosis.exact import exact_values, most_examples
from featherweight.diagnosis.finding import Found, found_causes, ordered
from featherweight.diagnosis.levels import Level
from featherweight.diagnosis.normalization import normalization_causes
from featherweight.diagnosis.own_errors import MOST_CARRIED, OwnError
from featherweight.diagnosis.whole import coverage_causes, notes_on_outputs, odd_causes
from featherweight.errors import DataError
from featherweight.graph import Model
from featherweight.operators.entries import entries, with_main
from featherweight.passes.substitutes import substituted
from featherweight.ptq import planning
from featherweight.ptq.forms.choosing import check_is_float
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import Arrays
from featherweight.report.diagnosis import Diagnosis, JudgedOutput, OwnErrorRow
from featherweight.runtime.samples import by_signature, feeds
from featherweight.targets import target as targets
from featherweight.tasks.load import load, lowered_anew, nearest_form, opened, peeked
from featherweight.tasks.quantize import methods, quantize

# Halves of the calibration data are held against each other from so many samples on.
_LEAST_HALVES = 4
# Fewer samples than this show little of what a model meets.
_FEW = 8
# Samples that are compared with each other, the first ones.
_MOST_COMPARED = 256


@checked(
    samples=stream,
    io=choice("float32", "int8", "uint8"),
    ranges=text,
    limit=count(),
    carried=count(1),
    input_shapes=shapes,
    progress=flag,
)
def diagnose(
    float_model: Any,
    quantized: Any = None,
    samples: Iterable[Any] | None = None,
    *,
    recipe: str | Path | recipes.Recipe = "int8",
    target: str | Path | targets.Target = "litert",
    io: str | None = None,
    ranges: str = "minmax",
    limit: int | None = None,
    carried: int = MOST_CARRIED,
    input_shapes: Any = None,
    progress: bool = True,
) -> Diagnosis:
    """Returns the causes of a quantized model's error: each with its place, its size at the output, and the repair.

    Every operator's own error, its weights' and its activations' apart, is carried to the output: it gets exact inputs,
    and all behind it computes in float. What makes up the largest ones is found by taking one cause away at a time. All
    is measured on the default runtime, on up to 16 of the samples (8 of large models).

    Args:
        float_model: what `load` takes.
        quantized: what was made of it; None: quantize it here with `recipe`, on `target`, calibrated on the samples.
        samples: inputs, any iterable: a validation set for a given model, else the calibration samples. For a file of
            several signatures, a dict of them by the signatures' names. For a model that keeps state, successive steps.
        recipe: as `quantize` takes it; without a quantized model only, as the next three.
        target: the device.
        io: types of inputs and outputs.
        ranges: how ranges are chosen.
        limit: use at most so many samples.
        carried: how many operators' errors are carried to the output, those of the largest error at their own output
            first; the others keep that as an estimate.
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        DataError: if samples do not fit, the two are no versions of one model, or nothing in it is rounded.
        FormatError: if a model can't be read, or the float one is quantized already.
    """
    if samples is None:
        raise DataError("diagnose needs samples: pass some inputs of the model (samples=…, --data DATA).")
    first, samples = peeked(samples)
    model = load(float_model, samples=first, input_shapes=input_shapes)
    check_is_float(model)
    parts = {index: _kept(part, with_main(model, index), limit) for index, part in by_signature(samples, model).items()}
    chosen = targets.load(target)
    other = None if quantized is None else tflite.read(opened(quantized, "diagnose: quantized", first))
    if other is not None:
        lowered = getattr(quantized, "float_model", None)  # recurrent layers may be written in another way in it
        others = [lowered] if isinstance(lowered, Model) else []
        model = _nearer(other, model, tflite.read(opened(float_model, "diagnose: float_model", first)), *others)
        model = nearest_form(model, other, lowered_anew(float_model, model, first, input_shapes))
    maker = None
    if other is None:
        recipe = recipes.load(recipe)
        model = substituted(model, chosen)[0] if recipe.needs_ranges else model
        named = {entries(model)[index]: part for index, part in parts.items()}
        fed = parts[0] if [*parts] == [0] else named
        other = quantize(
            model,
            recipe,
            calibration=fed if recipe.needs_ranges else None,
            target=chosen,
            io=io,
            ranges=ranges,
            verify=False,
            progress=progress,
        ).model
        maker = _Maker(model, recipe, chosen, io, ranges) if recipe.needs_ranges and [*parts] == [0] else None
        what = f"recipe {recipe.name} for target {chosen.name}"
    else:
        what = "a quantized model against its float one"
    found = [
        (entries(model)[index] if len(parts) > 1 else "", _part(model, other, index, part, carried, maker, progress))
        for index, part in parts.items()
    ]
    usual = _others(parts[0], odd_samples(parts[0])) if [*parts] == [0] else []
    alone = [next(iter(sample.values())) for sample in _spread(usual, model) if len(sample) == 1]
    foreign = normalization_causes(float_model, alone) if alone else []
    return _told(what, found, foreign)


def _nearer(other: Model, *models: Model) -> Model:
    """Returns the form of a float model that a quantized one was made from: as this package prepares it, or as it is.

    That is the one in which more of what the other rounds is found.
    """
    return max(models, key=lambda model: len(Pair(model, other).places))


def _kept(samples: Any, model: Model, limit: int | None) -> list[Arrays]:
    """Returns samples that can be gone through more than once, an example each where the model's batch is free."""
    return [feed.arrays for feed in feeds(samples, model, limit=limit, batch=1 if model.main.inputs else None)]


def _spread(samples: Sequence[Any], model: Model) -> Sequence[Any]:
    """Returns samples from all of them, evenly; of a model that keeps state, the first ones."""
    is_kept = any(tensor.is_variable or tensor.dtype == "resource" for tensor in model.tensors.values())
    most = most_examples(model)
    return samples if is_kept or len(samples) <= most else [samples[i * len(samples) // most] for i in range(most)]


def _part(
    model: Model, other: Model, index: int, samples: Sequence[Any], carried: int, maker: _Maker | None, progress: bool
) -> Found:
    """Returns what was found of one signature."""
    if index not in entries(other):
        raise DataError(
            f"The quantized model has no signature '{entries(model)[index]}', which samples are given for. Leave these "
            "samples out, or give the file that was made from this float model."
        )
    pair = Pair(with_main(model, index), with_main(other, index))
    if not pair.places:
        raise DataError(
            "Nothing that the second model rounds was found in the float one: it is float itself, or its tensors have "
            "other names. Give a quantized model that was made from this float one."
        )
    exact = exact_values(pair.before, _spread(samples, pair.before), stand_ins=pair.stand_ins)
    found = found_causes(pair, exact, most=carried, is_calibrated=maker is not None, progress=progress)
    repeated = _repeated(samples, pair.before)
    notes = (*found.notes, *repeated, *(() if repeated else notes_on_outputs(exact)))
    if maker is not None and len(samples) < _FEW:
        notes += (
            f"Samples that made the ranges judge them, too, and there are {len(samples)} of them: others may reach "
            "farther, and lose more. Pass a hundred or more.",
        )
    found = replace(found, notes=notes)
    if maker is None or len(samples) < _LEAST_HALVES:
        return found
    odd = odd_samples(samples)
    others = _others(samples, odd)
    causes = ordered((*found.causes, *_coverage(maker, found.evidence, others)), found.evidence.total)
    return replace(found, causes=(*_odd_causes(maker, found.evidence, odd, others), *causes))


def _repeated(samples: Sequence[Any], model: Model) -> list[str]:
    """Returns a note on samples that repeat others; of a model that keeps state, they follow each other."""
    if any(tensor.is_variable or tensor.dtype == "resource" for tensor in model.tensors.values()):
        return []
    fed = feeds(samples, model, limit=_MOST_COMPARED, batch=1 if model.main.inputs else None)
    said = copies_said(feed.arrays for feed in fed)
    return [f"{said[0].upper()}{said[1:]}; pass others in their place."] if said else []


class _Maker:
    """Quantizes a float model once more, from other statistics."""

    def __init__(
        self, model: Model, recipe: recipes.Recipe, target: targets.Target, io: str | None, ranges: str
    ) -> None:
        self.model, self.recipe, self.target, self.io, self.ranges = model, recipe, target, io, ranges

    def stats(self, samples: Sequence[Any]) -> Stats:
        """Returns what calibration measures on some samples."""
        histograms = any(needs_histogram(method) for method in (self.ranges, *methods(self.recipe)))
        return calibrate(self.model, samples, histograms=histograms, progress=False)

    def quantized(self, stats: Stats) -> Model:
        """Returns the model in integers."""
        plan = planning.plan(self.model, stats, self.recipe, self.target, io=self.io, ranges=self.ranges)
        return rewrite(self.model, plan)

    def level(self, model: Model, samples: Sequence[Any]) -> Level:
        """Returns the error of such a model on some samples."""
        pair = Pair(self.model, model)
        exact = exact_values(self.model, _spread(samples, self.model), stand_ins=pair.stand_ins)
        return exact.level(quantized_values(pair, exact))


def _coverage(maker: _Maker, evidence: Evidence, samples: Sequence[Any]) -> list[Cause]:
    half = len(samples) // 2
    halves = (samples[:half], samples[half:])
    return coverage_causes(evidence, halves, [maker.stats(part) for part in halves], maker.quantized, maker.level)


def _others(samples: Sequence[Any], odd: Sequence[OddSamples]) -> list[Any]:
    """Returns the samples without odd ones."""
    indices = {index for each in odd for index in each.indices}
    return [sample for index, sample in enumerate(samples) if index not in indices]


def _odd_causes(maker: _Maker, evidence: Evidence, odd: Sequence[OddSamples], others: Sequence[Any]) -> list[Cause]:
    if not odd:
        return []
    now, without = (maker.level(model, others) for model in (evidence.pair.after, maker.quantized(maker.stats(others))))
    return odd_causes(evidence, odd, now, without)


def _told(what: str, found: Sequence[tuple[str, Found]], foreign: Sequence[Cause]) -> Diagnosis:
    """Returns the diagnosis of all signatures together; causes that are foreign to the quantized model come first."""

    def named(key: str, name: str) -> str:
        return f"{key}: {name}" if key else name

    totals = [each.evidence.total for _, each in found]
    worst = max(totals, key=lambda level: level.ratio)
    causes = [replace(c, output=named(key, c.output)) for key, each in found for c in each.causes]
    simulated = [each.simulated.level_db for _, each in found if each.simulated is not None]
    return Diagnosis(
        what,
        sum(level.examples for level in totals),
        tuple(_output(named(key, o.name), o) for key, each in found for o in each.evidence.total.outputs),
        worst.level_db,
        worst.sqnr_db,
        all(level.is_enough for level in totals),
        min(simulated, default=None) if len(simulated) == len(found) else None,
        (*foreign, *_by_signature(causes, len(found))),
        tuple(_row(own, each.evidence) for _, each in found for own in each.evidence.own),
        tuple(note for _, each in found for note in each.notes),
    )


def _by_signature(causes: list[Cause], signatures: int) -> list[Cause]:
    """Returns causes in their order; those of several signatures together, worst first."""
    return sorted(causes, key=lambda cause: cause.alone_db) if signatures > 1 else causes


def _output(name: str, level: Any) -> JudgedOutput:
    return JudgedOutput(name, level.sqnr_db, level.level_db, level.weakest)


def _row(own: OwnError, evidence: Evidence) -> OwnErrorRow:
    weights, activations = (None if level is None else level.level_db for level in (own.weights, own.activations))
    layer = evidence.layers.get(own.name, own.name)
    return OwnErrorRow(layer, own.op, own.name, own.level_db, weights, activations, own.local_db, own.is_carried)
