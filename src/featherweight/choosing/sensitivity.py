"""Measures what each part of a model costs at the outputs, and in the task, in each form that it can take."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.analysis.datasets import Dataset
from featherweight.analysis.evaluation import Evaluation, MetricLike, evaluate, paired_difference
from featherweight.choosing.parts import FLOAT, Part, allowed_forms, parts_of, recipe_of
from featherweight.choosing.scores import IMPOSSIBLE, Score, Scores, resumed
from featherweight.errors import FeatherweightError
from featherweight.graph import Model
from featherweight.recipes.recipe import Recipe
from featherweight.repair.candidate import Candidate, Setting, integer_model, planned
from featherweight.repair.judge import Judge
from featherweight.runtime.progress import track
from featherweight.runtime.sizes import sizes_bytes
from featherweight.runtime.workers import mapped
from featherweight.tflite import write
from featherweight.version import package_version


@dataclass(frozen=True, eq=False)
class Task:
    """How well a model does what it is for.

    Attributes:
        data: labelled samples, which can be gone over again; None where the float model's outputs are the task.
        metric: as `evaluate` takes it.
        limit: of the number of samples.
    """

    data: Dataset | None = None
    metric: MetricLike = "accuracy"
    limit: int | None = None

    @property
    def name(self) -> str:
        """What the metric is called, or "" where there is none."""
        return "" if self.data is None else str(getattr(self.metric, "__name__", self.metric))

    def evaluate(self, model: Model) -> Evaluation:
        """Returns the metric of a model."""
        assert self.data is not None
        return evaluate(model, self.data, self.metric, limit=self.limit, progress=False)


def drop_of(after: Evaluation, before: Evaluation) -> tuple[float, float]:
    """Returns how much worse a metric is, and the standard error of that paired difference."""
    found = paired_difference(after, before)
    sign = 1.0 if before.higher_is_better is False else -1.0
    return sign * found.value + 0.0, found.standard_error  # (and no −0)


class Bench:
    """Makes models with some parts in some forms, and measures them on the runtime.

    Args:
        setting: has the samples to calibrate with, and those to judge by.
        model: a float model.
        task: what it is for.
        notes: on the model, for all plans.
    """

    def __init__(self, setting: Setting, model: Model, task: Task, notes: Sequence[str] = ()) -> None:
        self.setting, self.model, self.task, self.notes = setting, model, task, tuple(notes)
        self.parts = parts_of(model)
        self.judge = Judge(model, setting.held_out)
        self.float_bytes = sizes_bytes(model, compress=False)[0]
        everything = recipe_of({part.name: "int8" for part in self.parts}, self.parts)
        self.stats = planned(setting, model, everything).stats

    def candidate(self, choice: Mapping[str, str]) -> Candidate:
        """Returns the model with a form for each part; float where none is chosen."""
        return self.planned(recipe_of(choice, self.parts))

    def planned(self, recipe: Recipe) -> Candidate:
        """Returns the model under a recipe, with the ranges that were measured once."""
        found = planned(self.setting, self.model, recipe, stats=self.stats if recipe.needs_ranges else None)
        return replace(found, plan=replace(found.plan, notes=(*self.notes, *found.plan.notes)))

    def noise(self, model: Model) -> np.ndarray:
        """Returns the error's power at the outputs as a fraction of theirs, for each held-out run."""
        return 10 ** (-self.judge.levels(model) / 10)


def about(setting: Setting, model: Model, forms: Sequence[str]) -> dict[str, str]:
    """Returns what scores depend on, each as a short text that changes when it does."""
    samples = hashlib.sha256()
    for feed in (*setting.samples, *setting.held_out):
        for name, values in feed.items():
            samples.update(name.encode() + str(values.shape).encode() + np.ascontiguousarray(values).tobytes())
    settings = repr((setting.io, setting.ranges, setting.integers, tuple(forms)))
    return {
        "model": hashlib.sha256(write(model)).hexdigest(),
        "samples": samples.hexdigest(),
        "target": hashlib.sha256(repr(setting.target).encode()).hexdigest() + f" {setting.target.name}",
        "settings": settings,
        "version": package_version(),
    }


