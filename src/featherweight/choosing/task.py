"""The task that models are held to: a metric on labelled data, or the float model's own outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featherweight.analysis.datasets import Dataset
from featherweight.analysis.evaluation import (
    Evaluation,
    MetricLike,
    evaluate,
    paired_difference,
    resolve_metric,
    teacher_boxes,
)
from featherweight.detections.boxes import Boxes, is_boxes
from featherweight.detections.truth import Truth, as_truth, is_truth
from featherweight.errors import DataError
from featherweight.graph import Model
from featherweight.tflite import read


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
        if self.data is None:
            return ""
        labels = f" of {self.data.labels.digest}" if isinstance(self.data.labels, Truth) else ""
        return str(getattr(self.metric, "__name__", self.metric)) + labels

    def evaluate(self, model: Model) -> Evaluation:
        """Returns the metric of a model."""
        assert self.data is not None
        return evaluate(model, self.data, self.metric, limit=self.limit, progress=False)


def drop_of(after: Evaluation, before: Evaluation) -> tuple[float, float]:
    """Returns how much worse a metric is, and the standard error of that paired difference."""
    found = paired_difference(after, before)
    sign = 1.0 if before.higher_is_better is False else -1.0
    return sign * found.value + 0.0, found.standard_error  # (and no −0)


def as_dataset(data: Any) -> Dataset | None:
    """Returns labelled data as a data set that can be gone over again; None for samples without labels."""
    if isinstance(data, Dataset):
        return None if data.labels is None else replace(data, samples=_held(data.samples))
    if isinstance(data, tuple) and len(data) == 2:
        return Dataset(_held(data[0]), data[1] if is_truth(data[1]) else np.asarray(data[1]), "data")
    return None


def has_metric(data: Any, metric: MetricLike) -> bool:
    """Returns whether data and metric say what a model is for; boxes can be the float model's own."""
    return as_dataset(data) is not None or (data is not None and is_boxes(metric))


def task_of(data: Any, metric: MetricLike, limit: int | None, model: Model) -> Task:
    """Returns what a model is for: a metric on labelled data, or, for boxes without labels, its own boxes on it.

    Args:
        data: the pair (samples, labels), a data set, or for a metric about boxes samples alone; None: the outputs.
        metric: as `evaluate` takes it.
        limit: of the number of samples.
        model: the float model, whose boxes other forms are to find where nothing else is wanted.

    Raises:
        DataError: for data without labels, where the metric needs them.
    """
    if data is None:
        return Task(None, metric, limit)
    found = as_dataset(data)
    about = resolve_metric(metric)
    if not isinstance(about, Boxes) and found is None:
        raise DataError(
            "search: data has no labels. Give the pair (samples, labels), or leave data out and judge by the outputs."
        )
    if isinstance(about, Boxes):
        samples = found.samples if found else _held(data.samples if isinstance(data, Dataset) else data)
        given = about.truth
        if given is None and about.teacher is None and found is not None and is_truth(found.labels):
            given = found.labels
        if given is None:
            teacher = model if about.teacher is None else read(about.teacher)
            labels = teacher_boxes(teacher, samples, about, limit=limit)
        else:
            labels = as_truth(given, order=about.truth_order)
        return Task(Dataset(samples, labels, "data"), replace(about, truth=None, teacher=None), limit)
    return Task(found, metric, limit)


def _held(samples: Any) -> Any:
    return samples if hasattr(samples, "shape") or isinstance(samples, (list, dict)) else list(samples)
