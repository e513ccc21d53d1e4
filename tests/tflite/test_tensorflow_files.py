"""Sparse tensors as TensorFlow's converter writes them are read as what they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests import models
from tests.backends import on_backend

import featherweight as fw
from featherweight.tflite.sparse_tensors import is_sparse

pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("ignore")]

# Converts a saved model as TensorFlow does: float and with int8 weights, each dense and sparse.
_SCRIPT = """
import sys
from pathlib import Path
import keras, tensorflow as tf
saved, folder = sys.argv[1:]
sparse, default = tf.lite.Optimize.EXPERIMENTAL_SPARSITY, tf.lite.Optimize.DEFAULT
for name, optimizations in {"float": [], "float_sparse": [sparse], "hybrid": [default],
                            "hybrid_sparse": [default, sparse]}.items():
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.saving.load_model(saved))
    converter.optimizations = optimizations
    Path(folder, f"{name}.tflite").write_bytes(converter.convert())
"""


def pruned_net(block: int) -> tuple[object, list[np.ndarray]]:
    """A convolution and two dense layers, nine of ten blocks of inputs 0, and the kernels (out, ..., in)."""
    keras, random = models.import_keras(), np.random.default_rng(block)
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((4, 4, 32), batch_size=1, name="image"),
            layers.Conv2D(48, 3, activation="relu", name="conv"),
            layers.Flatten(name="flat"),
            layers.Dense(96, activation="relu", name="hidden"),
            layers.Dense(32, name="scores"),
        ]
    )
    kernels = []
    for layer in (net.get_layer(name) for name in ("conv", "hidden", "scores")):
        *positions, depth, width = layer.kernel.shape
        kernel = random.normal(size=(width, *positions, depth // block, block))
        kernel = np.where(random.random((*kernel.shape[:-1], 1)) < 0.1, kernel, 0)
        kernels.append(kernel.reshape(width, *positions, depth).astype(np.float32))
        layer.kernel.assign(np.moveaxis(kernels[-1], 0, -1))
    return net, kernels


@pytest.mark.parametrize("block", [1, 4, 16])
def test_the_tensorflow_converter_s_sparse_files(block: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    net, kernels = pruned_net(block)
    net.save(tmp_path / "net.keras")
    on_backend("tensorflow", _SCRIPT, str(tmp_path / "net.keras"), str(tmp_path))
    for name in ("float_sparse", "hybrid_sparse"):
        stored = [tensor for tensor in fw.read(tmp_path / f"{name}.tflite").main.tensors.values() if is_sparse(tensor)]
        assert [len(tensor.shape) for tensor in stored].count(2) == 2
    made = {path.stem: fw.load(path) for path in tmp_path.glob("*.tflite")}
    assert weights_of(made["float_sparse"]) == weights_of(made["float"]) == {kernel.tobytes() for kernel in kernels}
    assert weights_of(made["hybrid_sparse"]) == weights_of(made["hybrid"])
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 32)).astype(np.float32)
    for name in ("float", "hybrid"):
        dense, sparse = (np.asarray(fw.run(made[which], x)) for which in (name, f"{name}_sparse"))
        np.testing.assert_allclose(sparse, dense, rtol=1e-5, atol=1e-5)


def weights_of(model: fw.Model) -> set[bytes]:
    """The values of all kernels."""
    tensors = model.main.tensors.values()
    return {t.array.tobytes() for t in tensors if t.is_constant and len(t.shape) > 1}
