"""Training that starts from a repaired plan: what was repaired is what it predicts before the first step."""

from __future__ import annotations

import numpy as np
import pytest
from tests import models

import featherweight as fw


@pytest.fixture(scope="module")
def repaired():
    return fw.quantize(
        models.lowered("convnet"),
        calibration=models.samples("convnet", 16),
        integers=True,
        improve=["bias-correction", "gptq"],
        progress=False,
    )


def test_predictions_are_those_of_the_repaired_file(repaired):
    trained = fw.quantize_aware(repaired, plan=repaired.plan, progress=False)
    x = models.batch("convnet", 16, seed=4)
    expected = fw.run(repaired, x)
    np.testing.assert_array_equal(np.asarray(trained.predict(x, verbose=0)), expected)


def test_the_file_before_training_is_the_repaired_one(repaired):
    trained = fw.quantize_aware(repaired.float_model, plan=repaired.plan, progress=False)
    before, after = repaired.model.main, fw.finalize(trained).model.main
    for name, tensor in before.tensors.items():
        if tensor.is_constant and tensor.dtype in ("int8", "int32"):
            np.testing.assert_array_equal(after.tensors[name].array, tensor.array)


def test_a_plan_of_another_target_is_refused(repaired):
    with pytest.raises(fw.RecipeError, match="the plan is for target 'litert', not 'tflm'"):
        fw.quantize_aware(repaired, plan=repaired.plan, target="tflm", progress=False)
