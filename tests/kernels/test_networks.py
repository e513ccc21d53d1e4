"""Whole networks against LiteRT: every tensor, integer for integer."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from tests import models
from tests.kernels.oracle import RESOLVERS

import featherweight as fw

SESSION = {"xnnpack": "auto", "tflite_opt": "no_delegate", "tflite_ref": "reference"}


@functools.cache
def quantized(name: str) -> fw.Model:
    calibration = models.samples(name, 16, seed=1)
    return fw.quantize(models.lowered(name), "int8", calibration=calibration, progress=False).model


@pytest.mark.parametrize("profile", RESOLVERS)
@pytest.mark.parametrize("name", ["convnet", "depthwise", "dense", "multi_input", "multi_output", "upsampling"])
def test_every_tensor_is_litert_s(name: str, profile: str) -> None:
    model, inputs = quantized(name), models.batch(name, 4, seed=2)
    found = fw.run(model, inputs, runtime="reference", profile=profile, tensors="all")
    expected = fw.run(model, inputs, resolver=SESSION[profile], tensors="all", threads=1)
    assert list(found) == list(expected)
    for tensor, array in expected.items():
        np.testing.assert_array_equal(found[tensor], array, err_msg=tensor)


@pytest.mark.parametrize("name", ["convnet", "depthwise", "dense"])
def test_float_graphs_run_too(name: str) -> None:
    inputs = models.batch(name, 2, seed=2)
    found = fw.run(models.lowered(name), inputs, runtime="reference")
    np.testing.assert_allclose(found, fw.run(models.lowered(name), inputs), rtol=1e-4, atol=1e-5)
