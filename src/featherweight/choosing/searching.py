"""The search: choices on the front of noise and bytes, made into files, measured, and refined by swaps."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.analysis.evaluation import Evaluation
from featherweight.choosing.parts import FLOAT
from featherweight.choosing.scores import IMPOSSIBLE, Scores
from featherweight.choosing.sensitivity import Bench, drop_of
from featherweight.choosing.solve import chosen_forms
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model
from featherweight.ptq.plan import Plan
from featherweight.repair.candidate import integer_model
from featherweight.runtime.benchmark import benchmark
from featherweight.runtime.progress import track
from featherweight.runtime.sizes import sizes_bytes
from featherweight.tflite import save, write_atomically

OBJECTIVES = ("bytes", "latency", "accuracy")
# Points of the front between the least and the most noise; and rounds of refinement around the best of them.
_POINTS, _BISECTIONS, _SWAPS = 8, 5, 12
_BEARABLE = 1.2
_LATENCY_RUNS = 20
_RESULTS = "search.json"


@dataclass(frozen=True)
class Budget:
    """What the exported file must keep; None: no limit.

    Attributes:
        max_drop: of the metric below the float model's; without a metric, see `min_sqnr_db`.
        confidence: the drop counts with so many standard errors on top of it.
        max_bytes: of the file.
        max_compressed_bytes: of the file, deflated.
        max_latency: the median on this machine, as a fraction of the float model's.
        min_sqnr_db: of the outputs, the mean over examples.
    """

    max_drop: float | None = None
    confidence: float = 0.0
    max_bytes: int | None = None
    max_compressed_bytes: int | None = None
    max_latency: float | None = None
    min_sqnr_db: float | None = None


@dataclass(frozen=True)
class Tried:
    """One file that was made and measured.

    Attributes:
        choice: part → form.
        predicted_db: what the scores add up to, as a ratio at the outputs.
        sqnr_db: what was measured: the mean over examples, as `predicted_db`.
        value: the metric, with its standard error; None without one.
        drop: how much worse that is than in float, with the standard error of the paired difference.
        latency: the median as a fraction of the float model's; None where it was not asked for.
        misses: by how much it misses which limits of the budget, in words; empty if it keeps them.
    """

    choice: Mapping[str, str]
    file_bytes: int
    compressed_bytes: int
    predicted_db: float
    sqnr_db: float
    value: float | None = None
    standard_error: float | None = None
    drop: float | None = None
    drop_error: float | None = None
    latency: float | None = None
    misses: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether it keeps the budget."""
        return not self.misses


@dataclass(frozen=True, eq=False)
class Found:
    """The best file, and all that were tried.

    Attributes:
        best: what fits the budget and is best in the objective; else what misses it by least.
        tried: every file that was measured, in order.
    """

    best: Tried
    model: Model
    plan: Plan
    tried: tuple[Tried, ...]
    scores: Scores

    def to_json(self) -> dict[str, Any]:
        """Returns best, front and all that were tried as plain values."""
        front, tried = ([asdict(row) for row in rows] for rows in (self.front, self.tried))
        return {"version": 1, "best": asdict(self.best), "front": front, "tried": tried}

    @property
    def front(self) -> tuple[Tried, ...]:
        """The files that no other beats both in bytes and in what is lost, smallest first."""
        rows = sorted(self.tried, key=lambda row: (row.file_bytes, _loss(row)))
        found: list[Tried] = []
        for row in rows:
            if not found or _loss(row) < _loss(found[-1]):
                found.append(row)
        return tuple(found)


def _loss(row: Tried) -> float:
    return row.drop if row.drop is not None else -row.sqnr_db


