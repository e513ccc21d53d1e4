from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from tests.analysis.small_models import classifier, features, two_headed

from featherweight.analysis import Dataset, evaluate, paired_difference, predict
from featherweight.analysis.evaluation import Evaluation
from featherweight.errors import DataError, RecipeError
from featherweight.runtime import run
from featherweight.tasks import quantize as pipeline

X = features(200, seed=5)
TRUE = run(classifier(), X).argmax(axis=1)
# A label in ten is another class: the float model is right in 90 %.
LABELS = np.where(np.arange(200) % 10 == 0, (TRUE + 1) % 6, TRUE)


@pytest.fixture(scope="module")
def integer_model():
    return pipeline.quantize(classifier(), "int8", calibration=X, io="int8", progress=False).model


def test_accuracy_with_its_binomial_error():
    found = evaluate(classifier(), (X, LABELS))
    assert (found.metric, found.value, found.count) == ("accuracy", 0.9, 200)
    assert found.standard_error == pytest.approx(math.sqrt(0.9 * 0.1 / 199))
    assert str(found) == "accuracy 0.9 ± 0.021 (200 examples)"


def test_integer_models_are_fed_and_read_as_real_numbers(integer_model):
    assert integer_model.main.tensors[integer_model.main.inputs[0]].dtype == "int8"
    outputs = predict(integer_model, X)["scores"]
    assert outputs.dtype == np.float32
    assert np.abs(outputs - run(classifier(), X)).max() < 0.2
    assert evaluate(integer_model, (X, LABELS)).value == pytest.approx(0.9, abs=0.03)


def test_samples_in_the_inputs_own_integers_are_taken_as_they_are(integer_model):
    from featherweight.graph.numerics import quantize

    params = integer_model.main.tensors[integer_model.main.inputs[0]].quant
    raw = quantize(X, params)
    for samples in (raw, [(row,) for row in raw], [{"features": row} for row in raw]):
        assert np.array_equal(predict(integer_model, samples)["scores"], predict(integer_model, X)["scores"])


def test_mean_errors_and_limit():
    y = run(classifier(), X)
    assert evaluate(classifier(), (X, y + 2), "mse").value == pytest.approx(4)
    found = evaluate(classifier(), (X, y + 2), "mae", limit=7)
    assert (found.count, found.value) == (7, pytest.approx(2))


def test_a_generator_of_samples_will_do():
    assert evaluate(classifier(), ((row for row in X), LABELS)).value == 0.9


def negative_error_rate(y_true, y_pred):
    return -float(np.mean(y_pred.argmax(axis=1) != y_true))


def test_own_metrics_by_function_and_by_name():
    found = evaluate(classifier(), (X, LABELS), negative_error_rate)
    assert (found.metric, found.higher_is_better) == ("negative_error_rate", None)
    assert found.value == pytest.approx(-0.1)
    # Jackknife over 20 groups of 10: close to the binomial error (0.021).
    assert 0 < found.standard_error < 0.06
    assert found.scores.mean() == pytest.approx(found.value)
    named = evaluate(classifier(), (X, LABELS), "tests.analysis.test_evaluation:negative_error_rate")
    assert named.value == found.value


def test_jackknife_of_a_mean_is_its_standard_error():
    random = np.random.default_rng(1)
    wrong = random.permutation(200) < 20
    labels = np.where(wrong, (TRUE + 1) % 6, TRUE)
    own = evaluate(classifier(), (X, labels), negative_error_rate)
    known = evaluate(classifier(), (X, labels), "accuracy")
    assert own.standard_error == pytest.approx(known.standard_error, rel=0.5)


def test_own_metric_gets_all_outputs_by_name():
    samples = [{"left": row, "right": row} for row in X[:20]]
    seen = {}

    def keep(y_true, y_pred):
        seen.update({name: array.shape for name, array in y_pred.items()})
        return 1.0

    evaluate(two_headed(), (samples, np.zeros(20)), keep)
    assert set(seen) == {"small", "large"}


def test_several_outputs_need_a_choice():
    samples = [{"left": row, "right": row} for row in X[:20]]
    with pytest.raises(
        DataError, match=r"accuracy scores one output, but the model has several \(the outputs are small, large\)"
    ):
        evaluate(two_headed(), (samples, np.zeros(20)))
    assert evaluate(two_headed(), (samples, np.zeros(20)), output="large").count == 20
    with pytest.raises(DataError, match="there is no output 'huge'"):
        evaluate(two_headed(), (samples, np.zeros(20)), output="huge")


