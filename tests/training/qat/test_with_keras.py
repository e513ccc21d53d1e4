"""Training in integers with what Keras offers: mixed precision, checkpoints, compilation, several devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tests import models
from tests.backends import run_on
from tests.training.checking import assert_equal, quantized, runtime_outputs, trained

import featherweight as fw


def data(count: int = 16) -> tuple[Any, np.ndarray]:
    inputs = models.batch("dense", count, seed=2)
    return inputs, np.random.default_rng(0).uniform(0, 1, (count, *shape_of_output())).astype(np.float32)


def shape_of_output() -> tuple[int, ...]:
    graph = models.lowered("dense").main
    return graph.tensors[graph.outputs[0]].shape[1:]


def weights(model: Any) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in (*model.weights, *model.optimizer.variables)]


# ---------------------------------------------------------------------------------------------------- mixed precision


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    models.build("dense")  # what is kept for other tests is float32
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(previous)


@pytest.mark.usefixtures("mixed_precision")
@pytest.mark.parametrize("is_global", [False, True])
def test_mixed_precision_changes_no_integer(is_global: bool, tmp_path: Path) -> None:
    """TFMOT fails with mixed precision."""
    source = models.BUILDERS["dense"]()
    assert any(layer.compute_dtype == "float16" for layer in source.layers)
    if not is_global:
        keras.config.set_dtype_policy("float32")
    inputs = models.batch("dense", 16, seed=2)
    model = fw.quantize_aware(source, calibration=models.samples("dense", 8, seed=1), progress=False)
    assert model.compute_dtype == "float32"
    assert_equal(model.predict(inputs, verbose=0), runtime_outputs(fw.finalize(model), inputs))
    trained(model, inputs)
    finished = fw.finalize(model)
    assert_equal(model.predict(inputs, verbose=0), runtime_outputs(finished, inputs))
    model.save(tmp_path / "model.keras")
    assert fw.write(fw.finalize(keras.saving.load_model(tmp_path / "model.keras")).model) == fw.write(finished.model)


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_of_weights_brings_a_model_back(tmp_path: Path) -> None:
    (inputs, targets), path = data(), tmp_path / "best.weights.h5"
    model = quantized("dense", train_ranges="learned")
    model.compile(keras.optimizers.Adam(1e-3), loss="mse")
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    model.fit(inputs, targets, epochs=2, batch_size=4, verbose=0, callbacks=checkpoint)
    other = quantized("dense", train_ranges="learned")
    assert fw.write(fw.finalize(other).model) != fw.write(fw.finalize(model).model)
    other.load_weights(path)
    assert fw.write(fw.finalize(other).model) == fw.write(fw.finalize(model).model)
    assert_equal(other.predict(inputs, verbose=0), model.predict(inputs, verbose=0))


class Interruption(keras.callbacks.Callback):
    """Ends a training as a kill does."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 2:
            raise KeyboardInterrupt


def test_a_resumed_training_ends_as_one_that_was_never_interrupted(tmp_path: Path) -> None:
    inputs, targets = data()

    def run(*callbacks: Any) -> Any:
        model = quantized("dense", train_ranges="moving_average", oscillations="freeze")
        model.compile(keras.optimizers.Adam(1e-3), loss="mse")
        model.fit(inputs, targets, epochs=4, batch_size=4, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(keras.callbacks.BackupAndRestore(tmp_path / "backup"), Interruption())
    resumed = run(keras.callbacks.BackupAndRestore(tmp_path / "backup"))
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


# ----------------------------------------------------------------------------------------------------- how it is run


@pytest.mark.parametrize("jit_compile", [True, False])
def test_integers_do_not_depend_on_compilation(jit_compile: bool) -> None:
    (inputs, targets), model = data(), quantized("dense")
    model.compile(keras.optimizers.Adam(1e-3), loss="mse", jit_compile=jit_compile)
    model.fit(inputs, targets, batch_size=16, verbose=0)
    assert_equal(model.predict(inputs, verbose=0), runtime_outputs(fw.finalize(model), inputs))


_DATA_PARALLEL = """
import jax, keras, numpy as np
import featherweight as fw
from tests import models
from tests.training.checking import assert_equal, quantized, runtime_outputs
assert len(jax.devices()) == 2
keras.distribution.set_distribution(keras.distribution.DataParallel())
inputs, model = models.batch("dense", 16, seed=2), quantized("dense", train_ranges="moving_average")
model.compile(keras.optimizers.Adam(1e-3), loss="mse")
before = [np.array(v) for v in model.trainable_variables]
model.fit(inputs, np.zeros(model.predict(inputs, verbose=0).shape), batch_size=8, verbose=0)
assert len(model.trainable_variables[0].value.sharding.device_set) == 2
assert any((one != np.asarray(v)).any() for one, v in zip(before, model.trainable_variables))
assert_equal(model.predict(inputs, verbose=0), runtime_outputs(fw.finalize(model), inputs))
print("DONE")
"""

_REPLICAS = """
import tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
import keras, numpy as np
import featherweight as fw
from tests import models
from tests.training.checking import assert_equal, quantized, ranges_of, runtime_outputs
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
inputs = models.batch("dense", 16, seed=2)
inputs = {name: array * (1 + np.arange(16) % 8 // 4)[:, None] for name, array in inputs.items()}  # wider on one replica
with strategy.scope():
    model = quantized("dense", train_ranges="minmax")
    model.compile(keras.optimizers.Adam(1e-3), loss="mse")
before = [v.numpy() for v in model.trainable_variables]
model.fit(inputs, np.zeros((16, 64)), batch_size=8, shuffle=False, verbose=0)
assert any((one != v.numpy()).any() for one, v in zip(before, model.trainable_variables))
for variable in model.variables:
    copies = [copy.numpy() for copy in strategy.experimental_local_results(variable.value)]
    assert all((copies[0] == copy).all() for copy in copies), variable.path
high = ranges_of(model)["frame"][1]
assert abs(high - max(array.max() for array in inputs.values())) < 0.02 * high, high
assert_equal(model.predict(inputs, verbose=0), runtime_outputs(fw.finalize(model), inputs))
print("DONE")
"""


def test_several_devices_of_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2")
    run_on("jax", _DATA_PARALLEL)


@pytest.mark.frameworks
def test_several_devices_of_tensorflow() -> None:
    pytest.importorskip("tensorflow")
    run_on("tensorflow", _REPLICAS)