@dataclass
class _Search:
    """The state of a search: what was tried, and how a choice becomes a measured file."""

    bench: Bench
    scores: Scores
    budget: Budget
    objective: str
    folder: Path | None
    before: Evaluation | None
    tried: dict[tuple[str, ...], Tried] = field(default_factory=dict[tuple[str, ...], Tried])
    best: Tried | None = None

    def __post_init__(self) -> None:
        parts, rows = self.scores.parts, self.scores.rows
        self.noise: dict[str, dict[str, float]] = {part: {FLOAT: 0.0} for part in parts}
        self.size: dict[str, dict[str, float]] = {part: {FLOAT: 0.0} for part in parts}
        for row in rows:
            if row.noise < IMPOSSIBLE and not row.kept_float:
                self.noise[row.part][row.form] = row.noise
                self.size[row.part][row.form] = -float(row.saved_bytes)
        if not self.bench.setting.target.is_float_allowed:
            for costs in (self.noise, self.size):
                for part in parts:
                    if len(costs[part]) > 1:
                        del costs[part][FLOAT]

    def resume(self) -> None:
        """Takes over what an earlier search on the same scores and task has measured."""
        path = None if self.folder is None else self.folder / _RESULTS
        if path is None or not path.is_file():
            return
        try:
            content = json.loads(path.read_text("utf-8"))
            rows = [_read(row) for row in content["tried"]]
            is_same = content["about"] == self.about()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RecipeError(f"'{path}' holds no search ({error}). Name another folder, or delete it.") from error
        needs_latency = self.budget.max_latency is not None or self.objective == "latency"
        for row in rows if is_same else ():
            is_known = set(row.choice) == set(self.scores.parts) and not (needs_latency and row.latency is None)
            if is_known and all(form in self.noise[part] for part, form in row.choice.items()):
                row = replace(row, misses=misses(row, self.budget))
                self.tried[_key(self, row.choice)] = row
                self.best = row if self.best is None or self._rank(row) < self._rank(self.best) else self.best

    def about(self) -> dict[str, str]:
        """Returns what the measurements depend on."""
        task = "" if self.before is None else f"{self.before.metric} {self.before.value!r} of {self.before.count}"
        return {**self.scores.about, "task": task}

    def predicted(self, choice: Mapping[str, str]) -> float:
        """Returns the noise that the scores of a choice add up to."""
        return sum(self.noise[part][form] for part, form in choice.items())

    def measure(self, choice: Mapping[str, str]) -> Tried:
        """Returns what a choice comes to as a file, once; the best so far is on disk."""
        key = tuple(choice[part] for part in self.scores.parts)
        if key in self.tried:
            return self.tried[key]
        candidate = self.bench.candidate(choice)
        model = integer_model(candidate)
        needs_latency = self.budget.max_latency is not None or self.objective == "latency"
        row = measured_file(self.bench, model, self.before, self.budget, needs_latency=needs_latency)
        row = replace(row, choice=dict(choice), predicted_db=_decibels(self.predicted(choice)))
        self.tried[key] = row
        if self.best is None or self._rank(row) < self._rank(self.best):
            self.best = row
            self.keep_best(model, candidate.plan)
        self.keep_results()
        return row

    def _rank(self, row: Tried) -> tuple[Any, ...]:
        """Returns what is smaller for the better of two."""
        goal = {"bytes": row.file_bytes, "latency": row.latency, "accuracy": _loss(row)}[self.objective]
        return (shortfall(row, self.budget), goal, _loss(row), row.file_bytes)

    def keep_best(self, model: Model, plan: Plan) -> None:
        """Writes the best file so far with its plan."""
        if self.folder is not None:
            save(model, self.folder / "best.tflite")
            plan.save(self.folder / "best_plan.json")

    def keep_results(self) -> None:
        """Writes all that was measured."""
        if self.folder is None:
            return
        rows = [asdict(row) for row in self.tried.values()]
        content = {
            "version": 1,
            "about": self.about(),
            "objective": self.objective,
            "budget": asdict(self.budget),
            "tried": rows,
        }
        write_atomically(self.folder / _RESULTS, [(json.dumps(content, indent=1) + "\n").encode()])

    def solved(self, noise: float) -> dict[str, str] | None:
        """Returns the smallest choice whose noise adds up to no more."""
        return chosen_forms(self.size, self.noise, noise)


