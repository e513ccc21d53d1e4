"""Measures what each part of a model costs at the outputs, and in the task, in each form that it can take."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from featherweight.analysis.evaluation import Evaluation
from featherweight.choosing.bench import Bench
from featherweight.choosing.estimates import estimated
from featherweight.choosing.parts import FLOAT, Part, allowed_forms
from featherweight.choosing.scores import IMPOSSIBLE, Score, Scores, resumed
from featherweight.choosing.task import drop_of
from featherweight.errors import FeatherweightError
from featherweight.graph import Model
from featherweight.repair.fingerprints import fingerprints
from featherweight.runtime.progress import track
from featherweight.runtime.workers import mapped

_TASK = "task"
_log = logging.getLogger("featherweight")


def about(bench: Bench, forms: Sequence[str]) -> dict[str, str]:
    """Returns what scores depend on, each as a short text that changes when it does."""
    setting = bench.setting
    repairs = [repair.name for repair in bench.repairs]
    settings = (setting.io, setting.ranges, setting.integers, sorted(bench.methods.items()), repairs, bench.is_auto)
    return {
        **fingerprints(setting, (bench.model, bench.graph), settings),
        "forms": ", ".join(forms),
        "bytes": bench.counted,
    }


def measured(
    bench: Bench,
    forms: Sequence[str],
    *,
    path: Path | None = None,
    with_task: bool = False,
    only: Collection[tuple[str, str]] | None = None,
    jobs: int = 1,
    engine: str = "processes",
) -> Scores:
    """Returns the scores of all parts in all forms that the target runs.

    Args:
        bench: of the model.
        forms: names of `choosing.parts.FORMS`, the first of them is what all parts take for `Score.without`.
        path: where the scores are kept after each one; what is there already is not measured again.
        with_task: measure the metric of each, too, when it alone is quantized and when all but it is.
        only: run models for these parts in these forms, and for what can't be estimated (`choosing.estimates`); None:
            for all.
        jobs: number of workers, as `runtime.workers.mapped` takes it; the scores are the same on any number.
        engine: of these.

    Raises:
        RecipeError: if the file at `path` is about something else.
    """
    setting, task = bench.setting, bench.task
    names = {part.name: part.operators for part in bench.parts}
    fresh = Scores(about(bench, forms), (), names, bench.float_bytes, len(setting.held_out), task.name)
    scores = resumed(path, fresh)
    wanted = [
        (part, form)
        for part in bench.parts
        for form in allowed_forms(part, bench.graph, setting.target, forms)
        if form != FLOAT
    ]
    is_task = with_task and task.data is not None
    if is_task:
        scores = _of_task(scores, bench.about_task, task.name, path)
    if only is not None and any(scores.find(p.name, f) is None for p, f in wanted):
        for row in estimated(bench, [form for form in forms if form != FLOAT]):
            scores = scores if scores.find(row.part, row.form) else scores.with_row(row)
        _keep(scores, path)

    def is_missing(part: str, form: str) -> bool:
        row = scores.find(part, form)
        may_estimate = only is not None and (part, form) not in only
        is_enough = row is not None and (may_estimate or not row.is_estimate)
        return not is_enough or (is_task and row is not None and row.drop is None)

    missing = {part.name: [f for p, f in wanted if p is part and is_missing(p.name, f)] for part in bench.parts}
    work = [(part, tuple(missing[part.name])) for part in bench.parts if missing[part.name]]
    if not work:
        return scores
    whole, after = _whole(bench, forms), None
    bench.counted_bytes(whole)  # once, for all workers
    if is_task and bench.before is not None:
        after = bench.task.evaluate(bench.probe(whole)[0])
    results = mapped(partial(_scored, bench, whole, after), work, jobs=jobs, engine=engine)
    for rows in track(results, "measuring", total=len(work), enabled=setting.progress):
        for row in rows:
            guess = scores.find(row.part, row.form)
            if guess is not None:
                row = replace(
                    row,
                    estimate=guess.estimate,
                    weights_noise=guess.weights_noise,
                    activations_noise=guess.activations_noise,
                )
            scores = scores.with_row(row)
        _keep(scores, path)
    return scores


def _of_task(scores: Scores, about_task: str, metric: str, path: Path | None) -> Scores:
    """Returns scores whose drops are those of a task: drops of another one are left out, which is said."""
    before = scores.about.get(_TASK)
    if before == about_task:
        return scores
    if before:
        _log.warning(f"sensitivity: '{path}' keeps drops of {before}; they are measured anew, of {about_task}.")
    rows = [replace(r, drop=None, drop_error=None, without=None, without_error=None) for r in scores.rows]
    return replace(scores, rows=tuple(rows), metric=metric, about={**scores.about, _TASK: about_task})


def _keep(scores: Scores, path: Path | None) -> None:
    if path is not None:
        scores.save(path)


def _scored(
    bench: Bench, whole: Mapping[str, str], after: Evaluation | None, work: tuple[Part, Sequence[str]]
) -> list[Score]:
    """Returns the scores of one part: its forms have the file and the metric without it in common.

    Args:
        bench: of the model.
        whole: a form for each part, which all others take for `Score.saved_bytes` and `Score.without`.
        after: the metric of that; None: no metric is measured.
        work: the part, and its forms.
    """
    part, forms = work
    rows: list[Score] = []
    all_but: Evaluation | None = None
    for form in forms:
        try:
            model, plan = bench.probe({part.name: form})
            saved = bench.saved_bytes(whole, part.name, form)
        except FeatherweightError as error:  # a form that this part can't take: its reason is the score's
            rows.append(Score(part.name, form, IMPOSSIBLE, 0.0, 0, kept_float=str(error)))
            continue
        noise = bench.noise(model)
        error = float(noise.std(ddof=1) / np.sqrt(len(noise))) if len(noise) > 1 else IMPOSSIBLE
        reason = plan.kept_float.get(part.operators[0], "")
        row = Score(part.name, form, float(noise.mean()), error, saved, kept_float=reason)
        if after is not None and bench.before is not None:
            all_but = all_but or bench.task.evaluate(bench.probe({**whole, part.name: FLOAT})[0])
            row = _with_drops(bench, row, model, whole, after, all_but)
        rows.append(row)
    return rows


def _with_drops(
    bench: Bench, row: Score, model: Model, whole: Mapping[str, str], after: Evaluation, all_but: Evaluation
) -> Score:
    assert bench.before is not None
    drop, error = drop_of(bench.task.evaluate(model), bench.before)
    if row.form != whole[row.part]:
        after = bench.task.evaluate(bench.probe({**whole, row.part: row.form})[0])
    without, without_error = drop_of(after, all_but)
    return replace(row, drop=drop, drop_error=error, without=without, without_error=without_error)


def _whole(bench: Bench, forms: Sequence[str]) -> dict[str, str]:
    """Returns the choice of the first form that each part can take."""
    found: dict[str, str] = {}
    for part in bench.parts:
        allowed = allowed_forms(part, bench.graph, bench.setting.target, forms)
        found[part.name] = allowed[0] if allowed else FLOAT
    return found
