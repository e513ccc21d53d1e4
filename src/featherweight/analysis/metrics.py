"""Task metrics: how well predictions fit labels, by the names of metrics or by a function of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from featherweight.arguments import shown
from featherweight.errors import DataError

_JACKKNIFE_GROUPS = 20


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
            f"auc can't rank the prediction of sample {int(np.flatnonzero(np.isnan(score))[0])}: it is NaN. "
            "Repair the model."
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


def own_value(
    name: str, function: Callable[[Any, Any], float], labels: np.ndarray, predictions: Any, count: int
) -> tuple[float, float, np.ndarray]:
    """Returns the value of a metric on all examples, its standard error, and numbers that these are of, float64.

    The numbers are delete-a-group jackknife pseudo-values, whose spread gives the error (Efron, 1982, The Jackknife,
    chapter 2); of a metric that needs all examples, the error is NaN.

    Args:
        name: of the metric, for errors.
        function: from labels and predictions to a number.
        labels: of the examples.
        predictions: an array, or several by the names of outputs.
        count: of the examples.

    Raises:
        DataError: if the metric raises, or returns anything but a finite number.
    """

    def value_of(keep: Any) -> Any:
        chosen = {k: v[keep] for k, v in predictions.items()} if isinstance(predictions, dict) else predictions[keep]
        return function(labels[keep], chosen)

    try:
        found = value_of(slice(None))
    except (Exception, SystemExit) as error:
        raise DataError(
            f"Metric '{name}' raised {type(error).__name__}: {error}. Correct the function, or its inputs."
        ) from error
    value = _number(found, name)
    groups = min(_JACKKNIFE_GROUPS, count)
    # Shuffled, so that an order in the data does not look like spread; the same groups for every model.
    group = np.random.default_rng(0).permutation(count) % groups
    try:
        parts = [value_of(group != g) for g in range(groups)] if groups > 1 else [value]
        left_out = np.array([float(part) for part in parts])
    except Exception:  # a metric that needs all examples has no standard error
        left_out = np.array([math.nan])
    pseudo = groups * value - (groups - 1) * left_out
    error = standard_error(pseudo) if np.isfinite(pseudo).all() else math.nan
    # Pseudo-values average to the bias-corrected value; the value itself is what is reported.
    return value, error, pseudo - pseudo.mean() + value


def _number(found: Any, name: str) -> float:
    """Returns what a metric has returned as a number.

    Raises:
        DataError: if it is none, or not finite.
    """
    shape = np.shape(found) if hasattr(found, "__len__") and not isinstance(found, str) else ()
    if shape:
        raise DataError(
            f"Metric '{name}' returned {np.prod(shape)} values of shape {list(shape)}; it must return a finite number: "
            "for one value per example, their mean."
        )
    try:
        value = float(found)
    except (TypeError, ValueError):
        raise DataError(f"Metric '{name}' returned {shown(found)}; it must return a finite number.") from None
    if not math.isfinite(value):
        raise DataError(f"Metric '{name}' returned {value}; it must return a finite number.")
    return value
