"""How well a model and another form of it do one task, on one data set: by labels, or by the first one's classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from featherweight.analysis.datasets import Dataset
from featherweight.analysis.evaluation import Evaluation, MetricLike, evaluate, needs_labels
from featherweight.analysis.metrics import standard_error, top_k_scores
from featherweight.analysis.predicting import predict
from featherweight.errors import DataError, listed
from featherweight.graph import Model, io_names

AGREEMENT = "agreement"
_SCORES_RANK = 2


def metric_for(metric: MetricLike | None, model: Model, dataset: Dataset) -> MetricLike:
    """Returns the metric that a model is judged by on a data set: ``accuracy`` where there are labels, else agreement.

    Args:
        metric: as asked for; None chooses.
        model: the float model.
        dataset: its labels may be None.

    Raises:
        DataError: if there is no such metric, it needs labels that are not there, or no output is scores of classes.
    """
    chosen = metric if metric is not None else AGREEMENT if dataset.labels is None else "accuracy"
    if chosen == AGREEMENT:
        _require_classes(model, dataset.source)
    elif needs_labels(chosen) and dataset.labels is None:
        raise DataError(
            f"{dataset.source} has no labels, which {chosen} needs. Give an array 'y' beside the samples, or metric "
            f"'{AGREEMENT}', which counts the examples that keep the float model's class."
        )
    return chosen


def evaluations(
    before: Model, after: Model, dataset: Dataset, metric: MetricLike | None = None, **how: Any
) -> tuple[Evaluation | None, Evaluation]:
    """Returns what both models score on one data set, on LiteRT; of agreement the second alone.

    Agreement is the fraction of examples whose largest output is the first model's.

    Args:
        before: the float model.
        after: another form of it.
        dataset: samples as both take them, with labels or without.
        metric: as `metric_for`.
        how: `limit`, `threads` and `progress`, as for `evaluate`.

    Raises:
        DataError: as `metric_for` and `evaluate`.
    """
    chosen = metric_for(metric, before, dataset)
    if not hasattr(dataset.samples, "__len__"):
        dataset = replace(dataset, samples=list(dataset.samples))
    if chosen != AGREEMENT:
        return evaluate(before, dataset, chosen, **how), evaluate(after, dataset, chosen, **how)
    first, second = (next(iter(predict(each, dataset.samples, **how).values())) for each in (before, after))
    scores = top_k_scores(np.argmax(first, axis=-1), second, 1)
    value, error = float(scores.mean()), standard_error(scores)
    return None, Evaluation(AGREEMENT, value, error, len(scores), True, scores)


def _require_classes(model: Model, source: str) -> None:
    inputs, outputs = ([model.main.tensors[name].shape for name in names.values()] for names in io_names(model))
    if len(outputs) == 1 and len(outputs[0]) == _SCORES_RANK and outputs[0][-1] > 1 and outputs[0] not in inputs:
        return
    shapes = listed(str(list(shape)) for shape in outputs)
    raise DataError(
        f"{source} has no labels, and the model's outputs, of shape {shapes}, are not the scores of one choice among "
        "classes, which both models could agree on. Give labels and a metric (mse, map, …), or no data: what the "
        "outputs lose is measured on the calibration samples in any case."
    )
