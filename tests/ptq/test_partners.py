"""Scales that are fit to one another."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import add, layer, net, weights
from tests.ptq.nets import planned, ranges


@pytest.mark.parametrize(("scale", "is_same"), [(1e-4, True), (0.3, False)])
def test_a_sum_with_next_to_nothing_rounds_nothing(scale: float, is_same: bool) -> None:
    """What a branch adds by a layer scale at its beginning is less than half a step: the sum is the stream itself."""
    shape = (1, 8, 16)
    layers = []
    for i, (x, y) in enumerate((("h", "s0"), ("s0", "s1"), ("s1", "y"))):
        layers += [
            layer("FULLY_CONNECTED", (x, f"w{i}", ""), {f"f{i}": shape}, keep_num_dims=True),
            add(x, f"f{i}", y, shape),
        ]
    constants = {f"w{i}": weights(16, 16, seed=i) * np.float32(scale) for i in range(3)} | {"w": weights(16, 16)}
    first = layer("FULLY_CONNECTED", ("x", "w", ""), {"h": shape}, keep_num_dims=True)
    model = net({"x": shape}, constants, [first, *layers], ["y"])
    bounds = {"x": (-4.0, 4.0), "h": (-4.0, 4.1), "s0": (-4.01, 4.1), "s1": (-4.0, 4.11), "y": (-4.0, 4.12)}
    bounds |= {f"f{i}": (-4 * scale, 4 * scale) for i in range(3)}
    plan, _ = planned(model, stats=ranges(**bounds))
    assert (len({plan.params[name] for name in ("h", "s0", "s1", "y")}) == 1) is is_same
