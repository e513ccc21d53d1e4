"""What is measured of a quantized model for its report: errors, histograms, times, task, and what a device takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from featherweight.analysis import Dataset
from featherweight.analysis.agreement import evaluations
from featherweight.analysis.comparison import compared
from featherweight.analysis.evaluation import MetricLike
from featherweight.calibration import calibrate
from featherweight.device_code.footprint import footprint, is_compiled
from featherweight.errors import FeatherweightError
from featherweight.graph import Model
from featherweight.operators.entries import with_main
from featherweight.ptq.plan import Plan
from featherweight.ptq.relevance import relevant_intervals
from featherweight.report.distributions import distributions
from featherweight.report.summary import Report
from featherweight.runtime import benchmark
from featherweight.runtime.operator_times import operator_times
from featherweight.targets.target import Target

T = TypeVar("T")

# Evidence for a report: enough to rank tensors, in little time.
MOST_SAMPLES = 32
_RUNS = 10
# The arithmetic of this machine's runtime: times of files for other chips say nothing about these.
_HERE = "xnnpack"
_FLOAT = "float"


def with_evidence(
    report: Report,
    before: Model,
    after: Model,
    plan: Plan,
    samples: Mapping[int, Iterable[Any]],
    *,
    limit: int | None = None,
    progress: bool = True,
) -> Report:
    """Returns the report with every tensor's error, histograms beside ranges, and times on this machine.

    Args:
        report: as `make_report` gives it.
        before: the float model that the plan is about.
        after: the quantized one.
        plan: what it was made by.
        samples: index of a signature's graph → samples of it; up to 32 examples of each are used.
        limit: use at most so many.
        progress: show progress on a terminal.

    Raises:
        DataError: if samples do not fit the model.
    """
    most = min(limit or MOST_SAMPLES, MOST_SAMPLES)
    errors: list[Any] = []
    histograms: list[Any] = []
    for index, given in samples.items():
        part = list(itertools.islice(given, most))
        pair = with_main(before, index), with_main(after, index)
        intervals: dict[str, Any] = {}
        if plan.params:
            stats = calibrate(pair[0], part, histograms=True, limit=most, progress=progress)
            intervals = relevant_intervals(pair[0].main, stats, {})
            histograms += distributions(pair[0].main, stats, plan.params, intervals)
        errors += compared(*pair, part, intervals, limit=most, progress=progress)
    errors.sort(key=lambda row: (row.sqnr_db, row.cosine, row.name))
    histograms.sort(key=lambda row: -row.clipped)
    found = replace(report, errors=tuple(errors), histograms=tuple(histograms))
    if plan.profile != _HERE:
        return found
    notes = list(report.notes)
    pair = {"before": before, "after": after}
    latency = _measured(lambda: benchmark(pair, runs=_RUNS, progress=progress), "The latency", notes)
    times = _measured(lambda: operator_times(after, runs=_RUNS), "The time per operator", notes)
    return replace(found, latency=tuple(latency or ()), times=times, notes=tuple(notes))


def with_task(
    report: Report, before: Model, after: Model, data: Dataset, metric: MetricLike | None = None, **how: Any
) -> Report:
    """Returns the report with what both models score on a data set, or how often they agree.

    Args:
        report: as `make_report` gives it.
        before: the float model.
        after: the quantized one.
        data: samples, with labels or without, as both models take them.
        metric: as in `analysis.agreement`; None: accuracy, and agreement without labels.
        how: `limit` and `progress`, as for `evaluate`.

    Raises:
        DataError: if samples, labels and metric do not fit the models.
    """
    first, second = evaluations(before, after, data, metric, **how)
    floats = {} if first is None else {_FLOAT: first}
    return replace(report, evaluations={**floats, report.recipe: second})


def with_footprints(report: Report, before: Model, after: Model, target: Target) -> Report:
    """Returns the report with what both models take on the target, where a tool on this machine says so.

    Vela leaves the float model to the processor: there is no figure of it. A tool that fails is a note.
    """
    if report.violations:
        return report
    notes, found = list(report.notes), dict[str, Any]()
    found[report.recipe] = _said(after, target, notes)
    if found[report.recipe] is not None and not is_compiled(target):
        found = {_FLOAT: _said(before, target, []), **found}
    kept = {name: sizes for name, sizes in found.items() if sizes is not None}
    return replace(report, footprints=kept, notes=tuple(notes))


def _said(model: Model, target: Target, notes: list[str]) -> Any:
    """Returns what a tool says of a model; where it fails, its words are a note."""
    try:
        return footprint(model, target)
    except FeatherweightError as error:
        notes.append(str(error))
        return None


def _measured(measure: Callable[[], T], what: str, notes: list[str]) -> T | None:
    """Returns what is measured on this machine; None, and a note of the reason, where the file does not run here."""
    try:
        return measure()
    except FeatherweightError as error:
        notes.append(f"{what} is not in the report: {error}")
        return None
