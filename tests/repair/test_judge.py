"""The judge: paired levels of real runs on held-out samples."""

from __future__ import annotations

import numpy as np
import pytest
from tests import models

from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import Setting, integer_model, planned
from featherweight.repair.judge import Judge, gain
from featherweight.targets import target as targets


@pytest.fixture(scope="module")
def setting():
    feeds = tuple(models.samples("convnet", 6))
    return Setting(targets.load("litert"), feeds[:4], feeds[4:])


def test_float_model_is_right_to_the_end(setting):
    model = models.lowered("convnet")
    assert (Judge(model, setting.held_out).levels(model) == 100).all()


def test_int8_model_has_the_level_that_its_outputs_have(setting):
    model = models.lowered("convnet")
    candidate = planned(setting, model, recipes.load("int8"))
    levels = Judge(model, setting.held_out).levels(integer_model(candidate))
    assert levels.shape == (2,)
    assert (levels > 15).all()
    assert (levels < 80).all()


def test_one_example_decides_nothing():
    only = gain(np.array([1.0]), np.array([3.0]))
    assert only.db == 2
    assert not only.is_sure
