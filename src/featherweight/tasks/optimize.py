"""The flow as one call: every recipe, then repaired int8, mixed forms, a short training; each step measured."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from featherweight.analysis.evaluation import MetricLike
from featherweight.arguments import checked, choice, count, stream
from featherweight.choosing.bench import Bench, counted_forms, with_repairs
from featherweight.choosing.budget import OBJECTIVES, Budget
from featherweight.choosing.flow import STOPS, Flow, Optimized, chosen, take
from featherweight.choosing.folder import locked
from featherweight.choosing.parts import FORMS
from featherweight.choosing.searching import searched
from featherweight.graph import Model
from featherweight.ptq.plan import Plan
from featherweight.recipes import recipe as recipes
from featherweight.repair.improve import AUTO, asked_repairs
from featherweight.targets import target as targets
from featherweight.tasks.choose import OF_FILES, ON_SAMPLES, bench_within
from featherweight.tasks.quantize import quantize
from featherweight.tasks.requirements import require_change

# Made and measured in any case: which of them is smallest or fastest depends on the model.
_RECIPES = ("float16", "dynamic", "weights4", "int8", "w4a8", "int16x8")
# Smaller only once it is compressed, in a zip or by Vela.
_COMPRESSIBLE = "grid4"


@checked(**ON_SAMPLES, **OF_FILES, objective=choice(*OBJECTIVES), stop=choice(*STOPS), train=stream, epochs=count())
def optimize(
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
    target: str | Path | targets.Target = "litert",
    io: str | None = None,
    accelerator: str | None = None,
    limit: int | None = None,
    stop: str = "first",
    train: Iterable[Any] | None = None,
    epochs: int = 3,
    estimate: bool = False,
    folder: str | Path | None = None,
    jobs: int = 1,
    engine: str = "processes",
    input_shapes: Any = None,
    progress: bool = True,
) -> Optimized:
    """Makes every recipe, then repairs, mixed forms and a short training, until the budget is kept; all is measured.

    ``float16``, ``dynamic``, ``weights4``, ``int8``, ``w4a8`` and ``int16x8`` are made in any case (``grid4`` too,
    where compressed bytes or Vela's figures count): which is smallest or fastest is measured. Where one keeps the
    budget, the best of those that do is it. Else come repairs of int8 (``improve="auto"``), a search over forms of
    parts, and with `train` a short exact training by distillation, of int8 or where that is too large of w4a8. A step
    that can't bring what is missing is not run; all steps are in the result, with their reasons.

    Args:
        source: what `load` takes.
        data: labelled samples, as `evaluate` takes them, for `max_drop`; None: outputs are judged by `min_sqnr_db`.
        calibration: samples of the training split, at least 8; a quarter of them judges.
        metric: as in `evaluate`.
        objective: ``bytes``, ``latency`` or ``cycles`` (of an Ethos-U): what is least among files that keep the budget;
            or ``accuracy``, what is most within limits of size or time.
        max_drop: how much worse than the float model's the metric may be.
        confidence: the drop is taken with so many of its standard errors on top.
        max_bytes: of the file.
        max_compressed_bytes: of the file, deflated as in a zip.
        max_latency: the median on this machine, as a fraction of the float model's.
        min_sqnr_db: of the outputs, on held-out calibration samples.
        max_flash_bytes: as Vela estimates it; it compiles every file that is tried.
        max_sram_bytes: likewise.
        max_cycles: likewise.
        target: the device.
        io: inputs and outputs of integer files, as in `quantize`: None takes the target's habit.
        accelerator: what Vela compiles for, as in `search`.
        limit: use at most so many labelled samples.
        stop: ``first``: end with the first step after the recipes that keeps the budget; ``best``: go on with those
            that may still be better in the objective.
        train: unlabelled samples to train on, as the last resort.
        epochs: of that training.
        estimate: of the search, as there.
        folder: where scores are kept, as in `search`.
        jobs: processes that measure parts for the search.
        engine: as in `search`.
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for a budget that says nothing of accuracy.
        DataError: for samples that are too few or do not fit.
    """
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
    asked = (source, data, calibration, metric, target, limit, input_shapes)
    bench = bench_within(
        budget, objective, *asked, io=io, accelerator=accelerator, jobs=jobs, engine=engine, progress=progress
    )
    with locked(folder) as held:
        flow = Flow(source, bench, budget, objective, stop, held, estimate, jobs, engine)
        for name in (*_RECIPES, *([_COMPRESSIBLE] if bench.accelerator or max_compressed_bytes is not None else [])):
            take(flow, name, partial(_by_recipe, flow, name))
        take(flow, "int8 repaired", partial(_repaired, flow), is_last_resort=True)
        take(flow, "mixed", partial(_mixed, flow), is_last_resort=True)
        if train is not None:
            recipe = _trainable(flow)
            take(flow, f"trained {recipe}", partial(_trained, bench, recipe, train, epochs), is_last_resort=True)
    return chosen(flow)


def _by_recipe(flow: Flow, name: str) -> tuple[Model, Plan]:
    """Makes what `quantize` writes; of a source with recurrent layers from the source, in the style of the recipe."""
    bench, recipe = flow.bench, recipes.load(name)
    if bench.is_unrolled:
        fed = list(bench.setting.samples) if recipe.needs_ranges else None
        setting = bench.setting
        made = quantize(
            flow.source, recipe, calibration=fed, target=setting.target, io=setting.io, verify=False, progress=False
        )
        return made.model, made.plan
    candidate = bench.planned(recipe)
    require_change(candidate.plan)
    return bench.file(candidate), candidate.plan


def _improved(flow: Flow) -> Bench:
    """Returns the model with the repairs of its float graph and ranges, made once."""
    if flow.improved is None:
        flow.improved = flow.bench  # (for the search, where repairs can't be made: that step says why)
        flow.improved = with_repairs(flow.bench, asked_repairs(AUTO), is_auto=True, folder=flow.folder)
    return flow.improved


def _repaired(flow: Flow) -> tuple[Model, Plan]:
    bench = _improved(flow)
    candidate, _ = bench.repaired(bench.planned(recipes.load("int8")))
    return bench.file(candidate), candidate.plan


def _mixed(flow: Flow) -> tuple[Model, Plan]:
    """Mixes forms on the graph and with the ranges that repairs have made, and repairs weights of what comes near."""
    found = searched(
        _improved(flow),
        counted_forms(flow.bench, tuple(FORMS)),
        flow.budget,
        flow.objective,
        flow.folder,
        estimate=flow.estimate,
        jobs=flow.jobs,
        engine=flow.engine,
    )
    return found.model, found.plan


def _trainable(flow: Flow) -> str:
    """Returns the recipe to train: int8, unless its file keeps the accuracy, or is too large, and w4a8 is smaller."""
    whole, narrow = flow.rows.get("int8"), flow.rows.get("w4a8")
    is_enough = whole is None or (whole.is_small and not whole.fits)
    return "int8" if is_enough or narrow is None else "w4a8"


def _trained(bench: Bench, recipe: str, samples: Iterable[Any], epochs: int) -> tuple[Model, Plan]:
    from featherweight.tasks.finalize import finalize
    from featherweight.tasks.quantize_aware import quantize_aware
    from featherweight.training.courses import loop

    inputs = loop.gathered(samples, bench.model, None)
    course = loop.Course(epochs)
    model = quantize_aware(
        bench.model,
        recipe,
        calibration=bench.setting.samples,
        target=bench.setting.target,
        teacher=True,
        verify=False,
        progress=False,
    )
    loop.compile_for(model, course, len(next(iter(inputs.values()))), None)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = loop.Checkpoints(Path(folder) / "training", {})
        checkpoints.begin(model)
        loop.train(model, inputs, None, course, checkpoints, 0)
    result = finalize(model)
    return result.model, result.plan
