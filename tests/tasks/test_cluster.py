"""Clustering without training: few integers in each kernel's file, zeros kept, what stays says why."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests import models
from typer.testing import CliRunner

import featherweight as fw
from featherweight import operators
from featherweight.cli import app
from featherweight.errors import FormatError, RecipeError


def weights_of(model):
    found = {}
    for node in model.main.nodes:
        op = operators.lookup(node.op)
        name = op.input_of(node, op.weight)
        if name and model.main.tensors[name].is_constant:
            found[name] = model.main.tensors[name].array
    return found


def int8(model, target="tflm", **more):
    samples = models.samples("convnet")
    return fw.quantize(model, calibration=samples, target=target, progress=False, verify=False, **more)


@pytest.mark.parametrize("given", [None, 8])
def test_the_file_has_as_many_integers_as_clusters(given):
    samples = None if given is None else models.samples("convnet", given)
    result = fw.cluster(models.lowered("convnet"), 8, calibration=samples, progress=False)
    weights = weights_of(int8(result.model).model)
    rows = {kernel.name: kernel for kernel in result.kernels}
    assert any(kernel.levels for kernel in rows.values())
    for name, kernel in rows.items():
        if kernel.levels:
            assert sorted({*weights[name].ravel().tolist()}) == [*kernel.levels]
            assert len(kernel.levels) <= 8
            assert 0 < kernel.relative_error < 0.5
            assert kernel.decode_bytes < 0.6 * kernel.elements
            assert kernel.zip_bytes < kernel.elements
        else:
            assert kernel.reason
            before = models.lowered("convnet").tensors[name].array
            np.testing.assert_array_equal(result.model.tensors[name].array, before)


def test_one_scale_for_a_weight():
    result = fw.cluster(models.lowered("convnet"), 16, per_channel=False, progress=False)
    weights = weights_of(int8(result.model, target="int8-per-tensor").model)
    for kernel in result.kernels:
        if kernel.levels:
            assert sorted({*weights[kernel.name].ravel().tolist()}) == [*kernel.levels]


def test_zeros_of_a_pruned_model_stay_and_the_file_is_smaller_still():
    pruned = fw.prune(models.lowered("convnet"), 0.7, progress=False)
    both = fw.cluster(pruned, 8, progress=False)
    for kernel in both.kernels:
        if kernel.levels:
            before, after = (m.model.tensors[kernel.name].array for m in (pruned, both))
            assert (after[before == 0] == 0).all()
    sizes = [
        int8(model, store="decode").report.after.file_bytes
        for model in (models.lowered("convnet"), fw.cluster(models.lowered("convnet"), 8, progress=False), both)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len({*sizes}) == 3


def test_what_stays_says_why():
    rows = {k.name: k.reason for k in fw.cluster(models.lowered("depthwise"), 20, progress=False).kernels}
    reasons = " ".join(rows.values())
    for said in (
        "the first convolution; name it in a rule",
        "the last classifier",
        "a depthwise convolution",
        "small: ",
    ):
        assert said in reasons
    name = next(name for name, reason in rows.items() if not reason)
    rows = {k.name: k.reason for k in fw.cluster(models.lowered("depthwise"), exclude=name, progress=False).kernels}
    assert rows[name] == f"excluded by '{name}'"


def test_what_can_not_be_asked_for():
    model = models.lowered("convnet")
    with pytest.raises(RecipeError, match=r"clusters is 2 .*4 to 128|clusters.*2.*4"):
        fw.cluster(model, 2)
    with pytest.raises(RecipeError, match="exclude 'nothing' matches no kernel"):
        fw.cluster(model, exclude="nothing")
    with pytest.raises(RecipeError, match="keep='dense' is not understood"):
        fw.cluster(model, keep="dense")
    with pytest.raises(RecipeError, match="there is nothing to cluster"):
        fw.cluster(model, exclude="*")
    with pytest.raises(FormatError, match="cluster takes float models"):
        fw.cluster(int8(model).model)


def test_the_command_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fw.save(models.lowered("convnet"), "model.tflite")
    np.savez("data.npz", x=np.concatenate([next(iter(s.values())) for s in models.samples("convnet", 4)]))
    args = ["cluster", "model.tflite", "-o", "clustered.tflite", "--clusters", "8", "--calibration", "data.npz"]
    done = CliRunner().invoke(app, [*args, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert max(len(kernel["levels"]) for kernel in found["kernels"]) == 8
    fw.read("clustered.tflite")
    done = CliRunner().invoke(app, args)
    assert "why it stays" in done.stdout
    done = CliRunner().invoke(app, [*args[:4], "--samples", "3"])
    assert done.exit_code == 2