def measured_file(
    bench: Bench, model: Model, before: Evaluation | None, budget: Budget, *, needs_latency: bool
) -> Tried:
    """Returns what a model comes to as a file: bytes, error and metric, and its latency where that is wanted."""
    raw, compressed = sizes_bytes(model)
    level = _decibels(float(bench.noise(model).mean()))
    row = Tried({}, raw, compressed or 0, level, level)
    if before is not None:
        after = bench.task.evaluate(model)
        drop, error = drop_of(after, before)
        row = replace(row, value=after.value, standard_error=after.standard_error, drop=drop, drop_error=error)
    if needs_latency:
        models = {"float": bench.model, "this": model}
        row = replace(row, latency=benchmark(models, runs=_LATENCY_RUNS, progress=False)[1].ratio)
    return replace(row, misses=misses(row, budget))


def _read(row: dict[str, Any]) -> Tried:
    values: dict[str, Any] = {**row, "misses": ()}
    return Tried(**values)


def misses(row: Tried, budget: Budget) -> tuple[str, ...]:
    """Returns by how much a file misses which limits, in words."""
    return tuple(text.format(excess) for text, excess, _ in _excesses(row, budget))


def shortfall(row: Tried, budget: Budget) -> float:
    """Returns by how much a file misses its budget, each limit in its own units; 0 where it fits."""
    return sum(excess / unit for _, excess, unit in _excesses(row, budget))


def _excesses(row: Tried, budget: Budget) -> list[tuple[str, float, float]]:
    """Returns (what to say of it, by how much, what counts as one) for each limit that a file misses."""
    least = None if budget.min_sqnr_db is None else -budget.min_sqnr_db
    limits: tuple[tuple[str, float | None, float | None, float | None], ...] = (
        ("the metric drops by {:.4g} more than allowed", _confident_drop(row, budget), budget.max_drop, 0.01),
        ("the file has {:,.0f} bytes too many", row.file_bytes, budget.max_bytes, budget.max_bytes),
        (
            "the deflated file has {:,.0f} bytes too many",
            row.compressed_bytes,
            budget.max_compressed_bytes,
            budget.max_compressed_bytes,
        ),
        ("latency is {:.3f} of the float model's above the limit", row.latency, budget.max_latency, budget.max_latency),
        ("the outputs are {:.2f} dB too noisy", -row.sqnr_db, least, 3.0),
    )
    return [
        (text, value - limit, unit or 1.0)
        for text, value, limit, unit in limits
        if value is not None and limit is not None and value > limit
    ]


def _confident_drop(row: Tried, budget: Budget) -> float | None:
    if row.drop is None:
        return None
    error = row.drop_error if row.drop_error is not None and math.isfinite(row.drop_error) else 0.0
    return row.drop + budget.confidence * error


def _decibels(noise: float) -> float:
    return -10 * math.log10(max(noise, 1e-12))


def check_budget(budget: Budget, objective: str, *, has_metric: bool) -> None:
    """Raises RecipeError for a budget that says nothing, or what nothing here can measure."""
    if objective not in OBJECTIVES:
        raise RecipeError(f"search: objective '{objective}' is unknown (allowed: {listed(OBJECTIVES)}).")
    if budget.max_drop is not None and not has_metric:
        raise RecipeError(
            "search: max_drop is about a metric, which needs labelled data: the pair (samples, labels). Without, give "
            "min_sqnr_db."
        )
    accuracy = (budget.max_drop, budget.min_sqnr_db)
    size = (budget.max_bytes, budget.max_compressed_bytes, budget.max_latency)
    if objective == "accuracy" and size == (None, None, None):
        raise RecipeError("search: the most accurate model is the float one. Give max_bytes, or another limit of size.")
    if objective != "accuracy" and accuracy == (None, None):
        raise RecipeError(
            f"search: the model of least {objective} would be noise. Give max_drop (with labels), or min_sqnr_db."
        )


