"""Samples that are held out judge repairs, and take part in ranges at the end."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import layer, net, weights

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
