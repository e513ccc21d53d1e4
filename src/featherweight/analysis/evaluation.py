"""Measures how well a model does its task, on the real runtime, with standard errors and paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.analysis.datasets import Dataset
from featherweight.analysis.metrics import METRICS, Metric, own_value, standard_error
from featherweight.analysis.predicting import found_by, predict
from featherweight.arguments import checked, count, flag, instance, shown, stream, text
from featherweight.arguments.python_functions import find_function, is_reference
from featherweight.detections.boxes import NAME, Boxes, boxes_of, is_boxes
from featherweight.detections.truth import Truth, as_truth, is_truth
from featherweight.errors import DataError, listed
from featherweight.graph import Model, ModelLike
from featherweight.operators.profiles import Profile
from featherweight.runtime.litert import MOST_THREADS

MetricLike = str | Boxes | Callable[[Any, Any], float]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The value of a task metric over `count` examples.

    Attributes:
        standard_error: of the value; NaN where it can't be told (fewer than two examples).
        scores: numbers whose mean is the value, float64: one per example, or, for metrics of one's own, one per
            group of examples (jackknife pseudo-values), or, for ``map``, one per draw of images with replacement,
            spread so that their standard error is that of the value. `paired_difference` works on them.
    """

    metric: str
    value: float
    standard_error: float
    count: int
    higher_is_better: bool | None
    scores: np.ndarray = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns value, standard error (None where unknown), count and metric, without the scores."""
        error = self.standard_error if math.isfinite(self.standard_error) else None
        return {"metric": self.metric, "value": self.value, "standard_error": error, "count": self.count}

    @property
    def value_text(self) -> str:
        """The value with its standard error, in the digits that the error leaves.

        >>> Evaluation("accuracy", 0.91234, 0.0063, 2000, True, np.zeros(0)).value_text
        '0.9123 ± 0.0063'
        """
        if not math.isfinite(self.standard_error) or not self.standard_error:
            return f"{self.value:.4g}"
        digits = max(1 - math.floor(math.log10(self.standard_error)), 0)
        return f"{self.value:.{digits}f} ± {self.standard_error:.{digits}f}"

    def __str__(self) -> str:
        error = f" ± {self.standard_error:.2g}" if math.isfinite(self.standard_error) else ""
        return f"{self.metric} {self.value:.6g}{error} ({self.count} examples)"


@dataclass(frozen=True)
class Difference:
    """The difference of two evaluations on the same examples, with its standard error.

    Attributes:
        changed: fraction (0..1) of examples (or groups) whose score differs.
        is_significant: true beyond two standard errors.
    """

    value: float
    standard_error: float
    changed: float
    is_significant: bool


@checked(limit=count(), output=text, threads=count(1, MOST_THREADS), progress=flag)
def evaluate(
    model: ModelLike,
    data: Dataset | tuple[Iterable[Any], Any],
    metric: MetricLike = "accuracy",
    *,
    limit: int | None = None,
    output: str | None = None,
    profile: str | Profile | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Returns a task metric of the model on LiteRT; integer inputs and outputs are converted from and to real numbers.

    Args:
        model: what `load` takes.
        data: a `Dataset`, or the pair (samples, labels); of ``map``, samples alone where the description says the rest.
        metric: the name of a metric (see `metrics.METRICS`), ``"map"`` or a `Boxes` for detectors,
            ``"pkg.module:function"``, or a function (y_true, y_pred) -> number. A function gets every output by name if
            the model has several.
        limit: use at most so many samples.
        output: the output to score, where the model has several.
        profile: run on the reference kernels in this arithmetic instead of on LiteRT: what another chip would score.
        threads: threads of the runtime.
        progress: show a progress bar.

    Raises:
        DataError: if metric, labels and predictions do not fit together, or samples do not fit the model.
        FormatError: if the model can't be read.
        RecipeError: if the profile is unknown, or the model computes with floats only.
        UnsupportedOp: if the model can't run in the profile.
    """
    model = tflite.read(model)
    chosen = resolve_metric(metric)
    dataset = data if isinstance(data, Dataset) else _dataset(data, needs_labels=not isinstance(chosen, Boxes))
    if isinstance(chosen, Boxes):
        if output is not None:
            raise DataError("evaluate: output has no effect on map. Name outputs in the description: boxes=, scores=.")
        how = {"limit": limit, "profile": profile, "threads": threads, "progress": progress}
        return _boxes_metric(model, dataset, chosen, how)
    if dataset.labels is None:
        raise DataError(f"{dataset.source} has no labels, which a metric needs. Give the pair (samples, labels).")
    predictions = predict(model, dataset.samples, limit=limit, profile=profile, threads=threads, progress=progress)
    count = len(next(iter(predictions.values())))
    if is_truth(dataset.labels):
        raise DataError(f"evaluate: the labels are boxes, and {metric} needs one label per sample. Use metric 'map'.")
    labels = np.asarray(dataset.labels)
    if limit is not None:
        labels = labels[:limit]
    if len(labels) != count:
        raise DataError(
            f"{dataset.source}: there are {count} samples, but {len(labels)} labels. Give one label per sample."
        )
    if isinstance(chosen, Metric):
        _check_numbers(labels, chosen.name)
        scores = chosen.scores(labels, _one_output(predictions, output, chosen.name))
        value, error = float(scores.mean()), standard_error(scores)
        return Evaluation(chosen.name, value, error, count, chosen.higher_is_better, scores)
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", "metric")
    several = len(predictions) > 1 and output is None
    y_pred = predictions if several else _one_output(predictions, output, name)
    value, error, scores = own_value(name, chosen, labels, y_pred, count)
    return Evaluation(name, value, error, count, None, scores)


