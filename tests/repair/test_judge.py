"""The judge: paired levels of real runs on held-out samples."""

from __future__ import annotations

import numpy as np
import pytest
from tests import models
from tests.building import layer
from tests.building import net as net_of

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


@pytest.mark.parametrize("op", ["SOFTMAX", "LOGISTIC"])
def test_probabilities_near_their_ends_judge_no_more_than_undecided_ones(op):
    attrs = {"beta": 1.0} if op == "SOFTMAX" else {}

    def net(scale: float):
        return net_of(
            {"x": (1, 3)},
            {"scale": np.float32(scale)},
            [layer("MUL", ("x", "scale"), {"logits": (1, 3)}), layer(op, ("logits",), {"y": (1, 3)}, **attrs)],
            ["y"],
        )

    feeds = [{"x": np.array([row], np.float32)} for row in ((-1.0, 0.5, 1.0), (-30.0, -20.0, 30.0))]
    undecided, certain = Judge(net(1.0), feeds).levels(net(1.1))
    assert 15 < undecided < 25  # logits a tenth too large are 20 dB above their error
    assert certain > 60  # nothing that 8 bits would show
    few, many = (Judge(net(1.0), feeds).levels(net(scale))[0] for scale in (1.1, 1.05))
    assert 5 < many - few < 7  # half the error is 6 dB less
    raw = Judge(net(1.0), feeds).levels(net(1.1), as_scores=False)
    assert raw[0] > undecided  # an error of scores is a smaller one of probabilities
