"""The search: choices on the front of noise and bytes, made into files, measured, and refined by swaps and repairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.choosing.bench import Bench
from featherweight.choosing.budget import Budget, Tried, goal, shortfall
from featherweight.choosing.judging import doubt
from featherweight.choosing.parts import FLOAT, FORMS
from featherweight.choosing.scores import Scores, scores_in
from featherweight.choosing.sensitivity import measured
from featherweight.choosing.state import State
from featherweight.errors import RecipeError, listed
from featherweight.graph import Model
from featherweight.ptq.plan import Plan
from featherweight.runtime.progress import track
from featherweight.targets.target import Violation, check

# Points of the front between the least and the most noise; and rounds of refinement around the best of
# them, which end after some that brought nothing.
_POINTS, _BISECTIONS, _SWAPS, _FAILURES = 10, 6, 40, 8
_BEARABLE = 1.2
# What saves less than this share of the file is not worth making and measuring one.
_LEAST_SAVED = 5e-4
# Steps beyond the border of the budget, each so much noisier.
_BEYOND, _STEP = 6, 1.12
# Files whose size is looked at in one round, for moved borders.
_BORDERS = 16
# Files beyond the budget of accuracy whose weights are repaired, as long as that brings them within it.
_REPAIRED = 3


@dataclass(frozen=True, eq=False)
class Found:
    """The best file, and all that were tried.

    Attributes:
        best: what fits the budget and is best in the objective; else what misses it by least.
        tried: every file that was measured, in order.
        violations: what the target does not run of the model.
        doubt: what the examples leave open of the drop, or "".
    """

    best: Tried
    model: Model
    plan: Plan
    tried: tuple[Tried, ...]
    scores: Scores
    violations: tuple[Violation, ...] = ()
    doubt: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns best, front, all that were tried, and violations as plain values."""
        front, tried = ([asdict(row) for row in rows] for rows in (self.front, self.tried))
        return {
            "best": asdict(self.best),
            "front": front,
            "tried": tried,
            "violations": [asdict(each) for each in self.violations],
        }

    @property
    def front(self) -> tuple[Tried, ...]:
        """The files that no other beats in what is lost and in bytes (of flash, where Vela counts), smallest first."""
        rows = sorted(self.tried, key=lambda row: (row.kept_bytes, row.file_bytes, row.loss))
        found: list[Tried] = []
        for row in rows:
            if not found or row.loss < found[-1].loss:
                found.append(row)
        return tuple(found)


