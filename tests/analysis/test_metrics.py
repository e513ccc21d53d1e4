from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.analysis.metrics import METRICS, auc_scores, standard_error, top_k_scores
from featherweight.analysis.tensor_errors import ErrorSums, cosine, error_sums, power_ratio_db, sqnr_db
from featherweight.errors import DataError
from featherweight.graph.numerics import QuantParams, dequantize, params_from_range, quantize


def test_error_is_split_into_clipping_and_rounding():
    params = QuantParams("int8", (0.5,), (0,))  # holds -64 … 63.5
    x = np.array([0.2, 10.1, 63.6, 70.0, -80.0], np.float32)
    y = dequantize(quantize(x, params), params)
    sums = error_sums(x, y, params)
    assert sums.clipped == 2
    assert sums.clipping_noise == (70 - 63.5) ** 2 + (80 - 64) ** 2
    assert sums.noise - sums.clipping_noise == pytest.approx(0.2**2 + 0.1**2 + 0.1**2, rel=1e-4)
    assert sums.largest == 16


def test_per_channel_ranges_clip_per_channel():
    params = QuantParams("int8", (1.0, 0.01), (0, 0), axis=0)
    sums = error_sums(np.full((2, 3), 5.0), np.array([[5.0] * 3, [1.27] * 3]), params)
    assert sums.clipped == 3
    assert sums.clipping_noise == sums.noise


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_sums_over_parts_are_the_sums_over_the_whole(seed, parts):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(2, 70_000 if seed % 7 == 0 else 50))
    params = params_from_range(-1, 1, "int8")
    total = sum(
        (error_sums(a, b, params) for a, b in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True)),
        ErrorSums(),
    )
    whole = error_sums(x, y, params)
    assert (total.count, total.clipped, total.largest) == (whole.count, whole.clipped, whole.largest)
    for field in ("signal", "other_signal", "product", "noise", "clipping_noise"):
        assert getattr(total, field) == pytest.approx(getattr(whole, field), rel=1e-9, abs=1e-9)
    assert whole.noise == pytest.approx(np.square(x - y).sum(), rel=1e-12)


def test_values_that_are_not_finite_are_counted_and_left_out():
    sums = error_sums(np.array([1.0, np.nan, -np.inf]), np.array([1.0, 2.0, -np.inf]))
    assert (sums.count, sums.skipped, sums.noise, sums.signal) == (1, 2, 0.0, 1.0)
    broken = error_sums(np.array([1.0, 2.0]), np.array([1.0, np.nan]))
    assert broken.noise == math.inf
    assert power_ratio_db(broken.signal, broken.noise) == -math.inf
    assert cosine(broken) == 0


def test_levels_at_the_ends():
    x = np.array([3.0, -4.0])
    assert sqnr_db(x, x) == math.inf
    assert sqnr_db(np.zeros(2), x) == -math.inf
    assert sqnr_db(np.zeros(2), np.zeros(2)) == math.inf
    assert cosine(error_sums(x, x)) == 1
    assert cosine(error_sums(x, -2 * x)) == -1
    assert cosine(error_sums(np.zeros(2), np.zeros(2))) == 1
    assert cosine(error_sums(np.zeros(2), x)) == 0


def test_accuracy_takes_class_numbers_and_one_hot():
    predictions = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])
    expected = [1.0, 0.0, 1.0]
    assert METRICS["accuracy"].scores(np.array([1, 1, 2]), predictions).tolist() == expected
    assert METRICS["accuracy"].scores(np.array([[1], [1], [2]]), predictions).tolist() == expected
    assert METRICS["accuracy"].scores(np.eye(3)[[1, 1, 2]], predictions).tolist() == expected


def test_accuracy_of_sequences_is_the_mean_over_positions():
    predictions = np.eye(3)[[[0, 1], [2, 2]]]
    assert top_k_scores(np.array([[0, 2], [2, 2]]), predictions, 1).tolist() == [0.5, 1.0]