def _boxes_metric(model: Model, dataset: Dataset, about: Boxes, how: dict[str, Any]) -> Evaluation:
    """Returns the mean average precision of the boxes that a description makes of a model's outputs."""
    samples, labels = dataset.samples, dataset.labels if about.truth is None else about.truth
    if about.teacher is not None:
        samples = samples if hasattr(samples, "__len__") else list(samples)
        labels = teacher_boxes(tflite.read(about.teacher), samples, about, **{**how, "profile": None})
    if labels is None:
        raise DataError(
            f"{dataset.source} does not say what is on the images, which {NAME} needs. Give boxes as labels, or name "
            "them in the description (truth=annotations.json), or a float model whose boxes are wanted "
            "(teacher=float.tflite)."
        )
    truth = as_truth(labels, order=about.truth_order)
    found = found_by(model, samples, about, **how)
    result = found.scored(truth, getattr(samples, "files", None), is_cut=how["limit"] is not None)
    scores = result.scores
    return Evaluation(NAME, result.value, standard_error(scores), len(found.found), True, scores)


def teacher_boxes(model: Model, samples: Iterable[Any], about: Boxes, **how: Any) -> Truth:
    """Returns what a model finds on samples, as the truth for other forms of it."""
    return found_by(model, samples, about, **how).as_truth(about.teacher_score, "the teacher")


def _dataset(data: Any, *, needs_labels: bool) -> Dataset:
    if not needs_labels and not (isinstance(data, tuple) and len(data) == 2):
        return Dataset(stream(data, "evaluate: data"), None, "evaluate")
    if not isinstance(data, tuple) or len(data) != 2:
        raise DataError(
            f"evaluate: data is {shown(data)} (allowed: the pair (samples, labels), or a Dataset). Give both, for "
            "example (x_test, y_test)."
        )
    return Dataset(stream(data[0], "evaluate: data[0]"), _labels(data[1]), "evaluate")


def _labels(given: Any) -> Any:
    if given is None or is_truth(given):
        return given
    try:
        labels = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"evaluate: the labels can't be read as an array ({error}). Give one label per sample."
        ) from error
    if labels.ndim == 0 or labels.dtype.kind not in "biufSU":
        raise DataError(
            f"evaluate: the labels are {shown(given)} of type {labels.dtype} (allowed: an array with one label per "
            "sample)."
        )
    return labels