def searched(bench: Bench, scores: Scores, budget: Budget, objective: str, folder: Path | None = None) -> Found:
    """Returns the best model that keeps a budget, as measured on the exported files.

    Scores do not quite add up, and sizes hardly: so choices along the front of added-up noise and bytes are made into
    files and measured, then the front is halved between those that fit and those that don't, and last single parts
    of the best are moved to smaller or finer forms.

    Args:
        bench: of the model.
        scores: of its parts.
        budget: checked on the files.
        objective: ``bytes``, ``latency`` or ``accuracy``.
        folder: where the best file so far is kept with its plan, and what was tried.

    Raises:
        RecipeError: for a budget that says nothing.
    """
    check_budget(budget, objective, has_metric=bench.task.data is not None)
    before = None if bench.task.data is None else bench.task.evaluate(bench.model)
    state = _Search(bench, scores, budget, objective, folder, before)
    state.resume()
    low = sum(min(forms.values()) for forms in state.noise.values())
    high = sum(max(forms.values()) for forms in state.noise.values())
    # What is quantized at all, as finely as can be, is where the front begins; all float is beyond it.
    least = max(low, sum(min((n for n in forms.values() if n), default=0.0) for forms in state.noise.values()), 1e-9)
    levels = np.geomspace(least, max(high, least), _POINTS)
    shown = track(levels.tolist(), "searching", total=len(levels), enabled=bench.setting.progress)
    choices = ((level, state.solved(max(level, low))) for level in shown)
    front = [(level, state.measure(choice)) for level, choice in choices if choice is not None]
    _bisect(state, front, low)
    _swap(state)
    assert state.best is not None
    candidate = bench.candidate(state.best.choice)
    model = integer_model(candidate)
    state.keep_best(model, candidate.plan)
    state.keep_results()
    return Found(state.best, model, candidate.plan, tuple(state.tried.values()), scores)


def _bisect(state: _Search, front: list[tuple[float, Tried]], low: float) -> None:
    """Halves the front between the noisiest that keeps the accuracy and the next one, which does not."""

    def keeps(row: Tried) -> bool:
        # As objective, accuracy is limited by size: what is too large needs more noise.
        is_large = any("bytes" in miss or "latency" in miss for miss in row.misses)
        return is_large if state.objective == "accuracy" else not any("bytes" not in m for m in row.misses)

    ordered = sorted(front, key=lambda each: each[0])
    for (left, first), (right, second) in itertools.pairwise(ordered):
        if keeps(first) and not keeps(second):
            for _ in range(_BISECTIONS):
                middle = math.sqrt(left * right)
                choice = state.solved(max(middle, low))
                if choice is None:
                    break
                left, right = (middle, right) if keeps(state.measure(choice)) else (left, middle)
            break


def _swap(state: _Search) -> None:
    """Moves single parts of the best to the form that wins most for what it costs, as long as that is better."""
    # More noise than any file had that fits is not worth a try.
    fitting = [state.predicted(row.choice) for row in state.tried.values() if row.fits]
    bearable = _BEARABLE * max(fitting, default=math.inf)
    for _ in range(_SWAPS):
        best = state.best
        assert best is not None
        moves: list[tuple[float, dict[str, str]]] = []
        for part, form in best.choice.items():
            for other in state.noise[part]:
                noise = state.noise[part][other] - state.noise[part][form]
                size = state.size[part][other] - state.size[part][form]
                is_smaller = state.objective != "accuracy" and best.fits
                wanted, paid = (size, noise) if is_smaller else (noise, size)
                is_hopeless = is_smaller and state.predicted(best.choice) + noise > bearable
                if wanted < 0 and not is_hopeless:
                    moves.append((wanted / max(paid, 1e-12), {**best.choice, part: other}))
        untried = [m for m in sorted(moves, key=lambda move: move[0]) if _key(state, m[1]) not in state.tried]
        if not untried:
            return
        state.measure(untried[0][1])


def _key(state: _Search, choice: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(choice[part] for part in state.scores.parts)
