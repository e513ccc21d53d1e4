"""The flow as one call: float16, dynamic, int8, repaired int8, mixed forms, a short training; each step measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from featherweight.analysis.evaluation import MetricLike
from featherweight.arguments import as_given, checked, choice, count, flag, number, path, shapes, stream
from featherweight.choosing.searching import Budget, Tried, check_budget, measured_file, searched, shortfall
from featherweight.choosing.sensitivity import Bench, as_dataset
from featherweight.choosing.sensitivity import measured as scored
from featherweight.errors import FeatherweightError, listed
from featherweight.graph import Model
from featherweight.ptq.plan import Plan
from featherweight.ptq.rewrite import rewrite
from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import integer_model
from featherweight.repair.improve import asked_repairs, improved
from featherweight.targets import target as targets
from featherweight.tasks.choose import FORMS, bench_of, locked
from featherweight.tasks.requirements import require_change

_CHEAP = ("float16", "dynamic", "int8")
_SCORES = "scores.json"


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
        return {"version": 1, "chosen": self.name, "fits": self.fits, "steps": [asdict(step) for step in self.steps]}


@checked(
    calibration=stream,
    metric=as_given,
    objective=choice("bytes", "latency"),
    max_drop=number(0),
    confidence=number(0),
    max_bytes=count(),
    max_latency=number(0, open_at="low"),
    min_sqnr_db=number(),
    limit=count(way="Data go to data=."),
    train=stream,
    epochs=count(),
    folder=path,
    input_shapes=shapes,
    progress=flag,
)
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
    max_latency: float | None = None,
    min_sqnr_db: float | None = None,
    target: str | Path | targets.Target = "litert",
    limit: int | None = None,
    train: Iterable[Any] | None = None,
    epochs: int = 3,
    folder: str | Path | None = None,
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
        objective: ``bytes`` or ``latency``: what is least among the files that keep the budget.
        max_drop: how much worse than the float model's the metric may be.
        confidence: the drop is taken with so many of its standard errors on top.
        max_bytes: of the file.
        max_latency: the median on this machine, as a fraction of the float model's.
        min_sqnr_db: of the outputs, on held-out calibration samples.
        target: the device.
        limit: use at most so many labelled samples.
        train: unlabelled samples to train on, as the last resort.
        epochs: of that training.
        folder: where scores are kept, as in `search`.
        input_shapes: as in `load`.
        progress: show progress on a terminal.

    Raises:
        RecipeError: for a budget that says nothing of accuracy.
        DataError: for samples that are too few or do not fit.
    """
    budget = Budget(max_drop, confidence, max_bytes, None, max_latency, min_sqnr_db)
    check_budget(budget, objective, has_metric=as_dataset(data) is not None)
    bench = bench_of(source, data, calibration, metric, target, limit, input_shapes, progress=progress)
    before = None if bench.task.data is None else bench.task.evaluate(bench.model)
    with locked(folder) as held:
        makers = _makers(bench, budget, train, epochs, None if held is None else held / _SCORES)
        steps: list[Step] = []
        made: dict[str, tuple[Model, Plan]] = {}
        for name, make in makers:
            try:
                made[name] = make()
            except FeatherweightError as error:
                steps.append(Step(name, None, f"not made: {error}"))
                continue
            row = measured_file(bench, made[name][0], before, budget, needs_latency=True)
            ends = row.fits and name not in _CHEAP[:-1]
            said = "it keeps the budget" if row.fits else listed(row.misses)
            steps.append(Step(name, row, said + ("" if ends or name in _CHEAP[:-1] else ": on to the next step")))
            if ends:
                break
    return _chosen(steps, made, budget, objective)


def _makers(
    bench: Bench, budget: Budget, train: Iterable[Any] | None, epochs: int, scores: Path | None
) -> Iterator[tuple[str, Callable[[], tuple[Model, Plan]]]]:
    """Yields the name of each step, and what makes its model and plan."""
    for name in _CHEAP:
        yield name, lambda name=name: _by_recipe(bench, name)
    yield "int8 repaired", lambda: _repaired(bench)
    yield "mixed", lambda: _mixed(bench, budget, scores)
    if train is not None:
        yield "trained", lambda: _trained(bench, train, epochs)


def _by_recipe(bench: Bench, name: str) -> tuple[Model, Plan]:
    candidate = bench.planned(recipes.load(name))
    require_change(candidate.plan)
    return integer_model(candidate), candidate.plan


def _repaired(bench: Bench) -> tuple[Model, Plan]:
    start = bench.planned(recipes.load("int8"))
    candidate, attempts = improved(bench.setting, start, bench.model, asked_repairs("auto"), is_auto=True)
    plan = replace(candidate.plan, notes=(*candidate.plan.notes, *(f"improve: {attempt}" for attempt in attempts)))
    return rewrite(candidate.model, plan), plan


def _mixed(bench: Bench, budget: Budget, path: Path | None) -> tuple[Model, Plan]:
    scores = scored(bench, FORMS, path=path)
    found = searched(bench, scores, budget, "bytes")
    return found.model, found.plan


def _trained(bench: Bench, samples: Iterable[Any], epochs: int) -> tuple[Model, Plan]:
    from featherweight.tasks.finalize import finalize
    from featherweight.tasks.quantize_aware import quantize_aware
    from featherweight.training.qat import loop

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


def _chosen(steps: list[Step], made: dict[str, tuple[Model, Plan]], budget: Budget, objective: str) -> Optimized:
    rows = {step.name: step.measured for step in steps if step.measured is not None}
    if not rows:
        raise FeatherweightError(f"optimize: no step made a model: {listed((s.reason for s in steps), 6)}.")

    def rank(name: str) -> tuple[float, float]:
        row = rows[name]
        goal = row.latency or 0.0 if objective == "latency" else float(row.file_bytes)
        return shortfall(row, budget), goal

    name = min(rows, key=rank)
    return Optimized(name, *made[name], tuple(steps))
