"""The flow: steps that each make a file, which is measured, and why one is run, left out, or the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from featherweight.choosing.bench import Bench
from featherweight.choosing.budget import Budget, Tried, goal, shortfall
from featherweight.choosing.judging import doubt
from featherweight.errors import FeatherweightError, listed
from featherweight.graph import Model
from featherweight.ptq.plan import Plan

STOPS = ("first", "best")


@dataclass(frozen=True)
class Step:
    """One step of the flow.

    Attributes:
        measured: the file that it made; None where it made none.
        reason: what it misses of the budget, or that it keeps it; or why there is no file.
    """

    name: str
    measured: Tried | None
    reason: str


@dataclass(frozen=True, eq=False)
class Optimized:
    """The best file of the flow, and its steps.

    Attributes:
        name: of the step that made it.
        doubt: what the examples leave open of its drop, or "".
    """

    name: str
    model: Model
    plan: Plan
    steps: tuple[Step, ...]
    doubt: str = ""

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


@dataclass(eq=False)
class Flow:
    """What steps share, and what they have made.

    Attributes:
        source: of the model, as `load` takes it.
        stop: of `STOPS`: with the first file behind those of recipes that keeps the budget, or when none can be better.
        improved: the model with the repairs of its float graph, once they were made.
        made: the models of steps, with their plans.
    """

    source: Any
    bench: Bench
    budget: Budget
    objective: str
    stop: str
    folder: Path | None
    estimate: bool
    jobs: int
    engine: str
    improved: Bench | None = None
    steps: list[Step] = field(default_factory=list[Step])
    made: dict[str, tuple[Model, Plan]] = field(default_factory=dict[str, tuple[Model, Plan]])

    @property
    def rows(self) -> dict[str, Tried]:
        """What was measured, by the names of steps."""
        return {step.name: step.measured for step in self.steps if step.measured is not None}

    @property
    def best(self) -> str:
        """The step whose file misses the budget by least, or among those that keep it is best in the objective."""
        rows = self.rows
        return min(rows, key=lambda name: (shortfall(rows[name]), goal(rows[name], self.objective)), default="")


def take(flow: Flow, name: str, make: Callable[[], tuple[Model, Plan]], *, is_last_resort: bool = False) -> None:
    """Makes and measures the file of one step; a last resort only where it may bring a better one than there is."""
    if is_last_resort and (idle := _idle(flow, name)):
        flow.steps.append(Step(name, None, f"not run: {idle}"))
        return
    try:
        flow.made[name] = make()
    except FeatherweightError as error:
        flow.steps.append(Step(name, None, f"not made: {error}"))
        return
    row = flow.bench.measured(flow.made[name][0], flow.bench.before, flow.budget, needs_latency=True)
    flow.steps.append(Step(name, row, "it keeps the budget" if row.fits else listed(row.misses)))


def _idle(flow: Flow, name: str) -> str:
    """Returns why a last resort need not run, or "" where it may bring a better file.

    Repairs and training leave a form's size and time as they are: only accuracy is to be had of them.
    """
    rows, best = flow.rows, flow.best
    form = name.removeprefix("trained ").removesuffix(" repaired")
    if best and rows[best].fits:
        if flow.stop == "first":
            return f"'{best}' keeps the budget, and the flow stops at the first that does (stop='best' goes on)"
        is_idle = flow.objective != "accuracy" and form in rows
        if is_idle and goal(rows[best], flow.objective) <= goal(rows[form], flow.objective):
            return f"its file could not be better in {flow.objective} than that of '{best}', which keeps the budget"
    if form in rows and not rows[form].is_small:
        return f"it changes accuracy alone, and '{form}' misses limits of size or time"
    return ""


def chosen(flow: Flow) -> Optimized:
    """Returns the best of what was made.

    Raises:
        FeatherweightError: if no step made a file.
    """
    name = flow.best
    if not name:
        raise FeatherweightError(f"optimize: no step made a model: {listed((s.reason for s in flow.steps), 6)}.")
    model, plan = flow.made[name]
    said = doubt(flow.rows[name], flow.bench.before, flow.budget)
    if said and not any(said in note for note in plan.notes):
        plan = replace(plan, notes=(*plan.notes, f"optimize: {said}"))
    return Optimized(name, model, plan, tuple(flow.steps), said)
