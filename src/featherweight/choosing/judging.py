"""Whether a metric can decide between files, and how surely."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from featherweight.analysis.evaluation import Evaluation
from featherweight.choosing.bench import Bench
from featherweight.choosing.budget import Budget, Tried
from featherweight.errors import DataError

# By so many standard errors other samples' labels must fit better than a sample's own, to be no chance.
_SURELY = 4.0


def check_metric(bench: Bench) -> None:
    """Raises DataError for a metric of one's own that is not the same twice, or is lower for better models.

    Which way is better nobody has said of such a metric: it is told by the float model, which a metric that is higher
    for the better can't give more on the labels of other samples than on their own.
    """
    first = bench.before
    if first is None or bench.task.data is None:
        return
    second = bench.task.evaluate(bench.model)
    if first.value != second.value:
        raise DataError(
            f"metric '{first.metric}' is {first.value:.6g} and then {second.value:.6g} on the same model and data. "
            "Make it deterministic: fix its seeds."
        )
    if first.higher_is_better is not None:
        return
    labels = np.asarray(bench.task.data.labels)[: bench.task.limit]
    others = replace(bench.task.data, labels=np.random.default_rng(0).permutation(labels))
    try:
        wrong = replace(bench.task, data=others).evaluate(bench.model)
    except DataError:  # labels that do not belong together are no labels to it
        return
    if wrong.value - first.value > _SURELY * math.hypot(first.standard_error, wrong.standard_error):
        raise DataError(
            f"metric '{first.metric}' is {first.value:.6g} of the float model, and {wrong.value:.6g} with the labels "
            "of other samples: it is lower for the better, and would choose the worst file. Return its negative."
        )


def check_examples(budget: Budget, before: Evaluation | None) -> None:
    """Raises DataError where no file could show the asked confidence on so few examples.

    Of scores between 0 and 1, n that do not change leave it open, at c standard errors, that c² / (n + c²) of others do
    (Wilson's interval, 1927): that must be within the drop. A standard error of 0, which such scores have, says less.
    """
    if before is None or budget.max_drop is None or not budget.confidence:
        return
    scores, squared = before.scores, budget.confidence**2
    if len(scores) != before.count or scores.min() < 0 or scores.max() > 1:
        if not math.isfinite(before.standard_error):
            raise DataError(
                f"search: metric '{before.metric}' has no standard error on {before.count} examples, so that no "
                "confidence can be kept: it takes two examples, and a metric that works on any part of them. Leave "
                "confidence out, or give another metric."
            )
        return
    asked = f"a drop of {budget.max_drop:g} with confidence {budget.confidence:g}"
    if not budget.max_drop:
        raise DataError(f"search: no number of examples shows {asked}. Allow some drop, or leave confidence out.")
    needed = math.ceil(squared * (1 - budget.max_drop) / budget.max_drop)
    if before.count < needed:
        raise DataError(
            f"search: {before.count} labelled examples can't show {asked}: at least {needed} are needed. Give more, "
            "allow a larger drop, or ask for less confidence."
        )


def doubt(row: Tried, before: Evaluation | None, budget: Budget) -> str:
    """Returns what the examples leave open of a drop that was kept, at two standard errors, or "" where that is little.

    Of scores between 0 and 1, where no example changed, Wilson's interval as in `check_examples`.
    """
    if before is None or row.drop is None or budget.max_drop is None or row.drop > budget.max_drop:
        return ""
    squared, scores = 4.0, before.scores
    is_share = len(scores) == before.count and scores.min() >= 0 and scores.max() <= 1
    error = row.drop_error if row.drop_error is not None and math.isfinite(row.drop_error) else math.inf
    # Of one example, or where none has changed, the standard error says nothing.
    is_silent = error in (0, math.inf) and is_share
    most = row.drop + (squared / (before.count + squared) if is_silent else 2 * error)
    if most <= budget.max_drop:
        return ""
    if most == math.inf:
        return (
            f"metric '{before.metric}' has no standard error on {before.count} examples, so that what they leave open "
            "of the drop is not known. Measure it on other data"
        )
    steadier = ", or the metric 'probability', which needs fewer," if before.metric in ("accuracy", "top5") else ""
    return (
        f"{before.count} examples decided; they do not rule out a drop of {most:.2g} at two standard errors, and of "
        "many files the luckiest is taken. Measure it on other data; "
        f"more examples, a confidence{steadier} make it surer"
    )
