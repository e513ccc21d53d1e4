"""8 bits for the weights in 4 that cost the output most: the layer that is hurt, within a twelfth of the file."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import layer, net, weights

import featherweight as fw
from featherweight.recipes import recipe as recipes
from featherweight.recipes.recipe import Recipe, Rule, Scheme
from featherweight.repair.candidate import Setting, integer_model, planned
from featherweight.repair.judge import Judge
from featherweight.repair.weights.eight_bits import _Cost, eight_bits, worth
from featherweight.targets import target as targets


def _net():
    """A layer with one large weight in each row, and one of twelve times its size that lies on a grid of 4 bits."""
    hurt = weights(64, 96, seed=1, spread=0.05)
    hurt[:, 7] = 1.0
    easy = np.random.default_rng(2).integers(-7, 8, (1200, 64)).astype(np.float32) / 32
    easy[:, 0] = 7 / 32
    constants = {"hurt": hurt, "easy": easy, "b": weights(64, seed=3), "c": weights(1200, seed=4)}
    return net(
        {"x": (1, 96)},
        constants,
        [
            layer("FULLY_CONNECTED", ("x", "hurt", "b"), {"h": (1, 64)}, fused_activation_function="RELU"),
            layer("FULLY_CONNECTED", ("h", "easy", "c"), {"y": (1, 1200)}),
        ],
        ["y"],
    )


@pytest.fixture(scope="module")
def setting():
    random = np.random.default_rng(5)
    feeds = tuple({"x": random.normal(0, 1, (1, 96)).astype(np.float32)} for _ in range(16))
    return Setting(targets.load("litert"), feeds[:12], feeds[12:])


@pytest.mark.parametrize("name", ["w4a8", "weights4"])
def test_the_layer_that_costs_the_output_most_has_8_bits(setting, name):
    start = planned(setting, _net(), recipes.load(name))
    found = eight_bits(setting, start)
    assert not isinstance(found, str)
    assert found.plan.forms["h"].endswith("int8")
    assert found.plan.forms["y"] == start.plan.forms["y"]
    assert found.plan.forms["y"].endswith("int4")
    assert "1 of 2 weights in 4 bits have 8" in found.notes[-1]
    assert "for 3,072 bytes: 'hurt'" in found.notes[-1]
    judge = Judge(start.model, setting.held_out)
    before, after = (judge.levels(integer_model(each)).mean() for each in (start, found))
    assert after > before + 6


def test_what_the_recipe_names_stays_as_it_is(setting):
    rules = (Rule("h", weight=Scheme("int4"), activation=Scheme("int8")), *recipes.load("w4a8").rules)
    found = eight_bits(setting, planned(setting, _net(), Recipe("named", rules)))
    assert found == "no weight that rounding to 4 bits costs more than others has few enough bytes"


def test_without_4_bits_or_samples_there_is_nothing_to_do(setting):
    start = planned(setting, _net(), recipes.load("int8"))
    assert eight_bits(setting, start) == "no weight is in 4 bits that could have 8"
    bare = Setting(setting.target, (), ())
    assert eight_bits(bare, start) == "it measures what rounding costs the output: pass calibration samples"


def test_the_file_with_8_bits_is_written_again_from_its_plan(setting):
    made = fw.quantize(_net(), "w4a8", calibration=list(setting.samples), improve=["eight-bits"], progress=False)
    again = fw.quantize(made.float_model, plan=made.plan, progress=False)
    assert fw.write(again.model) == fw.write(made.model)


def test_a_few_kilobytes_go_to_the_dearest_weights_of_a_small_file():
    alike = [_Cost(None, noise, 2048) for noise in (1.0, 1.1, 1.05, 0.9, 0.95)]  # type: ignore[arg-type]
    assert [cost.noise for cost in worth(alike, 30_000 / 12)] == [1.1, 1.05, 1.0]
    large = [_Cost(None, cost.noise, 1 << 20) for cost in alike]  # type: ignore[arg-type]
    assert worth(large, 100 << 20) == []
    dear = [*large, _Cost(None, 3.0, 1 << 20)]  # type: ignore[arg-type]
    assert [cost.noise for cost in worth(dear, 100 << 20)] == [3.0]
