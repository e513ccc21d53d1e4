"""What is measured of a quantized model for its report: every tensor's error, histograms, latency, and of operators."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from featherweight.analysis import compare
from featherweight.calibration import calibrate
from featherweight.errors import FeatherweightError
from featherweight.graph import Model
from featherweight.operators.entries import with_main
from featherweight.ptq.plan import Plan
from featherweight.report.distributions import distributions
from featherweight.report.summary import Report
from featherweight.runtime import benchmark
from featherweight.runtime.operator_times import operator_times

T = TypeVar("T")

# Evidence for a report: enough to rank tensors, in little time.
MOST_SAMPLES = 32
_RUNS = 10
# The arithmetic of this machine's runtime: times of files for other chips say nothing about these.
_HERE = "xnnpack"


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
        errors += compare(*pair, part, limit=most, progress=progress)
        if plan.params:
            stats = calibrate(pair[0], part, histograms=True, limit=most, progress=progress)
            histograms += distributions(pair[0].main, stats, plan.params)
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


def _measured(measure: Callable[[], T], what: str, notes: list[str]) -> T | None:
    """Returns what is measured on this machine; None, and a note of the reason, where the file does not run here."""
    try:
        return measure()
    except FeatherweightError as error:
        notes.append(f"{what} is not in the report: {error}")
        return None