@pytest.mark.parametrize(
    ("data", "metric", "message"),
    [
        (
            (X, LABELS),
            "f1",
            r"Unknown metric 'f1'\. Choose one of accuracy, top5, probability, auc, mse, mae, map, or give "
            r"'pkg\.module:function'",
        ),
        ((X, LABELS), 3, r"A metric is a name or a function \(y_true, y_pred\) -> number, not 3"),
        ((X, LABELS.astype(str)), "accuracy", "the labels are texts, such as '[0-9]', and accuracy needs numbers"),
        ((X, np.where(LABELS == 1, np.nan, LABELS)), "accuracy", "label [0-9]+ is or holds nan. Give finite numbers"),
        ((X, LABELS[:-1]), "accuracy", "there are 200 samples, but 199 labels"),
        (
            X,
            "accuracy",
            r"evaluate: data is an ndarray of shape .* \(allowed: the pair \(samples, labels\)",
        ),
        (Dataset(X, None, "d.npz"), "accuracy", r"d\.npz has no labels"),
        ((X[:, :5], LABELS), "accuracy", r"sample 0, input 'features': its shape is \[5\]"),
        ((X, LABELS), lambda y, p: 1 / 0, r"Metric '<lambda>' raised ZeroDivisionError: division by zero"),
        ((X, LABELS), lambda y, p: sys.exit(3), r"Metric '<lambda>' raised SystemExit: 3"),
        ((X, LABELS), lambda y, p: "good", r"Metric '<lambda>' returned 'good'; it must return a finite number"),
        (
            (X, LABELS),
            lambda y, p: y == p.argmax(-1),
            r"returned \d+ values of shape .*for one value per example, their",
        ),
        ((X, LABELS), lambda y, p: math.nan, r"Metric '<lambda>' returned nan; it must return a finite number"),
        ((X, LABELS), "no.such:metric", r"Metric 'no\.such:metric': the module 'no\.such' can't be imported"),
        ((X, LABELS), "math:tau", r"Metric 'math:tau': the module 'math' 'tau' is a float, not a function"),
        ((X, LABELS), "math:nothing", r"Metric 'math:nothing': the module 'math' has no such name"),
    ],
)
def test_misuse(data, metric, message):
    with pytest.raises(DataError, match=message):
        evaluate(classifier(), data, metric)


def test_paired_difference_is_sharper_than_the_two_errors(integer_model):
    before, after = evaluate(classifier(), (X, LABELS)), evaluate(integer_model, (X, LABELS))
    found = paired_difference(after, before)
    assert found.value == pytest.approx(after.value - before.value)
    assert found.standard_error < math.hypot(before.standard_error, after.standard_error) / 2
    assert found.changed <= 0.03
    assert not paired_difference(before, before).is_significant


def test_paired_difference_that_is_significant():
    scores = np.r_[np.ones(90), np.zeros(10)]
    worse = np.r_[np.zeros(20), np.ones(70), np.zeros(10)]
    one = Evaluation("accuracy", 0.9, 0.03, 100, True, scores)
    other = Evaluation("accuracy", 0.7, 0.05, 100, True, worse)
    found = paired_difference(other, one)
    assert found.is_significant
    assert (found.value, found.changed) == (pytest.approx(-0.2), 0.2)


def test_paired_difference_needs_the_same_examples():
    one = evaluate(classifier(), (X, LABELS))
    with pytest.raises(DataError, match="got mse over 200 and accuracy over 200"):
        paired_difference(evaluate(classifier(), (X, run(classifier(), X)), "mse"), one)
    with pytest.raises(DataError, match="got accuracy over 9 and accuracy over 200"):
        paired_difference(evaluate(classifier(), (X, LABELS), limit=9), one)


def test_json_has_no_scores_and_no_nan():
    found = evaluate(classifier(), (X[:1], LABELS[:1]))
    assert found.to_json() == {"metric": "accuracy", "value": 0.0, "standard_error": None, "count": 1}


def test_in_the_arithmetic_of_another_chip():
    options = {"calibration": X, "target": "power-of-two", "io": "float32"}
    model = pipeline.quantize(classifier(), "int8", **options, progress=False).model
    outputs = predict(model, X, profile="power_of_two")["scores"]
    assert np.array_equal(outputs, run(model, X, runtime="reference", profile="power_of_two"))
    found = evaluate(model, (X, LABELS), profile="power_of_two")
    assert found.value == np.mean(outputs.argmax(axis=-1) == LABELS)
    with pytest.raises(RecipeError, match="profile 'shifts' is unknown"):
        evaluate(model, (X, LABELS), profile="shifts")
    with pytest.raises(RecipeError, match="the model computes with floats only"):
        evaluate(classifier(), (X, LABELS), profile="xnnpack")
