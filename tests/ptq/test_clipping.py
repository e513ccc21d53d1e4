"""Scales of 4-bit weights: those with the least error."""

from __future__ import annotations

import numpy as np
import pytest
from tests.building import weights
from tests.ptq.nets import one_conv, planned

from featherweight.graph.numerics import QuantParams, dequantize, quantize
from featherweight.ptq.clipping import clipped
from featherweight.recipes.recipe import Recipe, Rule, Scheme


def error(values: np.ndarray, scale: np.ndarray, axis: int | None) -> float:
    params = QuantParams("int4", tuple(scale.tolist()), (0,) * scale.size, axis)
    return float((np.abs(dequantize(quantize(values, params, narrow=True), params) - values) ** 2.5).sum())


def test_scales_leave_the_least_error() -> None:
    values = weights(8, 3, 3, 40)
    covering = (np.abs(values).max(axis=(1, 2, 3)) / 7).astype(np.float32)
    found = clipped(values, covering, 0, "int4", power_of_two=False)
    assert (found <= covering).all()
    assert (found < covering).mean() > 0.5
    for channel in range(8):
        own = values[channel]
        errors = [error(own, covering[channel : channel + 1] * np.float32(1 - 0.05 * k), None) for k in range(14)]
        assert error(own, found[channel : channel + 1], None) <= min(errors) * 1.0001


def test_an_outlier_is_kept_where_it_is_worth_more_than_the_rest() -> None:
    values = np.zeros((1, 50), np.float32)
    values[0, 0], values[0, 1:] = 7.0, 0.01
    assert clipped(values, np.float32([1.0]), 0, "int4", power_of_two=False).tolist() == [1.0]


@pytest.mark.parametrize("axis", [0, 1, None])
def test_along_any_axis(axis: int | None) -> None:
    values = weights(6, 6)
    reduced = None if axis is None else 1 - axis
    covering = np.atleast_1d(np.abs(values).max(axis=reduced) / 7).astype(np.float32)
    found = clipped(values, covering, axis, "int4", power_of_two=False)
    assert found.shape == covering.shape
    assert error(values, found, axis) <= error(values, covering, axis)


def test_powers_of_two_stay_powers_of_two() -> None:
    decided, _ = planned(
        one_conv(weights(6, 1, 1, 8)),
        Recipe("mine", (Rule(weight=Scheme("int4"), activation=Scheme("int8")),)),
        "power-of-two",
    )
    assert all(np.frexp(scale)[0] == 0.5 for params in decided.params.values() for scale in params.scale)
    found = clipped(weights(4, 100), np.full(4, 0.25, np.float32), 0, "int4", power_of_two=True)
    assert set(np.log2(found)) <= {-2.0, -3.0, -4.0}


def test_dead_channels_keep_their_fine_scale() -> None:
    w = weights(3, 1, 1, 64)
    w[1] = 0
    own = Recipe("mine", (Rule(weight=Scheme("int4"), weight_only=True),))
    decided, quantized = planned(one_conv(w), own)
    assert decided.params["w"].scale[1] == np.float32(5e-7 / 7)
    assert not np.asarray(quantized.main.tensors["w"].array)[1].any()