def searched(
    bench: Bench,
    forms: Sequence[str],
    budget: Budget,
    objective: str,
    folder: Path | None = None,
    *,
    estimate: bool = False,
    jobs: int = 1,
    engine: str = "processes",
) -> Found:
    """Returns the best model that keeps a budget, as measured on the exported files.

    Scores do not quite add up, and sizes hardly: so choices along the front of added-up noise and bytes are made into
    files and measured, and so are single forms for all, and 4 bits with ends in 8; then the front is halved between
    those that fit and those that don't, and last single parts of the best are moved to smaller or finer forms.

    Args:
        bench: of the model.
        forms: that parts may take.
        budget: checked on the files.
        objective: ``bytes``, ``latency`` or ``accuracy``.
        folder: where scores and the best file so far are kept with its plan, and what was tried.
        estimate: measure the scores of those parts only that differ between the files of the front that keep the
            accuracy and those that don't; of others, errors are propagated.
        jobs: number of workers for scores.
        engine: of these.

    Raises:
        RecipeError: for a budget that says nothing.
    """
    measure = partial(measured, bench, forms, path=scores_in(folder), jobs=jobs, engine=engine)
    scores, target = measure(only=() if estimate else None), bench.setting.target
    if not any(row.is_possible for row in scores.rows):
        reasons = dict.fromkeys(row.kept_float for row in scores.rows if row.kept_float)
        why = f": {listed(reasons, 2)}" if reasons else ""
        raise RecipeError(
            f"search: no part of the model takes any of the forms {listed(forms)} on target '{target.name}'{why}. Give "
            "other forms, or another target."
        )
    state = State(bench, scores, budget, objective, folder, bench.before)
    state.resume()
    low = sum(min(forms.values()) for forms in state.noise.values())
    high = sum(max(forms.values()) for forms in state.noise.values())
    # The front begins where one part alone is quantized, the one that costs least; where none may be float, with all.
    least = max(low, min((n for forms in state.noise.values() for n in forms.values() if n), default=0.0), 1e-9)
    levels = np.geomspace(least, max(high, least), _POINTS)
    names = dict.fromkeys(form for forms in state.noise.values() for form in forms)
    uniform = {form: state.measure(state.uniform(form)) for form in names}
    for choice in _with_finer_ends(state, uniform):
        state.measure(choice)
    shown = track(levels.tolist(), "searching", total=len(levels), enabled=bench.setting.progress)
    choices = ((level, state.solved(max(level, low))) for level in shown)
    front = [(level, state.measure(choice)) for level, choice in choices if choice is not None]
    if not any(row.is_accurate for row in state.tried.values()):
        front += [(0.5 * least, state.measure(choice)) for choice in [state.solved(low)] if choice is not None]
    if estimate and (contested := _contested(state, front)):
        state.take_scores(measure(only=contested))
    _bisect(state, front, low)
    _swap(state)
    if bench.repairs:
        _repair(state)
    state.take_known()
    assert state.best is not None
    model, plan = state.best_made()
    if doubted := doubt(state.best, state.before, budget):
        plan = replace(plan, notes=(*plan.notes, f"search: {doubted}"))
    state.keep_best(model, plan)
    state.keep_results()
    tried, violations = tuple(state.tried.values()), tuple(check(model, target))
    return Found(state.best, model, plan, tried, state.scores, violations, doubted)


def _with_finer_ends(state: State, uniform: Mapping[str, Tried]) -> Iterator[dict[str, str]]:
    """Yields the choices of 4 bits for all that lose too much, with 8 in the first and the last layer.

    Errors of layers can cancel, which sums of scores do not know; this common rule is therefore tried by itself.
    """
    layers = [part.name for part in state.bench.parts if part.weight_elements]
    for form, row in uniform.items():
        if FORMS[form].steps == "int4" and not row.is_accurate and len(layers) > 2:
            finer = {part: state.likest(part, "int8", FORMS[form].activation) for part in (layers[0], layers[-1])}
            yield {**row.choice, **{part: form for part, form in finer.items() if form in state.noise[part]}}


def _borders(state: State, front: list[tuple[float, Tried]]) -> tuple[tuple[float, Tried], tuple[float, Tried]] | None:
    """Returns the noisiest of the front that keeps the accuracy and the next one, which does not."""
    ordered = sorted(front, key=lambda each: each[0])
    return next(((a, b) for a, b in itertools.pairwise(ordered) if _keeps(state, a[1]) > _keeps(state, b[1])), None)


def _keeps(state: State, row: Tried) -> bool:
    # As objective, accuracy is limited by size: what is too large needs more noise.
    return not row.is_small if state.objective == "accuracy" else row.is_accurate


def _contested(state: State, front: list[tuple[float, Tried]]) -> set[tuple[str, str]]:
    """Returns the parts and forms that the decision is about: those that differ at the border of the budget."""
    borders = _borders(state, front)
    if borders is None:
        return set()
    (_, one), (_, other) = borders
    differing = [part for part in one.choice if one.choice[part] != other.choice[part]]
    return {(part, form) for part in differing for form in state.noise[part] if form != FLOAT}


