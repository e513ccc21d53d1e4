"""The flow: recipes first, then repairs, the search and training, each measured, each with its reason."""

from __future__ import annotations

import pytest
from tests import models

import featherweight as fw

RECIPES = ["float16", "dynamic", "weights4", "int8", "w4a8", "int16x8"]


@pytest.fixture(scope="module")
def model():
    return models.lowered("convnet")


def _reasons(found: fw.Optimized) -> dict[str, str]:
    return {step.name: step.reason for step in found.steps}


def test_the_best_recipe_is_taken_where_one_keeps_the_budget_and_what_is_not_run_is_said(model):
    samples = models.samples("convnet", 12)
    found = fw.optimize(model, calibration=samples, min_sqnr_db=15, progress=False)
    assert [step.name for step in found.steps] == [*RECIPES, "int8 repaired", "mixed"]
    rows = {step.name: step.measured for step in found.steps if step.measured}
    assert set(rows) == set(RECIPES)
    assert (
        found.best.file_bytes == min(row.file_bytes for row in rows.values() if row.fits) == len(fw.write(found.model))
    )
    assert all(row.latency > 0 for row in rows.values())
    for name in ("float16", "dynamic", "weights4"):
        assert rows[name].file_bytes == fw.quantize(model, name, progress=False).report.after.file_bytes
    assert f"not run: '{found.name}' keeps the budget" in _reasons(found)["mixed"]


def test_it_goes_on_for_a_better_file_where_that_is_wanted_and_from_its_folder(model, tmp_path):
    asked = {"calibration": models.samples("convnet", 12), "min_sqnr_db": 15, "progress": False}
    first, best = fw.optimize(model, **asked), fw.optimize(model, stop="best", folder=tmp_path, **asked)
    again = fw.optimize(model, stop="best", folder=tmp_path, **asked)
    assert fw.write(again.model) == fw.write(best.model)
    assert {step.name for step in again.steps if step.measured} == {step.name for step in best.steps if step.measured}
    assert best.best.file_bytes <= first.best.file_bytes
    assert "could not be better in bytes" in _reasons(best)["int8 repaired"]
    assert {step.name for step in best.steps if step.measured} == {*RECIPES, "mixed"}


def test_the_most_accurate_file_within_a_size_is_repaired_too(model):
    asked = {"calibration": models.samples("convnet", 12), "objective": "accuracy", "progress": False}
    with pytest.raises(fw.RecipeError, match=r"the most accurate model is the float one\. Give"):
        fw.optimize(model, **asked)
    most = len(fw.write(fw.quantize(model, "int8", calibration=asked["calibration"], progress=False).model)) + 500
    found = fw.optimize(model, stop="best", max_bytes=most, **asked)
    rows = {step.name: step.measured for step in found.steps if step.measured}
    assert {"int8 repaired", "mixed"} <= set(rows)
    small = [row for row in rows.values() if row.file_bytes <= most]
    assert found.best.loss == min(row.loss for row in small) < max(row.loss for row in small)


def test_it_goes_on_where_no_recipe_keeps_the_budget(model):
    found = fw.optimize(model, calibration=models.samples("convnet", 12), min_sqnr_db=90, progress=False)
    assert [step.name for step in found.steps if step.measured] == [*RECIPES, "int8 repaired", "mixed"]
    assert "too noisy" in _reasons(found)["int8"]


def test_accuracy_is_not_worked_on_where_size_is_missed(model):
    found = fw.optimize(
        model,
        calibration=models.samples("convnet", 12),
        min_sqnr_db=15,
        max_bytes=10,
        train=models.samples("convnet", 4),
        progress=False,
    )
    reasons = _reasons(found)
    assert not found.fits
    assert "'int8' misses limits of size or time" in reasons["int8 repaired"]
    assert "'w4a8' misses limits of size or time" in reasons["trained w4a8"]


def test_steps_that_a_target_does_not_run_are_said(model):
    found = fw.optimize(
        model, calibration=models.samples("convnet", 12), min_sqnr_db=15, target="ethos-u65", progress=False
    )
    reasons = {step.name: step.reason for step in found.steps if step.measured is None}
    assert {name for name, reason in reasons.items() if reason.startswith("not made: ")} >= {"float16", "dynamic"}
    assert found.fits


def test_an_unknown_end_is_an_error(model):
    with pytest.raises(fw.FeatherweightError, match=r"stop is 'last' \(allowed: first, best\)"):
        fw.optimize(model, calibration=models.samples("convnet", 12), min_sqnr_db=15, stop="last", progress=False)


def test_a_budget_without_accuracy_is_an_error(model):
    with pytest.raises(fw.RecipeError, match="would be noise"):
        fw.optimize(model, calibration=models.samples("convnet", 12), max_bytes=1000, progress=False)


def test_recurrent_layers_take_the_style_of_each_recipe() -> None:
    network, samples = models.build("lstm"), models.samples("lstm", 16)
    found = fw.optimize(network, calibration=samples, min_sqnr_db=10, progress=False)
    (row,) = [step.measured for step in found.steps if step.name == "dynamic"]
    assert row is not None
    assert row.file_bytes == fw.quantize(network, "dynamic", progress=False).report.after.file_bytes