def test_ties_count_for_the_first_class_only():
    flat = np.zeros((2, 3))
    assert top_k_scores(np.array([0, 1]), flat, 1).tolist() == [1.0, 0.0]


def test_top5():
    predictions = np.tile(np.arange(7.0), (2, 1))
    assert METRICS["top5"].scores(np.array([2, 1]), predictions).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (
            np.array([0, 3]),
            np.zeros((2, 3)),
            r"label 1 is 3, which is not a class number .* 3 classes \(allowed: 0 to 2\)",
        ),
        (np.array([0, 0.5]), np.zeros((2, 3)), r"label 1 is 0\.5, which is not a class number"),
        (
            np.zeros((2, 4)),
            np.zeros((2, 3)),
            r"labels have the shape \[2, 4\].* \[2\] \(class numbers\) or \[2, 3\] \(one-hot\)",
        ),
        (
            np.array([0, 1]),
            np.zeros((2, 1)),
            r"top-1 accuracy needs one score for each of more than 1 classes.*\[2, 1\]",
        ),
    ],
)
def test_labels_that_do_not_fit(labels, predictions, message):
    with pytest.raises(DataError, match=message):
        METRICS["accuracy"].scores(labels, predictions)


def test_auc_counts_ordered_pairs():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert auc_scores(labels, scores).mean() == pytest.approx(0.75)
    assert auc_scores(labels, scores[:, np.newaxis]).mean() == pytest.approx(0.75)
    assert auc_scores(labels, np.stack([-scores, scores], axis=1)).mean() == pytest.approx(0.75)
    assert auc_scores(labels, np.zeros(4)).mean() == pytest.approx(0.5)


def test_auc_error_is_delongs():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    scores = labels + random.normal(0, 1, 400)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    wins = positives[:, None] > negatives[None]
    delong = math.sqrt(wins.mean(1).var(ddof=1) / len(positives) + wins.mean(0).var(ddof=1) / len(negatives))
    assert standard_error(auc_scores(labels, scores)) == pytest.approx(delong, rel=0.01)


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (np.array([1, 1]), np.zeros(2), "auc needs examples of both classes; all 2 labels are 1"),
        (np.array([0, 2]), np.zeros(2), "auc needs labels 0 and 1"),
        (np.array([0, 1]), np.zeros((2, 3)), r"auc needs one score per example.*\[2, 3\]"),
        (np.array([0, 1]), np.array([0.1, np.nan]), "auc can't rank the prediction of sample 1: it is NaN"),
    ],
)
def test_auc_that_can_not_be(labels, predictions, message):
    with pytest.raises(DataError, match=message):
        auc_scores(labels, predictions)


def test_mean_errors():
    labels, predictions = np.array([1.0, 2.0]), np.array([[2.0], [4.0]])
    assert METRICS["mse"].scores(labels, predictions).tolist() == [1.0, 4.0]
    assert METRICS["mae"].scores(labels, predictions).tolist() == [1.0, 2.0]
    with pytest.raises(DataError, match=r"labels have the shape \[2\], but the predictions have \[2, 3\]"):
        METRICS["mse"].scores(labels, np.zeros((2, 3)))


def test_standard_error_of_one_score_is_unknown():
    assert math.isnan(standard_error(np.array([1.0])))


def test_probability_of_the_label_from_distributions_and_from_logits():
    given = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]])
    scores = METRICS["probability"].scores
    assert scores(np.array([1, 0]), given).tolist() == [0.7, 0.5]
    assert scores(np.array([1, 0]), np.log(given) + 3).tolist() == pytest.approx([0.7, 0.5])
    assert scores(np.eye(3)[[1, 0]], given).tolist() == [0.7, 0.5]
    maps = np.stack([given, given[::-1]])
    assert scores(np.array([[1, 0], [0, 1]]), maps).tolist() == pytest.approx([0.6, 0.6])
    assert scores(np.array([1]), np.array([[np.nan, np.nan, 0]])).tolist() == [0.0]
    with pytest.raises(DataError, match="not a class number"):
        scores(np.array([3]), given[:1])
