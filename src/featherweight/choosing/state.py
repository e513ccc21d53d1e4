"""The state of a search: what was tried, how a choice becomes a measured file, and what is kept of it on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from featherweight.analysis.evaluation import Evaluation
from featherweight.choosing.bench import Bench, decibels
from featherweight.choosing.budget import Budget, Tried, goal, misses, shortfall
from featherweight.choosing.estimates import scaled
from featherweight.choosing.parts import FLOAT, FORMS
from featherweight.choosing.scores import Scores
from featherweight.choosing.solve import chosen_forms
from featherweight.device_code.vela import NpuFigures
from featherweight.errors import RecipeError
from featherweight.graph import Model
from featherweight.ptq.plan import Plan
from featherweight.tflite import save, write_atomically

_RESULTS = "search.json"
_log = logging.getLogger("featherweight")


@dataclass
class State:
    """The state of a search: what was tried, and how a choice becomes a measured file.

    Attributes:
        known: what an earlier run of the same search has measured and this one has not come to: it goes the same way
            again, so that it ends as if it had not been interrupted.
    """

    bench: Bench
    scores: Scores
    budget: Budget
    objective: str
    folder: Path | None
    before: Evaluation | None
    tried: dict[tuple[str, ...], Tried] = field(default_factory=dict[tuple[str, ...], Tried])
    known: dict[tuple[str, ...], Tried] = field(default_factory=dict[tuple[str, ...], Tried])
    best: Tried | None = None
    made: tuple[Model, Plan] | None = None

    def __post_init__(self) -> None:
        self.needs_latency = self.budget.needs_latency or self.objective == "latency"
        self.take_scores(self.scores)

    def take_scores(self, scores: Scores) -> None:
        """Decides by these scores from now on."""
        self.scores = scores
        self.noise: dict[str, dict[str, float]] = {part: {FLOAT: 0.0} for part in scores.parts}
        self.size: dict[str, dict[str, float]] = {part: {FLOAT: 0.0} for part in scores.parts}
        for row in scaled(scores.rows):
            if row.is_possible:
                self.noise[row.part][row.form] = row.noise
                self.size[row.part][row.form] = -float(row.saved_bytes)
        if not self.bench.setting.target.is_float_allowed:
            for costs in (self.noise, self.size):
                for forms in costs.values():
                    if len(forms) > 1:
                        del forms[FLOAT]

    def resume(self) -> None:
        """Takes over what an earlier search on the same scores and task has measured.

        Of a search within another budget, the files are there from the start.
        """
        path = None if self.folder is None else self.folder / _RESULTS
        if path is None or not path.is_file():
            return
        try:
            content = json.loads(path.read_text("utf-8"))
            rows = [_read(row) for row in content["tried"]]
            about: dict[str, str] = dict(content["about"])
            is_same = (content["budget"], content["objective"]) == (asdict(self.budget), self.objective)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RecipeError(f"'{path}' holds no search ({error}). Name another folder, or delete it.") from error
        if about != self.about():
            task, other = about.get("task") or "the outputs alone", self.about()["task"] or "the outputs alone"
            _log.warning(
                f"search: '{path}' keeps files that were measured by {task}; they are measured anew by {other}, and "
                "those take their place."
            )
            return
        wanted = self.bench.accelerator
        for row in rows:
            is_measured = (row.latency is not None or not self.needs_latency) and (
                not wanted or (row.npu is not None and row.npu.accelerator == wanted)
            )
            is_known = set(row.choice) == set(self.scores.parts) and is_measured
            if is_known and all(form in self.noise[part] for part, form in row.choice.items()):
                row = replace(row, misses=misses(row, self.budget))
                if is_same:
                    self.known[self.key(row.choice, is_repaired=row.is_repaired)] = row
                else:
                    self._take(row)

    def about(self) -> dict[str, str]:
        """Returns what the measurements depend on."""
        return {**self.scores.about, "task": self.bench.about_task}

    def predicted(self, choice: Mapping[str, str]) -> float:
        """Returns the noise that the scores of a choice add up to."""
        return sum(self.noise[part][form] for part, form in choice.items())

    def measure(self, choice: Mapping[str, str], *, is_repaired: bool = False) -> Tried:
        """Returns what a choice comes to as a file, once; the best so far is on disk."""
        if (key := self.key(choice, is_repaired=is_repaired)) in self.tried:
            return self.tried[key]
        if key in self.known:
            row = self.known.pop(key)
            self._take(row)
            return row
        candidate, repairs = self.bench.candidate(choice), ()
        if is_repaired:
            candidate, repairs = self.bench.repaired(candidate)
        model = self.bench.file(candidate)
        row = self.bench.measured(model, self.before, self.budget, needs_latency=self.needs_latency)
        predicted = decibels(self.predicted(choice))
        row = replace(row, choice=dict(choice), predicted_db=predicted, repairs=repairs, is_repaired=is_repaired)
        if self._take(row):
            self.made = model, candidate.plan
            self.keep_best(model, candidate.plan)
        self.keep_results()
        return row

    def take_known(self) -> None:
        """Adds what an earlier run has measured and this one did not come to, such as files of other code."""
        for row in self.known.values():
            self._take(row)
        self.known.clear()

    def key(self, choice: Mapping[str, str], *, is_repaired: bool = False) -> tuple[str, ...]:
        """Returns what a file is known by: the forms of all parts in order, and whether its weights are repaired."""
        return (*(choice[part] for part in self.scores.parts), *(["repaired"] if is_repaired else []))

    def best_made(self) -> tuple[Model, Plan]:
        """Returns the best file's model and plan, made again where an earlier search has measured it."""
        assert self.best is not None
        if self.made is None:
            candidate = self.bench.candidate(self.best.choice)
            if self.best.is_repaired:
                candidate, _ = self.bench.repaired(candidate)
            self.made = self.bench.file(candidate), candidate.plan
        return self.made

    def _take(self, row: Tried) -> bool:
        """Adds a measured file, and returns whether it is the best so far."""
        self.tried[self.key(row.choice, is_repaired=row.is_repaired)] = row
        if self.best is not None and self._rank(row) >= self._rank(self.best):
            return False
        self.best, self.made = row, None
        return True

    def _rank(self, row: Tried) -> tuple[float, ...]:
        """Returns what is smaller for the better of two."""
        return (shortfall(row), goal(row, self.objective), row.loss, float(row.file_bytes))

    def keep_best(self, model: Model, plan: Plan) -> None:
        """Writes the best file so far with its plan."""
        if self.folder is not None:
            save(model, self.folder / "best.tflite")
            plan.save(self.folder / "best_plan.json")

    def keep_results(self) -> None:
        """Writes all that was measured."""
        if self.folder is None:
            return
        rows = [asdict(row) for row in (*self.tried.values(), *self.known.values())]
        content = {
            "version": 1,
            "about": self.about(),
            "objective": self.objective,
            "budget": asdict(self.budget),
            "tried": rows,
        }
        write_atomically(self.folder / _RESULTS, [(json.dumps(content, indent=1) + "\n").encode()])

    def uniform(self, form: str) -> dict[str, str]:
        """Returns the choice of one form for all parts; those that can't take it have the smallest that they can."""
        return {part: form if form in costs else min(costs, key=costs.__getitem__) for part, costs in self.size.items()}

    def likest(self, part: str, form: str, activation: str | None) -> str:
        """Returns a part's form with such activations, with the weights of another form if it can; else that form."""
        others = [other for other in self.noise[part] if FORMS[other].activation == activation and other != FLOAT]
        same = [other for other in others if FORMS[other].steps == FORMS[form].steps]
        return next(iter(same or others), form)

    def solved(self, noise: float) -> dict[str, str] | None:
        """Returns the smallest choice whose noise adds up to no more."""
        return chosen_forms(self.size, self.noise, noise)


def _read(row: dict[str, Any]) -> Tried:
    npu = row.pop("npu")
    values: dict[str, Any] = {**row, "misses": (), "repairs": tuple(row["repairs"])}
    return Tried(**values, npu=None if npu is None else NpuFigures(**npu))
