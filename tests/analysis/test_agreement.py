from __future__ import annotations

import numpy as np
import pytest
from tests.analysis.small_models import classifier, features, two_headed

from featherweight.analysis import Dataset, evaluate
from featherweight.analysis.agreement import AGREEMENT, evaluations, metric_for
from featherweight.errors import DataError
from featherweight.runtime import run


def labels_of(model, x):
    return run(model, x).argmax(-1)


def test_without_labels_the_first_models_classes_count():
    x = features(40)
    before, after = classifier(), classifier("NONE")
    none, found = evaluations(before, after, Dataset(x), progress=False)
    assert none is None
    assert (found.metric, found.count, found.higher_is_better) == (AGREEMENT, 40, True)
    assert found.value == np.mean(labels_of(before, x) == labels_of(after, x))
    assert 0 < found.value < 1
    assert evaluations(before, before, Dataset(x), progress=False)[1].value == 1


def test_with_labels_both_are_scored_on_the_same_examples():
    x = features(40)
    before, after = classifier(), classifier("NONE")
    dataset = Dataset(x, labels_of(after, x))
    first, second = evaluations(before, after, dataset, progress=False, limit=30)
    assert second.value == 1
    assert first is not None
    assert (first.count, first.value) == (30, evaluate(before, dataset, limit=30).value)


def test_samples_that_come_once_are_enough_for_both():
    x = features(12)
    dataset = Dataset((row for row in x), np.zeros(12, int))
    first, second = evaluations(classifier(), classifier("NONE"), dataset, progress=False)
    assert first is not None
    assert first.count == second.count == 12


def test_agreement_can_be_asked_for_beside_labels():
    assert metric_for(AGREEMENT, classifier(), Dataset(features(), np.zeros(64, int))) == AGREEMENT


def test_metrics_that_can_not_be_had_say_the_way_out():
    with pytest.raises(DataError, match=r"x\.npy has no labels, which mse needs\. .* or metric 'agreement'"):
        metric_for("mse", classifier(), Dataset(features(), source="x.npy"))
    with pytest.raises(DataError, match="not the scores of one choice among classes"):
        metric_for(None, two_headed(), Dataset(features()))
