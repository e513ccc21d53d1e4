"""What each part of a model costs, and the best file for a budget: from a model anywhere, with samples and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from featherweight.analysis.evaluation import MetricLike
from featherweight.arguments import (
    Kind,
    as_given,
    checked,
    choice,
    count,
    either,
    flag,
    number,
    several,
    shapes,
    stream,
    text,
)
from featherweight.arguments import path as path_of
from featherweight.calibration.collect import calibrate
from featherweight.calibration.copies import counted
from featherweight.choosing.bench import Bench, counted_forms, with_repairs
from featherweight.choosing.budget import (
    OBJECTIVES,
    Budget,
    check_budget,
    compiler_of,
)
from featherweight.choosing.folder import locked
from featherweight.choosing.judging import check_examples, check_metric
from featherweight.choosing.parts import FORMS, check_forms
from featherweight.choosing.scores import Scores, scores_in
from featherweight.choosing.searching import Found, searched
from featherweight.choosing.sensitivity import measured
from featherweight.choosing.task import has_metric, task_of
from featherweight.device_code.vela import USUAL, has_vela
from featherweight.errors import DataError
from featherweight.operators.families.control import keeps_state
from featherweight.passes.substitutes import substituted
from featherweight.repair.candidate import Setting
from featherweight.repair.examples import LEAST_EXAMPLES, MOST_EXAMPLES, divided
from featherweight.repair.improve import AUTO, asked_repairs, check_improvable
from featherweight.runtime.workers import ENGINES, MOST_JOBS
from featherweight.targets import target as targets
from featherweight.tasks.load import load_with_notes, peeked

# Kinds of arguments that the calls of this subject share.
ON_SAMPLES: Mapping[str, Kind] = MappingProxyType(
    {
        "calibration": stream,
        "metric": as_given,
        "limit": count(way="Data go to data=."),
        "folder": path_of,
        "estimate": flag,
        "jobs": count(1, MOST_JOBS),
        "engine": choice(*ENGINES),
        "input_shapes": shapes,
        "progress": flag,
    }
)
OF_FILES: Mapping[str, Kind] = MappingProxyType(
    {
        "io": choice("float32", "int8", "uint8"),
        "max_drop": number(0),
        "confidence": number(0),
        "max_bytes": count(),
        "max_compressed_bytes": count(),
        "max_latency": number(0, open_at="low"),
        "min_sqnr_db": number(),
        "max_flash_bytes": count(),
        "max_sram_bytes": count(),
        "max_cycles": count(),
        "accelerator": text,
    }
)


@checked(**ON_SAMPLES, forms=several(text, at_least=1), task=flag)
def sensitivity(
    source: Any,
    data: Any = None,
    *,
    calibration: Iterable[Any],
    metric: MetricLike = "accuracy",
    forms: Sequence[str] = ("int8",),
    target: str | Path | targets.Target = "litert",
    limit: int | None = None,
    task: bool = True,
    estimate: bool = False,
    folder: str | Path | None = None,
    jobs: int = 1,
    engine: str = "processes",
    input_shapes: Any = None,
    progress: bool = True,
) -> Scores:
    """Returns what each part of a model costs, at the outputs and in the task, in each form.

    A part is an operator with weights, with those without that follow it. It is quantized alone, beside float ones;
    with labelled data, the metric is measured then too, and once more with all quantized but this part.

    Args:
        source: what `load` takes.
        data: the pair (samples, labels), or a `Dataset`; None: the outputs alone.
        calibration: samples of the training split, at least 8; a quarter of them judges the outputs.
        metric: as in `evaluate`.
        forms: of ``w4a8``, ``int8``, ``grid4``, ``int16x8``, ``weights4``, ``dynamic``, ``float32``. What ``grid4``
            saves shows once it is compressed: beside it bytes are of flash by Vela, where the target is an Ethos-U and
            Vela is installed, and else of deflated files.
        target: the device; only forms that it runs are measured.
        limit: use at most so many labelled samples.
        task: measure the metric, too.
        estimate: take propagated errors where they can be had, and run no model for them; the scores say which. The
            metric is left out then.
        folder: where scores are kept (``scores.json``); what is there is not measured again.
        jobs: processes that measure side by side; the scores are the same on any number.
        engine: ``processes``, or ``ray`` for the workers of a Ray cluster.
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for a form that there is not, or a folder of another model's scores.
        DataError: for samples that are too few or do not fit.
    """
    forms = check_forms(forms)
    is_deflated, name = any(FORMS[form].grid for form in forms), targets.load(target).name
    npu = USUAL[name] if is_deflated and name in USUAL and has_vela() else ""
    asked = (source, data, calibration, metric, target, limit, input_shapes)
    bench = bench_of(*asked, npu=npu, is_deflated=is_deflated, jobs=jobs, engine=engine, progress=progress)
    with locked(folder) as held:
        is_task, only = task and not estimate, () if estimate else None
        path = scores_in(held)
        return measured(bench, forms, path=path, with_task=is_task, only=only, jobs=jobs, engine=engine)


@checked(
    **ON_SAMPLES,
    **OF_FILES,
    objective=choice(*OBJECTIVES),
    forms=several(text, at_least=1),
    improve=either(text, several(text), allowed="'auto', 'none', a repair, or several"),
)
def search(
    source: Any,
    data: Any = None,
    *,
    calibration: Iterable[Any],
    metric: MetricLike = "accuracy",
    objective: str = "bytes",
    max_drop: float | None = None,
    confidence: float = 0.0,
    max_bytes: int | None = None,
    max_compressed_bytes: int | None = None,
    max_latency: float | None = None,
    min_sqnr_db: float | None = None,
    max_flash_bytes: int | None = None,
    max_sram_bytes: int | None = None,
    max_cycles: int | None = None,
    forms: Sequence[str] = tuple(FORMS),
    improve: str | Sequence[str] | None = None,
    target: str | Path | targets.Target = "litert",
    io: str | None = None,
    accelerator: str | None = None,
    limit: int | None = None,
    estimate: bool = False,
    folder: str | Path | None = None,
    jobs: int = 1,
    engine: str = "processes",
    input_shapes: Any = None,
    progress: bool = True,
) -> Found:
    """Returns the smallest, fastest or most accurate model within a budget, which is checked on the exported file.

    Args:
        source: what `load` takes.
        data: the pair (samples, labels), or a `Dataset`, for `max_drop`.
        calibration: samples of the training split, at least 8; a quarter of them judges the outputs.
        metric: as in `evaluate`.
        objective: what is made least (``bytes``, ``latency``; ``cycles`` of an Ethos-U), or best (``accuracy``).
        max_drop: how much worse than the float model's the metric may be.
        confidence: the drop is taken with so many of its standard errors on top.
        max_bytes: of the file.
        max_compressed_bytes: of the file, deflated as in a zip.
        max_latency: the median on this machine, as a fraction of the float model's.
        min_sqnr_db: of the outputs, on held-out calibration samples.
        max_flash_bytes: as Vela estimates it; it compiles every file that is tried.
        max_sram_bytes: likewise.
        max_cycles: likewise.
        forms: that parts may take, as in `sensitivity`; ``grid4`` where flash, cycles or deflated bytes count.
        improve: repairs, as in `quantize`: those of the float graph and of ranges come before parts are measured, those
            of weights are made on the best file, and on smaller ones that miss the accuracy by little.
        target: the device.
        io: inputs and outputs of the files, as in `quantize`: None takes the target's habit.
        accelerator: what Vela compiles for, such as ``ethos-u55-256``; None: the usual one of the target.
        limit: use at most so many labelled samples.
        estimate: begin with propagated errors, and measure the parts that differ between files on the budget's sides.
        folder: where scores, the best file so far and what was tried are kept; the same call goes on from there, and
            another budget asks the same scores.
        jobs: processes that measure side by side; the scores are the same on any number.
        engine: ``processes``, or ``ray`` for the workers of a Ray cluster.
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for a budget that says nothing, or a folder of another model, data set or version.
        DataError: for samples that are too few or do not fit, or a metric that is not the same twice.
    """
    forms = check_forms(forms)
    budget = Budget(
        max_drop,
        confidence,
        max_bytes,
        max_compressed_bytes,
        max_latency,
        min_sqnr_db,
        max_flash_bytes,
        max_sram_bytes,
        max_cycles,
    )
    repairs = asked_repairs(improve)
    asked = (source, data, calibration, metric, target, limit, input_shapes)
    bench = bench_within(
        budget, objective, *asked, io=io, accelerator=accelerator, jobs=jobs, engine=engine, progress=progress
    )
    with locked(folder) as held:
        if repairs:
            bench = with_repairs(bench, repairs, is_auto=AUTO in (improve or ()), folder=held)
        forms = counted_forms(bench, forms)
        return searched(bench, forms, budget, objective, held, estimate=estimate, jobs=jobs, engine=engine)


def bench_within(
    budget: Budget,
    objective: str,
    source: Any,
    data: Any,
    calibration: Iterable[Any],
    metric: MetricLike,
    target: str | Path | targets.Target,
    limit: int | None,
    input_shapes: Any,
    *,
    io: str | None,
    accelerator: str | None,
    jobs: int,
    engine: str,
    progress: bool,
) -> Bench:
    """Returns what a budget is kept with: `bench_of` a model, once the budget is one that can be measured there.

    Raises:
        RecipeError: for a budget that says nothing, or an accelerator that there is not.
        DataError: for samples that are too few or do not fit, or a metric that is not the same twice.
    """
    check_budget(budget, objective, has_metric=has_metric(data, metric))
    npu = compiler_of(budget, objective, targets.load(target).name, accelerator)
    asked = (source, data, calibration, metric, target, limit, input_shapes)
    bench = bench_of(
        *asked,
        io=io,
        npu=npu,
        is_deflated=budget.max_compressed_bytes is not None,
        jobs=jobs,
        engine=engine,
        progress=progress,
    )
    check_examples(budget, bench.before)
    return bench


def bench_of(
    source: Any,
    data: Any,
    calibration: Iterable[Any],
    metric: MetricLike,
    target: str | Path | targets.Target,
    limit: int | None,
    input_shapes: Any,
    *,
    io: str | None = None,
    npu: str = "",
    is_deflated: bool = False,
    jobs: int = 1,
    engine: str = ENGINES[0],
    progress: bool,
) -> Bench:
    """Returns a model with the samples that it is calibrated and judged by, and its task; workers share the former.

    Raises:
        DataError: if samples are too few or do not fit, or the metric is not the same twice.
    """
    first, samples = peeked(calibration)
    target = targets.load(target)
    lowered = load_with_notes(source, unroll=True, samples=first, input_shapes=input_shapes)
    model, substitutes = substituted(lowered.model, target)
    check_improvable(model)
    feeds, held_out = divided(() if samples is None else samples, model, None, is_auto=False)
    if not held_out:
        raise DataError(
            f"calibration: {counted(feeds)} are too few (at least {LEAST_EXAMPLES}; a hundred are "
            "better): a quarter of them judges. Pass more."
        )
    task = task_of(data, metric, limit, model)
    setting = Setting(target, feeds, held_out, io=io, integers=True, float_joins=True, progress=progress)
    notes = [*lowered.notes, *substitutes]
    if len(feeds) + len(held_out) == MOST_EXAMPLES:
        notes.append(f"the first {MOST_EXAMPLES} calibration samples were used; any more were not")
    stats = None
    if (jobs > 1 or engine != ENGINES[0]) and not keeps_state(model):
        stats = calibrate(model, feeds, jobs=jobs, engine=engine, progress=progress)
    bench = Bench(
        setting,
        model,
        task,
        notes,
        accelerator=npu,
        is_deflated=is_deflated,
        is_unrolled=bool(lowered.recurrent),
        stats=stats,
    )
    check_metric(bench)
    return bench
