"""The flow: cheap recipes first, then repairs and the search, each measured, each with a reason to go on."""

from __future__ import annotations

import pytest
from tests import models

import featherweight as fw


@pytest.fixture(scope="module")
def model():
    return models.lowered("convnet")


def test_it_ends_with_int8_where_that_keeps_the_budget(model):
    found = fw.optimize(model, calibration=models.samples("convnet", 12), min_sqnr_db=15, progress=False)
    assert [step.name for step in found.steps] == ["float16", "dynamic", "int8"]
    assert found.fits
    sizes = {step.name: step.measured.file_bytes for step in found.steps if step.measured}
    assert found.best.file_bytes == min(sizes.values()) == len(fw.write(found.model))
    assert all(step.measured.latency > 0 for step in found.steps if step.measured)


def test_it_goes_on_where_int8_misses_the_budget_and_says_why(model):
    found = fw.optimize(model, calibration=models.samples("convnet", 12), min_sqnr_db=90, progress=False)
    names = [step.name for step in found.steps]
    assert names[3:5] == ["int8 repaired", "mixed"]
    assert "too noisy" in found.steps[2].reason


def test_steps_that_a_target_does_not_run_are_said(model):
    found = fw.optimize(
        model, calibration=models.samples("convnet", 12), min_sqnr_db=15, target="ethos-u65", progress=False
    )
    reasons = {step.name: step.reason for step in found.steps if step.measured is None}
    assert set(reasons) == {"float16", "dynamic"}
    assert all(reason.startswith("not made: ") for reason in reasons.values())
    assert found.name == "int8"


def test_a_budget_without_accuracy_is_an_error(model):
    with pytest.raises(fw.RecipeError, match="would be noise"):
        fw.optimize(model, calibration=models.samples("convnet", 12), max_bytes=1000, progress=False)


def test_recurrent_layers_take_the_style_of_each_recipe() -> None:
    network, samples = models.build("lstm"), models.samples("lstm", 16)
    found = fw.optimize(network, calibration=samples, min_sqnr_db=10, progress=False)
    (row,) = [step.measured for step in found.steps if step.name == "dynamic"]
    assert row is not None
    assert row.file_bytes == fw.quantize(network, "dynamic", progress=False).report.after.file_bytes
