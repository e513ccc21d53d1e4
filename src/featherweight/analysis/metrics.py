"""Task metrics: how well predictions fit labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from featherweight.errors import DataError


@dataclass(frozen=True)
class Metric:
    """A task metric: one score per example, whose mean is the metric's value.

    `scores` maps labels (n, ...) and predictions (n, ...) to float64 (n,). That makes standard errors and paired
    differences the same computation for every metric.
    """

    name: str
    scores: Callable[[np.ndarray, np.ndarray], np.ndarray]
    higher_is_better: bool
    meaning: str


def top_k_scores(labels: np.ndarray, predictions: np.ndarray, k: int) -> np.ndarray:
    """Returns per example the fraction (0..1) of its positions where the label is among the k largest scores.

    `predictions` is (n, ..., classes); `labels` is (n, ...) class numbers, or one-hot of the predictions' shape. Of
    equal scores the one of the lower class number wins, as in argmax.

    Raises:
        DataError: if shapes do not match, a label is not a class number, or there are no more than k classes.
    """
    classes = predictions.shape[-1] if predictions.ndim > 1 else 1
    if classes <= k:
        raise DataError(
            f"top-{k} accuracy needs one score for each of more than {k} classes, but the predictions have the shape "
            f"{list(predictions.shape)}. Use another metric, or your own with 'pkg.module:function'."
        )
    labels = _class_numbers(labels, predictions.shape)
    own = np.take_along_axis(predictions, labels[..., np.newaxis], axis=-1)
    number = np.arange(classes)
    before = (predictions > own) | ((predictions == own) & (number < labels[..., np.newaxis]))
    hits = (before.sum(axis=-1) < k) & ~np.isnan(own[..., 0])
    return hits.reshape(len(hits), -1).mean(axis=1, dtype=np.float64)


def probability_scores(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns per example the probability (0..1) that the label's class is given, mean over its positions.

    It changes with every output, where accuracy changes with those near a border alone: its paired differences have
    smaller errors. `predictions` (n, ..., classes) that are no distributions are logits, which softmax makes one.

    Raises:
        DataError: if shapes do not match, a label is not a class number, or there is one class.

    >>> probability_scores(np.array([0, 1]), np.array([[0.75, 0.25], [0.5, 0.5]])).tolist()
    [0.75, 0.5]
    """
    top_k_scores(labels, predictions, 1)  # (for what it refuses)
    numbers = _class_numbers(labels, predictions.shape)
    values = predictions.astype(np.float64)
    known = values[~np.isnan(values).any(axis=-1)]
    # (Integers of 1 / 256 round each class.)
    is_given = bool((known >= 0).all()) and np.allclose(known.sum(-1), 1, atol=0.05 + values.shape[-1] / 512)
    if not is_given:
        values = np.exp(values - values.max(axis=-1, keepdims=True))
        values /= values.sum(axis=-1, keepdims=True)
    own = np.take_along_axis(values, numbers[..., np.newaxis], axis=-1)
    return np.nan_to_num(own).reshape(len(own), -1).mean(axis=1)


def _class_numbers(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if labels.shape == shape:
        return labels.argmax(axis=-1)
    if labels.shape == (*shape[:-1], 1):
        labels = labels[..., 0]
    if labels.shape != shape[:-1]:
        raise DataError(
            f"labels have the shape {list(labels.shape)}, but predictions of the shape {list(shape)} need "
            f"{list(shape[:-1])} (class numbers) or {list(shape)} (one-hot)."
        )
    numbers = labels.astype(np.int64)
    wrong = np.flatnonzero((numbers != labels) | (numbers < 0) | (numbers >= shape[-1]))
    if wrong.size:
        raise DataError(
            f"label {wrong[0]} is {labels.reshape(-1)[wrong[0]]}, which is not a class number of a model with "
            f"{shape[-1]} classes (allowed: 0 to {shape[-1] - 1})."
        )
    return numbers


def auc_scores(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns per example its contribution to the area under the ROC curve; their mean is the area.

    The area plus the influence of each example (DeLong et al., 1988: the placement values), so that the scores'
    standard error is DeLong's. `labels` is (n,) of 0 and 1; `predictions` one score per example, or two (the
    second is the positive class's).

    Raises:
        DataError: if labels or scores have another form, or only one class occurs.
    """
    labels = labels.reshape(-1) if labels.size == len(labels) else labels
    if labels.ndim != 1 or not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"auc needs labels 0 and 1, one per example; got the shape {list(labels.shape)} with other values."
        )
    score = predictions.reshape(len(predictions), -1)
    if score.shape[1] > 2:
        raise DataError(
            f"auc needs one score per example (or two: negative, positive), but the predictions have the shape "
            f"{list(predictions.shape)}. Use another metric, or your own with 'pkg.module:function'."
        )
    score = score[:, -1].astype(np.float64)
    if np.isnan(score).any():
        raise DataError(
            f"auc can't rank the prediction of sample {int(np.flatnonzero(np.isnan(score))[0])}: it is NaN."
        )
    positive = labels == 1
    positives, negatives = score[positive], score[~positive]
    if not positives.size or not negatives.size:
        raise DataError(
            f"auc needs examples of both classes; all {len(labels)} labels are {labels[0] if len(labels) else '-'}."
        )
    above = _fraction_below(np.sort(negatives), positives)
    below = 1.0 - _fraction_below(np.sort(positives), negatives)
    area = float(above.mean())
    scores = np.empty(len(labels), np.float64)
    scores[positive] = area + (above - area) * len(labels) / positives.size
    scores[~positive] = area + (below - area) * len(labels) / negatives.size
    return scores


def _fraction_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The fraction of `ordered` below each value; ties count half."""
    low, high = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return (low + high) / (2 * ordered.size)


def _mean_errors(labels: np.ndarray, predictions: np.ndarray, power: int) -> np.ndarray:
    if labels.size == predictions.size and len(labels) == len(predictions):
        labels = labels.reshape(predictions.shape)
    if labels.shape != predictions.shape:
        raise DataError(
            f"labels have the shape {list(labels.shape)}, but the predictions have {list(predictions.shape)}; an error "
            "per element needs the same shape."
        )
    errors = np.abs(predictions.astype(np.float64) - labels.astype(np.float64)) ** power
    return errors.reshape(len(errors), -1).mean(axis=1)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                "accuracy",
                lambda y, p: top_k_scores(y, p, 1),
                True,
                "fraction of labels that are the top class",
            ),
            Metric(
                "top5",
                lambda y, p: top_k_scores(y, p, 5),
                True,
                "fraction of labels among the five top classes",
            ),
            Metric("probability", probability_scores, True, "mean probability of the label's class"),
            Metric("auc", auc_scores, True, "area under the ROC curve"),
            Metric("mse", lambda y, p: _mean_errors(y, p, 2), False, "mean squared error"),
            Metric("mae", lambda y, p: _mean_errors(y, p, 1), False, "mean absolute error"),
        )
    }
)


def standard_error(scores: np.ndarray) -> float:
    """Returns the standard error of the mean of (n,) scores: ``std / sqrt(n)`` with n - 1 degrees of freedom.

    NaN for fewer than two scores.

    >>> standard_error(np.array([0.0, 1.0, 0.0, 1.0])).__round__(4)
    0.2887
    """
    if len(scores) < 2:
        return math.nan
    return float(np.std(scores, ddof=1) / math.sqrt(len(scores)))