def _bisect(state: State, front: list[tuple[float, Tried]], low: float) -> None:
    """Halves the front between its borders, and looks some steps beyond: accuracy is not quite monotonous."""
    borders = _borders(state, front)
    if borders is None:
        return
    left, right = (level for level, _ in borders)
    for _ in range(_BISECTIONS):
        middle = math.sqrt(left * right)
        choice = state.solved(max(middle, low))
        if choice is None:
            return
        left, right = (middle, right) if _keeps(state, state.measure(choice)) else (left, middle)
    failures = 0
    for _ in range(_BEYOND):
        right *= _STEP
        choice = state.solved(max(right, low))
        if choice is None or failures == _BEYOND // 2:
            return
        failures = 0 if _keeps(state, state.measure(choice)) else failures + 1


def _swap(state: State) -> None:
    """Moves single parts of the best to the form that wins most for what it costs, as long as that is better."""
    # More noise than any file had that is accurate enough is not worth a try.
    accurate = [state.predicted(row.choice) for row in state.tried.values() if row.is_accurate]
    bearable = _BEARABLE * max(accurate, default=math.inf)
    failures = 0
    for _ in range(_SWAPS):
        best = state.best
        assert best is not None
        moves: list[tuple[float, dict[str, str]]] = []
        for part, form in best.choice.items():
            for other in state.noise[part]:
                noise = state.noise[part][other] - state.noise[part][form]
                size = state.size[part][other] - state.size[part][form]
                is_smaller = state.objective != "accuracy" and best.is_accurate
                wanted, paid = (size, noise) if is_smaller else (noise, size)
                is_hopeless = is_smaller and state.predicted(best.choice) + noise > bearable
                least = _LEAST_SAVED * best.file_bytes if state.objective == "bytes" and is_smaller else 0.0
                if wanted < -least and not is_hopeless:
                    moves.append((wanted / max(paid, 1e-12), {**best.choice, part: other}))
        if state.objective == "bytes" and best.is_accurate:
            moves += _border_moves(state, best, bearable)
        untried = [m for m in sorted(moves, key=lambda move: move[0]) if state.key(m[1]) not in state.tried]
        if not untried:
            return
        state.measure(untried[0][1])
        failures = 0 if state.best is not best else failures + 1
        if failures == _FAILURES:
            return


def _border_moves(state: State, best: Tried, bearable: float) -> list[tuple[float, dict[str, str]]]:
    """Returns choices in which a border between integers and floats lies one or two parts further, or is gone.

    What a border takes in the file is in no part's score: these are compared by the sizes of real files.
    """
    parts, found = list(best.choice), list[tuple[float, dict[str, str]]]()
    held = [FORMS[best.choice[part]].activation for part in parts]
    borders = [at for at in range(1, len(parts)) if held[at] != held[at - 1]]
    for at, steps in itertools.product(borders, (1, 2)):
        for moved, wanted in ((parts[at : at + steps], held[at - 1]), (parts[max(at - steps, 0) : at], held[at])):
            choice = {**best.choice, **{part: state.likest(part, best.choice[part], wanted) for part in moved}}
            noise = state.predicted(choice)
            if noise <= bearable and state.key(choice) not in state.tried and len(found) < _BORDERS:
                size = state.bench.file_bytes(choice) - best.file_bytes
                gain = noise - state.predicted(best.choice)
                is_saving = size < -_LEAST_SAVED * best.file_bytes
                found += [(size / max(gain, 1e-12), choice)] if is_saving else []
    return found


def _repair(state: State) -> None:
    """Repairs the weights of the best file and of those that would be better if they kept the accuracy, nearest first.

    It ends with the first that still misses the budget: those beyond it are noisier.
    """
    best = state.best
    assert best is not None
    nearly = [row for row in state.tried.values() if not row.is_repaired and row.is_small and not row.fits]
    better = [row for row in nearly if goal(row, state.objective) < goal(best, state.objective)]
    better.sort(key=shortfall)
    state.measure(best.choice, is_repaired=True)
    for row in better[:_REPAIRED]:
        if not state.measure(row.choice, is_repaired=True).fits:
            return