def measured(
    bench: Bench,
    forms: Sequence[str],
    *,
    path: Path | None = None,
    with_task: bool = False,
    jobs: int = 1,
    engine: str = "processes",
) -> Scores:
    """Returns the scores of all parts in all forms that the target runs.

    Args:
        bench: of the model.
        forms: names of `choosing.parts.FORMS`, the first of them is what all parts take for `Score.without`.
        path: where the scores are kept after each one; what is there already is not measured again.
        with_task: measure the metric of each, too, when it alone is quantized and when all but it is.
        jobs: number of workers, as `runtime.workers.mapped` takes it; the scores are the same on any number.
        engine: of these.

    Raises:
        RecipeError: if the file at `path` is about something else.
    """
    setting, task = bench.setting, bench.task
    names = {part.name: part.operators for part in bench.parts}
    fresh = Scores(about(setting, bench.model, forms), (), names, bench.float_bytes, len(setting.held_out), task.name)
    scores = resumed(path, fresh)
    wanted = [
        (part, form)
        for part in bench.parts
        for form in allowed_forms(part, bench.model, setting.target, forms)
        if form != FLOAT
    ]
    is_task = with_task and task.data is not None
    missing = [(p, f) for p, f in wanted if (row := scores.find(p.name, f)) is None or (is_task and row.drop is None)]
    before = task.evaluate(bench.model) if is_task and missing else None
    whole = _whole(bench, forms) if is_task and missing else None
    work = partial(_scored, bench, before, whole)
    results = mapped(work, missing, jobs=jobs, engine=engine)
    for row in track(results, "measuring", total=len(missing), enabled=setting.progress):
        scores = scores.with_row(row)
        if path is not None:
            scores.save(path)
    return scores


def _scored(bench: Bench, before: Evaluation | None, whole: Mapping[str, str] | None, work: tuple[Part, str]) -> Score:
    row = _score(bench, *work)
    return row if before is None else _with_drops(bench, row, work[1], before, whole)


def _score(bench: Bench, part: Part, form: str) -> Score:
    try:
        candidate = bench.candidate({part.name: form})
        model = integer_model(candidate)
    except FeatherweightError as error:  # a form that this part can't take: its reason is the score's
        return Score(part.name, form, IMPOSSIBLE, 0.0, 0, kept_float=str(error))
    noise = bench.noise(model)
    error = float(noise.std(ddof=1) / np.sqrt(len(noise))) if len(noise) > 1 else IMPOSSIBLE
    saved = bench.float_bytes - sizes_bytes(model, compress=False)[0]
    reason = candidate.plan.kept_float.get(part.operators[0], "")
    return Score(part.name, form, float(noise.mean()), error, saved, kept_float=reason)


def _whole(bench: Bench, forms: Sequence[str]) -> dict[str, str]:
    """Returns the choice of the first form that each part can take."""
    found: dict[str, str] = {}
    for part in bench.parts:
        allowed = allowed_forms(part, bench.model, bench.setting.target, forms)
        found[part.name] = allowed[0] if allowed else FLOAT
    return found


def _with_drops(bench: Bench, row: Score, form: str, before: Evaluation, whole: Mapping[str, str] | None) -> Score:
    if row.noise == IMPOSSIBLE:
        return row
    alone = bench.task.evaluate(integer_model(bench.candidate({row.part: form})))
    drop, error = drop_of(alone, before)
    row = replace(row, drop=drop, drop_error=error)
    if whole is None:
        return row
    everything = bench.task.evaluate(integer_model(bench.candidate({**whole, row.part: form})))
    all_but = bench.task.evaluate(integer_model(bench.candidate({**whole, row.part: FLOAT})))
    without, without_error = drop_of(everything, all_but)
    return replace(row, without=without, without_error=without_error)


def as_dataset(data: Any) -> Dataset | None:
    """Returns labelled data as a data set that can be gone over again; None for samples without labels."""
    if isinstance(data, Dataset):
        return None if data.labels is None else replace(data, samples=_held(data.samples))
    if isinstance(data, tuple) and len(data) == 2:
        return Dataset(_held(data[0]), np.asarray(data[1]), "data")
    return None


def _held(samples: Any) -> Any:
    return samples if hasattr(samples, "shape") or isinstance(samples, (list, dict)) else list(samples)
