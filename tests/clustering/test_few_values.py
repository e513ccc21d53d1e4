"""Which weights have few values, and what is said where a repair takes them away."""

from __future__ import annotations

import numpy as np
from tests import models

import featherweight as fw
from featherweight.clustering.few_values import dissolved, in_channels


def test_values_are_few_in_units_of_each_channel():
    random = np.random.default_rng(0)
    rows = random.choice([-1.0, -0.3, 0.2, 0.9], (16, 64)) * random.uniform(0.1, 9, (16, 1))
    rows[:, 0] = np.abs(rows).max(axis=1)
    found = in_channels(rows)
    assert found is not None
    assert found.max() + 1 <= 6
    assert in_channels(random.normal(size=(16, 64))) is None
    assert in_channels(rows * random.uniform(0.9, 1, (1, 64))) is None


def test_a_repair_that_takes_them_away_is_said():
    clustered = fw.cluster(models.lowered("depthwise"), 8, progress=False)
    samples = models.samples("depthwise", 16, seed=1)
    assert dissolved(clustered.model, clustered.model) == ()
    equalized = fw.equalize(clustered)
    said = dissolved(clustered.model, equalized.model)
    names = [kernel.name for kernel in clustered.kernels if kernel.levels]
    assert said
    assert set(said) <= {f"the 8 values of '{name}' are many now" for name in names}
    for repair in ("equalize", "gptq"):
        made = fw.quantize(clustered, calibration=samples, improve=repair, progress=False, verify=False)
        assert any("are many now" in note for note in made.plan.notes) == (repair == "equalize")