def _check_numbers(labels: np.ndarray, metric: str) -> None:
    if labels.dtype.kind not in "biuf":
        raise DataError(
            f"evaluate: the labels are texts, such as {labels.reshape(-1)[0].item()!r}, and {metric} needs numbers. "
            "Give classes their numbers, in the order of the model's outputs."
        )
    if (unknown := np.flatnonzero(~np.isfinite(labels))).size:
        where = np.unravel_index(int(unknown[0]), labels.shape)[0]
        raise DataError(
            f"evaluate: label {int(where)} is or holds {labels.reshape(-1)[unknown[0]]}. Give finite numbers, or leave "
            "the example out."
        )


def resolve_metric(metric: MetricLike) -> Metric | Boxes | Callable[[Any, Any], float]:
    """Returns a known metric's record, a description of boxes, or the function itself.

    Raises:
        DataError: if there is no such metric or function.

    >>> resolve_metric("accuracy").higher_is_better
    True
    """
    if is_boxes(metric):
        return boxes_of(metric)  # pyright: ignore[reportArgumentType]
    if not isinstance(metric, str):
        if not callable(metric):
            raise DataError(
                f"A metric is a name or a function (y_true, y_pred) -> number, not {shown(metric)}. Labels go to data: "
                "the pair (samples, labels)."
            )
        return metric
    if metric in METRICS:
        return METRICS[metric]
    if is_reference(metric):
        return find_function(metric, "Metric")
    raise DataError(
        f"Unknown metric '{metric}'. Choose one of {listed([*METRICS, NAME])}, or give 'pkg.module:function'."
    )


def needs_labels(metric: MetricLike) -> bool:
    """Returns whether a metric needs labels beside the samples.

    Raises:
        DataError: as `resolve_metric`.

    >>> needs_labels("accuracy"), needs_labels("map:teacher=float.tflite")
    (True, False)
    """
    return not isinstance(resolve_metric(metric), Boxes)


def _one_output(predictions: dict[str, np.ndarray], output: str | None, metric: str) -> np.ndarray:
    if output is None and len(predictions) == 1:
        return next(iter(predictions.values()))
    if output not in predictions:
        wish = f"there is no output '{output}'" if output else f"{metric} scores one output, but the model has several"
        raise DataError(f"{wish} (the outputs are {listed(predictions)}). Choose one of them.")
    return predictions[output]


@checked(after=instance(Evaluation), before=instance(Evaluation))
def paired_difference(after: Evaluation, before: Evaluation) -> Difference:
    """Returns ``after - before`` over the same examples in the same order, with the standard error of the difference.

    Paired scores cancel what both models find hard, so the error is far smaller than those of the two values.

    Raises:
        DataError: if the two are of different metrics or different numbers of examples.

    >>> a = Evaluation("accuracy", 0.5, 0.3, 4, True, np.array([1.0, 0.0, 1.0, 0.0]))
    >>> b = Evaluation("accuracy", 0.75, 0.25, 4, True, np.array([1.0, 1.0, 1.0, 0.0]))
    >>> paired_difference(a, b)
    Difference(value=-0.25, standard_error=0.25, changed=0.25, is_significant=False)
    """
    if after.metric == before.metric and after.count == before.count and len(after.scores) != len(before.scores):
        raise DataError(
            f"Metric '{after.metric}' fails on some of the groups of examples that its standard error is taken from, "
            "with one of the models. Make it work on any part of the examples."
        )
    if after.metric != before.metric or after.count != before.count:
        raise DataError(
            f"A paired difference needs one metric over the same examples; got {after.metric} over {after.count} and "
            f"{before.metric} over {before.count}."
        )
    delta = after.scores - before.scores
    value, error = after.value - before.value, standard_error(delta)
    changed = float(np.mean(delta != 0)) if delta.size else 0.0
    is_significant = bool(math.isfinite(error) and abs(value) > 2 * error and value != 0)
    return Difference(value, error, changed, is_significant)
