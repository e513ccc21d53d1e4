"""Clusters in training: the file has as many integers as before, the same in all channels, and they do move."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests import models

import featherweight as fw
from featherweight import operators
from featherweight.clustering.few_values import clusters_of


def weights_of(model):
    found = {}
    for node in model.main.nodes:
        op = operators.lookup(node.op)
        name = op.input_of(node, op.weight)
        if name and model.main.tensors[name].is_constant:
            found[name] = model.main.tensors[name].array
    return found


def trained(source, x, **options):
    model = fw.quantize_aware(
        source, calibration=models.samples("dense"), teacher=models.lowered("dense"), progress=False, **options
    )
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(x, epochs=2, batch_size=8, verbose=0, shuffle=False)
    return model


@pytest.fixture(scope="module")
def clustered():
    pruned = fw.prune(models.lowered("dense"), 0.5, progress=False)
    return fw.cluster(pruned, 8, progress=False)


@pytest.mark.parametrize("train_ranges", ["fixed", "learned"])
def test_the_file_keeps_clusters_and_zeros_and_both_move(clustered, train_ranges):
    x = models.batch("dense", 32)
    model = trained(clustered, x, train_ranges=train_ranges)
    before = weights_of(fw.quantize(clustered, calibration=models.samples("dense"), progress=False).model)
    result = fw.finalize(model)
    after = weights_of(result.model)
    moved = 0
    for kernel in clustered.kernels:
        if not kernel.levels:
            continue
        one, other = before[kernel.name], after[kernel.name]
        for level in np.unique(one):
            assert len(np.unique(other[one == level])) == 1
        assert (other[one == 0] == 0).all()
        moved += int((one != other).sum())
    assert moved > 0
    np.testing.assert_array_equal(model.predict(x, verbose=0), fw.run(result.model, x))


def test_without_them_they_dissolve(clustered):
    after = weights_of(fw.finalize(trained(clustered, models.batch("dense", 32), keep_clusters=False)).model)
    assert max(len(np.unique(after[kernel.name])) for kernel in clustered.kernels if kernel.levels) > 16


def test_a_saved_model_keeps_them(clustered, tmp_path):
    x = models.batch("dense", 32)
    model = trained(clustered, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))
    loaded.fit(x, epochs=1, batch_size=16, verbose=0)
    after = weights_of(fw.finalize(loaded).model)
    assert all(len(np.unique(after[kernel.name])) <= 8 for kernel in clustered.kernels if kernel.levels)


def test_other_weights_are_no_clusters():
    random = np.random.default_rng(0)
    scale = np.full((16, 1), 0.01)
    assert clusters_of(random.normal(size=(16, 64)), scale) is None
    few = random.integers(-2, 3, (16, 64))
    assert clusters_of(few * scale, scale).max() == 4
    assert clusters_of(few * scale + 3e-4, scale).max() == 4
    assert clusters_of(few * scale + random.uniform(-3e-4, 3e-4, few.shape), scale) is None
    assert clusters_of(random.integers(-127, 128, (16, 16)) * scale, scale) is None
    assert clusters_of(np.zeros((16, 64)), scale) is None
    assert clusters_of(few * np.nan, scale) is None
    assert not fw.quantize_aware(
        models.lowered("dense"), "grid4", calibration=models.samples("dense"), progress=False
    ).blueprint.clustered
