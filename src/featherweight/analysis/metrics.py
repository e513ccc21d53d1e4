"""Measures: how far two tensors are apart, and how well predictions fit labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from featherweight.errors import DataError
from featherweight.numerics import QuantParams, integer_range

# Elements per step: float64 copies of so many stay in the cache.
_CHUNK = 1 << 16


@dataclass(frozen=True)
class ErrorSums:
    """What a tensor's error is computed from, summed in float64 over elements; ``a + b`` covers both.

    With x the float value, y the other's, e = x - y: `signal` is Σx², `other_signal` Σy², `product` Σxy,
    `noise` Σe², `clipping_noise` the part of `noise` where x lies outside of the integers' range, `clipped`
    the number of such elements, `largest` max|e|, `differing` the number of elements with e ≠ 0. Elements where
    x itself is not finite count in `skipped` only.
    """

    count: int = 0
    skipped: int = 0
    signal: float = 0.0
    other_signal: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    clipping_noise: float = 0.0
    clipped: int = 0
    largest: float = 0.0
    differing: int = 0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.count + other.count,
            self.skipped + other.skipped,
            self.signal + other.signal,
            self.other_signal + other.other_signal,
            self.product + other.product,
            self.noise + other.noise,
            self.clipping_noise + other.clipping_noise,
            self.clipped + other.clipped,
            max(self.largest, other.largest),
            self.differing + other.differing,
        )


def error_sums(x: np.ndarray, y: np.ndarray, params: QuantParams | None = None) -> ErrorSums:
    """Returns the sums for float values `x` and their counterparts `y`, of one shape.

    `params` are those of the integers behind `y`. A value counts as clipped if it lies more than half a step
    outside of [scale * (qmin - zero_point), scale * (qmax - zero_point)]: up to there its error is no larger
    than rounding makes it anyway. Parameters in blocks give no range, so nothing counts as clipped.

    >>> sums = error_sums(np.array([0.1, 9.0]), np.array([0.0, 2.0]), QuantParams("int8", (2 / 127,), (0,)))
    >>> sums.clipped, sums.clipping_noise
    (1, 49.0)
    """
    x, y = np.asarray(x), np.asarray(y)
    low, high = (-np.inf, np.inf) if params is None or not params.scale else _clip_bounds(params, x.ndim)
    if np.ndim(low):  # per channel: constants only, which are small
        return _chunk_sums(x.astype(np.float64), y.astype(np.float64), low, high)
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    sums = ErrorSums()
    for start in range(0, flat_x.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        sums += _chunk_sums(flat_x[part].astype(np.float64), flat_y[part].astype(np.float64), low, high)
    return sums


@np.errstate(invalid="ignore", over="ignore")
def _chunk_sums(x: np.ndarray, y: np.ndarray, low: Any, high: Any) -> ErrorSums:
    error = x - y
    signal, noise = _dot(x, x), _dot(error, error)
    skipped = 0
    if not math.isfinite(signal + noise):
        finite = np.isfinite(x)
        skipped = int(x.size - np.count_nonzero(finite))
        x, y = np.where(finite, x, 0.0), np.where(finite, np.where(np.isnan(y), np.inf, y), 0.0)
        error = x - y
        signal, noise = float(np.square(x).sum()), float(np.square(error).sum())
    outside = (x < low) | (x > high)
    clipped = int(np.count_nonzero(outside))
    return ErrorSums(
        count=x.size - skipped,
        skipped=skipped,
        signal=signal,
        other_signal=float(np.square(y).sum()) if skipped else _dot(y, y),
        product=float(np.where(x == 0, 0.0, x * y).sum()) if math.isinf(noise) else _dot(x, y),
        noise=noise,
        clipping_noise=float(np.square(error[outside]).sum()) if clipped else 0.0,
        clipped=clipped,
        largest=float(np.abs(error).max(initial=0.0)),
        differing=int(np.count_nonzero(error)),
    )


def _dot(x: np.ndarray, y: np.ndarray) -> float:
    """Σxy without BLAS, whose threads would contend with the runtime's for so few elements."""
    return float(np.einsum("i,i->", x.reshape(-1), y.reshape(-1)))


def _clip_bounds(params: QuantParams, ndim: int) -> tuple[Any, Any]:
    qmin, qmax = integer_range(params.dtype)
    shape = [-1 if d == params.axis else 1 for d in range(ndim)] if len(params.scale) > 1 else []
    scale = np.asarray(params.scale, np.float64).reshape(shape)
    zero_point = np.asarray(params.zero_point, np.float64).reshape(shape)
    return scale * (qmin - 0.5 - zero_point), scale * (qmax + 0.5 - zero_point)


def power_ratio_db(signal: float, noise: float) -> float:
    """Returns ``10 * log10(signal / noise)``: inf without noise, -inf for noise without (or beyond) signal.

    >>> power_ratio_db(100.0, 1.0), power_ratio_db(0.0, 0.0)
    (20.0, inf)
    """
    if noise == 0:
        return math.inf
    if signal == 0 or not math.isfinite(noise):
        return -math.inf
    return 10 * (math.log10(signal) - math.log10(noise))


def sqnr_db(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the signal-to-quantization-noise ratio ``10 * log10(Σx² / Σ(x - y)²)`` in dB.

    >>> round(sqnr_db(np.array([1.0, -1.0]), np.array([1.1, -1.1])), 3)
    20.0
    """
    sums = error_sums(x, y)
    return power_ratio_db(sums.signal, sums.noise)


def cosine(sums: ErrorSums) -> float:
    """Returns ``Σxy / sqrt(Σx² Σy²)`` in -1..1; 1 where both are zero, 0 where one is."""
    if sums.signal == 0 or sums.other_signal == 0:
        return 1.0 if sums.signal == sums.other_signal else 0.0
    if not math.isfinite(sums.other_signal):
        return 0.0
    value = sums.product / (math.sqrt(sums.signal) * math.sqrt(sums.other_signal))
    return min(max(value, -1.0), 1.0)


# ---------------------------------------------------------------------------------------------------- task metrics


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
