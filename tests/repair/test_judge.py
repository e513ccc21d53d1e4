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
    undecided, certain = (Judge(net(1.0), [feed]).levels(net(1.1))[0] for feed in feeds)
    assert 15 < undecided < 25  # logits a tenth too large are 20 dB above their error
    assert certain > 60  # nothing that 8 bits would show
    half = Judge(net(1.0), feeds[:1]).levels(net(1.05))[0]
    assert 5 < half - undecided < 7  # half the error is 6 dB less
    raw = Judge(net(1.0), feeds).levels(net(1.1), as_scores=False)
    assert raw[0] > undecided  # an error of scores is a smaller one of probabilities


def test_of_a_single_value_the_level_is_that_of_all_runs():
    def net(scale: float, shift: float):
        constants = {"scale": np.float32(scale), "shift": np.float32(shift)}
        layers = [layer("MUL", ("x", "scale"), {"h": (1, 1)}), layer("ADD", ("h", "shift"), {"y": (1, 1)})]
        return net_of({"x": (1, 1)}, constants, layers, ["y"])

    values = np.random.default_rng(0).normal(0, 1, 40).astype(np.float32)
    judge = Judge(net(1, 0), [{"x": value.reshape(1, 1)} for value in values])
    levels = judge.levels(net(1.1, 0.1))  # right by chance near -1
    wanted = 10 * np.log10(np.square(values).sum() / np.square(0.1 * values + 0.1).sum())
    assert levels.mean() == pytest.approx(wanted, abs=0.01)
    found = gain(levels, judge.levels(net(1.07, 0.07)))
    assert found.db == pytest.approx(20 * np.log10(10 / 7), abs=0.05)
    assert found.is_sure
    assert levels.std() < 0.8 * judge.levels(net(1.1, 0.1), as_scores=False).std()
