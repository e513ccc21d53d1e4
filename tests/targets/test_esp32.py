"""Chips of ESP-DL: scales that are powers of two, zero points of 0, and their roundings."""

from __future__ import annotations

import numpy as np
import pytest
from tests import models
from tests.targets.building import quantized

import featherweight as fw
from featherweight.graph.numerics import QuantParams
from featherweight.operators import lookup

CHIPS = ("esp32-s3", "esp32-p4")


@pytest.fixture(scope="module")
def made():
    samples = models.samples("convnet", 16)
    return {
        name: fw.quantize(models.lowered("convnet"), calibration=samples, target=name, io="float32", progress=False)
        for name in CHIPS
    }


@pytest.mark.parametrize("chip", CHIPS)
def test_scales_are_exponents_and_zero_points_are_0(made, chip):
    model = made[chip].model
    prescribed = {name for node in model.main.nodes if lookup(node.op).fixed_output for name in node.outputs}
    for name, tensor in model.main.tensors.items():
        if tensor.quant is None:
            continue
        assert (np.frexp(np.float32(tensor.quant.scale))[0] == 0.5).all(), name
        if name not in prescribed:
            assert not any(tensor.quant.zero_point or ()), name
    assert fw.check(model, chip) == ()


def test_both_chips_have_one_file_and_round_in_their_own_way(made):
    one, other = (made[chip].model for chip in CHIPS)
    for name, tensor in one.main.tensors.items():
        assert other.main.tensors[name].quant == tensor.quant
    x = models.batch("convnet", 32, seed=3)
    outputs = [
        fw.run(one, x, runtime="reference", profile=profile) for profile in ("power_of_two", "power_of_two_even")
    ]
    assert (outputs[0] != outputs[1]).any()
    assert np.abs(outputs[0] - outputs[1]).max() < 0.2


def test_a_zero_point_is_a_violation(made):
    model = quantized(
        models.lowered("dense"), **{models.lowered("dense").main.inputs[0]: QuantParams("int8", (0.5,), (3,))}
    )
    found = [violation for violation in fw.check(model, "esp32-s3") if violation.constraint == "symmetric"]
    assert found
    assert "zero point of" in found[0].message
    assert "is not 0, as 'esp32-s3' wants" in found[0].message
