"""Samples that are held out judge repairs, and take part in ranges at the end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.building import layer, net, weights

from featherweight.recipes import recipe as recipes
from featherweight.repair.candidate import Setting, planned
from featherweight.repair.ranges import with_all_samples
from featherweight.targets import target as targets
from featherweight.tasks.quantize import quantize
from featherweight.tflite import write


@pytest.mark.parametrize("improve", ["split-outputs", "gptq"])
def test_ranges_hold_what_held_out_samples_hold(improve: str) -> None:
    """Each sample reaches farther than all before, so that those that are held out count wherever they are."""
    model = net({"x": (1, 64)}, {"w": weights(32, 64), "v": weights(8, 32, seed=1)}, [
        layer("FULLY_CONNECTED", ("x", "w", ""), {"h": (1, 32)}, fused_activation_function="RELU"),
        layer("FULLY_CONNECTED", ("h", "v", ""), {"y": (1, 8)}),
    ], ["y"])  # fmt: skip
    random = np.random.default_rng(0)
    samples = [(size * random.normal(size=(1, 64))).astype(np.float32) for size in np.linspace(1, 2, 24)]
    plain = quantize(model, "int8", calibration=samples, progress=False, verify=False)
    found = quantize(model, "int8", calibration=samples, improve=improve, progress=False, verify=False)
    for name in ("x", "h", "y"):
        assert found.plan.params[name].scale == pytest.approx(plain.plan.params[name].scale, rel=0.1)
        assert found.plan.params[name].scale >= plain.plan.params[name].scale or improve == "gptq"
    # A repair that can't be applied leaves the plain file; rounding that was chosen stays.
    assert (write(found.model) == write(plain.model)) is (improve == "split-outputs")


def test_held_out_samples_take_no_part_in_ranges_where_they_lose_by_it() -> None:
    """A sample that reaches a thousand times as far as all others leaves these no steps."""
    model = net({"x": (1, 64)}, {"w": weights(32, 64)}, [
        layer("FULLY_CONNECTED", ("x", "w", ""), {"y": (1, 32)}, fused_activation_function="RELU"),
    ], ["y"])  # fmt: skip
    random = np.random.default_rng(0)
    feeds = [{"x": random.normal(size=(1, 64)).astype(np.float32)} for _ in range(24)]
    feeds[-1]["x"] *= 1000
    feeds[-2]["x"] *= 1.5
    setting = Setting(targets.load("litert"), tuple(feeds[:12]), tuple(feeds[12:]))
    start = planned(setting, model, recipes.load("int8"))
    found = with_all_samples(setting, start)
    assert found.plan.params == start.plan.params
    assert found.notes[-1].startswith("improve: ranges are those of 12 samples: with the 12 held-out ones, -")
    without = replace(setting, held_out=setting.held_out[:-1])
    wider = with_all_samples(without, start)
    assert wider.plan.params["x"].scale > start.plan.params["x"].scale
    assert not wider.notes
