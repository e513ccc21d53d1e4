"""The flow as one call: float16, dynamic, int8, repaired int8, mixed forms, a short training; each step measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featherweight.analysis.evaluation import MetricLike
from featherweight.arguments import checked, choice, count, stream
from featherweight.choosing.bench import Bench, has_metric, with_repairs
from featherweight.choosing.budget import (
    OBJECTIVES,
    Budget,
    Tried,
    check_budget,
    check_examples,
    compiler_of,
    goal,
    shortfall,
)
from featherweight.choosing.folder import locked
from featherweight.choosing.searching import searched
from featherweight.errors import FeatherweightError, listed
from featherweight.graph import Model
from featherweight.ptq.plan import Plan
from featherweight.recipes import recipe as recipes
from featherweight.repair.improve import AUTO, asked_repairs
from featherweight.targets import target as targets
from featherweight.tasks.choose import FORMS, OF_FILES, ON_SAMPLES, bench_of
from featherweight.tasks.quantize import quantize
from featherweight.tasks.requirements import require_change

_CHEAP = ("float16", "dynamic", "int8")


@dataclass(frozen=True)
class Step:
    """One step of the flow.

    Attributes:
        measured: the file that it made; None where it made none.
        reason: why the flow went on after it, or ended; or why there is no file.
    """

    name: str
    measured: Tried | None
    reason: str


@dataclass(frozen=True, eq=False)
class Optimized:
    """The best file of the flow, and its steps.

    Attributes:
        name: of the step that made it.
        fits: whether it keeps the budget.
    """

    name: str
    model: Model
    plan: Plan
    steps: tuple[Step, ...]

    @property
    def best(self) -> Tried:
        """What was measured of it."""
        return next(s.measured for s in self.steps if s.name == self.name and s.measured is not None)

    @property
    def fits(self) -> bool:
        """Whether it keeps the budget."""
        return self.best.fits

    def to_json(self) -> dict[str, Any]:
        """Returns all steps as plain values."""
        return {"chosen": self.name, "fits": self.fits, "steps": [asdict(step) for step in self.steps]}


@checked(**ON_SAMPLES, **OF_FILES, objective=choice(*OBJECTIVES[:-1]), train=stream, epochs=count())
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
    train: Iterable[Any] | None = None,
    epochs: int = 3,
    estimate: bool = False,
    folder: str | Path | None = None,
    jobs: int = 1,
    engine: str = "processes",
    input_shapes: Any = None,
    progress: bool = True,
) -> Optimized:
    """Goes from float16 to trained integers, and stops where the budget is kept; every step is measured.

    ``float16``, ``dynamic`` and ``int8`` are made in any case: which of them is smallest and fastest is measured. Where
    int8 keeps the budget, the best of those that do is it. Else come repairs (``improve="auto"``), a search over forms
    of parts, and with `train` a short exact training by distillation.

    Args:
        source: what `load` takes.
        data: labelled samples, as `evaluate` takes them, for `max_drop`; None: outputs are judged by `min_sqnr_db`.
        calibration: samples of the training split, at least 8; a quarter of them judges.
        metric: as in `evaluate`.
        objective: ``bytes``, ``latency`` or ``cycles`` (of an Ethos-U): what is least among files that keep the budget.
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
    check_budget(budget, objective, has_metric=has_metric(data, metric))
    npu = compiler_of(budget, objective, targets.load(target).name, accelerator)
    bench = bench_of(source, data, calibration, metric, target, limit, input_shapes, io=io, npu=npu, progress=progress)
    check_examples(budget, bench.before)
    with locked(folder) as held:
        flow = _Flow(source, bench, budget, objective, held, estimate, jobs, engine)
        steps: list[Step] = []
        made: dict[str, tuple[Model, Plan]] = {}
        for name, make in _makers(flow, train, epochs):
            try:
                made[name] = make()
            except FeatherweightError as error:
                steps.append(Step(name, None, f"not made: {error}"))
                continue
            row = bench.measured(made[name][0], bench.before, budget, needs_latency=True)
            ends = row.fits and name not in _CHEAP[:-1]
            said = "it keeps the budget" if row.fits else listed(row.misses)
            steps.append(Step(name, row, said + ("" if ends or name in _CHEAP[:-1] else ": on to the next step")))
            if ends:
                break
    return _chosen(steps, made, objective)


@dataclass(eq=False)
class _Flow:
    """What steps share; `repaired` is what repairs made of the model, once that step has run."""

    source: Any
    bench: Bench
    budget: Budget
    objective: str
    folder: Path | None
    estimate: bool
    jobs: int
    engine: str
    repaired: Bench | None = None


def _makers(
    flow: _Flow, train: Iterable[Any] | None, epochs: int
) -> Iterator[tuple[str, Callable[[], tuple[Model, Plan]]]]:
    """Yields the name of each step, and what makes its model and plan."""
    for name in _CHEAP:
        yield name, lambda name=name: _by_recipe(flow, name)
    yield "int8 repaired", lambda: _repaired(flow)
    yield "mixed", lambda: _mixed(flow)
    if train is not None:
        yield "trained", lambda: _trained(flow.bench, train, epochs)


def _by_recipe(flow: _Flow, name: str) -> tuple[Model, Plan]:
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


def _repaired(flow: _Flow) -> tuple[Model, Plan]:
    flow.repaired = with_repairs(flow.bench, asked_repairs(AUTO), is_auto=True, folder=flow.folder)
    candidate, _ = flow.repaired.repaired(flow.repaired.planned(recipes.load("int8")))
    return flow.repaired.file(candidate), candidate.plan


def _mixed(flow: _Flow) -> tuple[Model, Plan]:
    """Mixes forms on the graph and with the ranges that repairs have made, and repairs weights of what comes near."""
    found = searched(
        flow.repaired or flow.bench,
        FORMS,
        flow.budget,
        flow.objective,
        flow.folder,
        estimate=flow.estimate,
        jobs=flow.jobs,
        engine=flow.engine,
    )
    return found.model, found.plan


def _trained(bench: Bench, samples: Iterable[Any], epochs: int) -> tuple[Model, Plan]:
    from featherweight.tasks.finalize import finalize
    from featherweight.tasks.quantize_aware import quantize_aware
    from featherweight.training.courses import loop

    inputs = loop.gathered(samples, bench.model, None)
    course = loop.Course(epochs)
    model = quantize_aware(
        bench.model,
        "int8",
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


def _chosen(steps: list[Step], made: dict[str, tuple[Model, Plan]], objective: str) -> Optimized:
    rows = {step.name: step.measured for step in steps if step.measured is not None}
    if not rows:
        raise FeatherweightError(f"optimize: no step made a model: {listed((s.reason for s in steps), 6)}.")

    def rank(name: str) -> tuple[float, float]:
        return shortfall(rows[name]), goal(rows[name], objective)

    name = min(rows, key=rank)
    return Optimized(name, *made[name], tuple(steps))
