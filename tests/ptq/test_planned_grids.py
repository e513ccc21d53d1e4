"""Weights on the steps of int4 in bytes: few integers, as int8 files run, and no other layer is touched."""

from __future__ import annotations

import numpy as np
import pytest
from tests import clients, models

import featherweight as fw
from featherweight import operators


def weights_of(model):
    for node in model.main.nodes:
        op = operators.lookup(node.op)
        if name := op.input_of(node, op.weight):
            yield op, model.main.tensors[name]


@pytest.mark.parametrize("target", ["ethos-u55", "tflm", "litert"])
def test_the_recipe_makes_few_integers(target):
    given = {"calibration": models.samples("depthwise"), "target": target, "progress": False, "verify": False}
    result = fw.quantize(models.lowered("depthwise"), "grid4", **given)
    plain = fw.quantize(models.lowered("depthwise"), "int8", **given)
    assert result.report.violations == plain.report.violations
    for (op, weight), (_, other) in zip(weights_of(result.model), weights_of(plain.model), strict=True):
        assert weight.dtype == "int8"
        if op.weight_kind == "depthwise":
            np.testing.assert_array_equal(weight.array, other.array)
        else:
            assert np.abs(weight.array).max() <= 20  # (few beyond the range of int4 stay)
            assert len(np.unique(weight.array)) <= 30
            assert np.abs(other.array).max() == 127


def test_one_scale_and_powers_of_two():
    given = {"calibration": models.samples("convnet"), "progress": False, "verify": False}
    for target in ("int8-per-tensor", "power-of-two"):
        model = fw.quantize(models.lowered("convnet"), "grid4", target=target, **given).model
        assert all(np.abs(weight.array).max() <= 28 for _, weight in weights_of(model))


def test_vela_needs_less_flash(tmp_path):
    given = {"calibration": models.samples("convnet"), "target": "ethos-u55", "progress": False, "verify": False}
    sizes = []
    for recipe in ("int8", "grid4"):
        fw.quantize(models.lowered("convnet"), recipe, **given).save(tmp_path / "model.tflite")
        found = clients.vela(tmp_path / "model.tflite")
        assert found.cpu_ops == 0
        sizes.append(sum(map(len, found.buffers)))
    assert sizes[1] < sizes[0]


def test_trained_it_keeps_its_steps():
    x = models.samples("dense")
    trained = fw.quantize_aware(models.lowered("dense"), "grid4", calibration=x, teacher=True, progress=False)
    trained.compile("adam")
    trained.fit(models.batch("dense", 32), epochs=1, batch_size=16, verbose=0)
    for _, weight in weights_of(fw.finalize(trained).model):
        assert np.abs(weight.array).max() <= 20
