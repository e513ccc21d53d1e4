"""Pruning in training with what Keras offers: saving, mixed precision, wrappers, loops, other backends."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest
from tests.backends import run_on
from tests.training.pruning.nets import BATCH, data, dense_net, trained, values, zeros

import featherweight as fw
from featherweight.errors import DataError, RecipeError


def test_the_model_is_untouched() -> None:
    model = dense_net()
    before, layers = model.get_config(), list(model.layers)
    count = len(model.weights)
    trained(model, fw.SparseOptimizer("adam", 0.5), 2)
    assert model.get_config() == before
    assert model.layers == layers
    assert len(model.weights) == count


@pytest.mark.parametrize(
    ("options", "is_mixed"),
    [
        ({}, True),
        ({"pattern": "1x4", "exclude": ["a"]}, False),
        ({"method": "movement", "rules": {"b": 0.5}}, False),
        ({"regrowth": 0.3, "pattern": "auto", "target": "litert"}, False),
        ({"allocation": "global", "exclude": ["c"]}, False),
    ],
    ids=str,
)
def test_a_saved_model_goes_on_as_if_nothing_had_happened(options: Any, is_mixed: bool, tmp_path: Path) -> None:
    """TFMOT's .keras files don't load."""
    model = dense_net(dtype="mixed_float16" if is_mixed else "float32")
    optimizer = fw.SparseOptimizer(
        keras.optimizers.Adam(0.01), fw.schedules.polynomial_decay(0.1, 0.8, 2, 14), frequency=5, **options
    )
    wrapped = keras.optimizers.LossScaleOptimizer(optimizer) if is_mixed else optimizer
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "SparseOptimizer: the schedule ends")
        trained(model, wrapped, 6)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    restored = loaded.optimizer.inner_optimizer if is_mixed else loaded.optimizer
    assert isinstance(restored, fw.SparseOptimizer)
    assert restored.get_config() == optimizer.get_config()
    for one in (model, loaded):
        one.fit(*data(one, 9), batch_size=BATCH, shuffle=False, verbose=0)
    for one, other in zip(values(model), values(loaded), strict=True):
        assert one.tolist() == other.tolist()


def test_masks_are_booleans_and_bits_in_the_file(tmp_path: Path) -> None:
    model = trained(dense_net(), fw.SparseOptimizer(keras.optimizers.SGD(), 0.5), 1)
    added = {
        v.path: v for v in model.optimizer.variables if v.path not in {w.path for w in keras.optimizers.SGD().variables}
    }
    bytes_of_masks = sum(np.prod(v.shape) for v in added.values() if v.dtype == "bool")
    assert bytes_of_masks == 12 * 16 + 16 * 24
    assert sum(np.prod(v.shape) for v in added.values() if v.dtype != "bool") < 8
    store: dict[str, Any] = {}
    model.optimizer.save_own_variables(store)
    assert store["mask_1"].nbytes == 16 * 24 // 8


def test_masks_are_not_restored_onto_another_model() -> None:
    model = trained(dense_net(), fw.SparseOptimizer("adam", 0.5), 1)
    store: dict[str, Any] = {}
    model.optimizer.save_own_variables(store)
    other = trained(dense_net(8), fw.SparseOptimizer("adam", 0.5), 1)
    with pytest.raises(DataError, match=r"the stored masks belong to another model .* \(12, 16\), \(16, 24\) .*"):
        other.optimizer.load_own_variables(store)
    moving = trained(dense_net(), fw.SparseOptimizer("adam", 0.5, method="movement"), 1)
    with pytest.raises(DataError, match=r"0 movements, this model's pruned kernels .* and 2\. Restore them onto"):
        moving.optimizer.load_own_variables(store)


def test_weights_of_a_plain_training_load_with_a_warning() -> None:
    model = trained(dense_net(), fw.SparseOptimizer("adam", 0.5), 1)
    with pytest.warns(UserWarning, match="No masks are stored for 'sparse_optimizer'; it keeps those that it has"):
        model.optimizer.load_own_variables({"0": np.zeros(1)})


@pytest.mark.parametrize("place", ["automatic", "inside", "outside"])
def test_mixed_precision(place: str) -> None:
    """TFMOT fails with mixed precision."""
    inner: Any = keras.optimizers.Adam()
    if place == "inside":
        inner = keras.optimizers.LossScaleOptimizer(inner)
    optimizer: Any = fw.SparseOptimizer(inner, fw.schedules.linear(0.0, 0.5, 0, 4))
    if place == "outside":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = trained(dense_net(), optimizer, 5)
    finally:
        keras.config.set_dtype_policy(previous)
    names = [type(model.optimizer).__name__, type(model.optimizer.inner_optimizer).__name__]
    assert names == ["LossScaleOptimizer", "SparseOptimizer"]
    assert isinstance(model.optimizer.inner_optimizer.inner_optimizer, keras.optimizers.Adam)
    assert zeros(model, "b/kernel") == 192


def test_settings_of_a_dropped_loss_scale_are_named() -> None:
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=64.0, dynamic_growth_steps=5)
    optimizer = fw.SparseOptimizer(inner, 0.5)
    message = "is dropped, since another one is put around, and with it initial_scale=64, dynamic_growth_steps=5. Put"
    with pytest.warns(UserWarning, match=message):
        keras.optimizers.LossScaleOptimizer(optimizer)
    assert isinstance(optimizer.inner_optimizer, keras.optimizers.SGD)


def test_a_step_that_is_skipped_counts_for_nothing() -> None:
    model = dense_net(dtype="mixed_float16")
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=2.0**40)
    optimizer = fw.SparseOptimizer(inner, 0.5)
    trained(model, optimizer, 2, auto_scale_loss=False)
    assert int(optimizer.iterations) == 0
    assert zeros(model, "b/kernel") == 0
    trained(model, optimizer, 40)
    assert int(optimizer.iterations) > 0
    assert zeros(model, "b/kernel") == 192


@pytest.mark.filterwarnings("ignore:SparseOptimizer. the schedule ends")
def test_gradients_may_be_accumulated() -> None:
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer = fw.SparseOptimizer(inner, fw.schedules.linear(0.0, 0.5, 0, 4))
    model = dense_net()
    trained(model, optimizer, 6)
    assert zeros(model, "b/kernel") == 48  # three updates, and a mask after the first of them
    trained(model, optimizer, 2)
    assert zeros(model, "b/kernel") == 192


def test_averaged_weights_keep_their_zeros() -> None:
    model = dense_net()
    trained(model, fw.SparseOptimizer(keras.optimizers.Adam(use_ema=True), fw.schedules.constant(0.5, 5)), 8)
    assert zeros(model, "b/kernel") == 192


def test_a_learning_rate_goes_through() -> None:
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.5), 0.5)
    assert float(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    model = dense_net()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    callback = keras.callbacks.LearningRateScheduler(lambda _: 0.125)
    model.fit(*data(model, 1), callbacks=[callback], verbose=0)
    assert float(optimizer.inner_optimizer.learning_rate) == 0.125


def test_a_loop_without_fit() -> None:
    model, loss = dense_net(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = data(model, 1)
    optimizer = fw.SparseOptimizer(keras.optimizers.SGD(0.1), fw.schedules.linear(0.0, 0.5, 0, 3))
    optimizer.build(model.trainable_variables)

    def loss_of(weights: Any) -> Any:
        return loss(y, model.stateless_call(weights, [], x)[0])

    @jax.jit
    def step(weights: Any, state: Any) -> Any:
        return optimizer.stateless_apply(state, jax.grad(loss_of)(weights), weights)

    weights, state = [v.value for v in model.trainable_variables], [v.value for v in optimizer.variables]
    for _ in range(3):
        weights, state = step(weights, state)
    assert [int((w == 0).sum()) for w in weights[::2]] == [96, 192, 0]
    stateful = dense_net()
    other = fw.SparseOptimizer(keras.optimizers.SGD(0.1), fw.schedules.linear(0.0, 0.5, 0, 2))
    for _ in range(2):
        other.apply(jax.grad(loss_of)([v.value for v in stateful.trainable_variables]), stateful.trainable_variables)
    assert other.sparsities() == {"net/a/kernel": 0.5, "net/b/kernel": 0.5}


def test_sparsities_are_logged(tmp_path: Path) -> None:
    model = dense_net()
    model.compile(fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 2)), "sparse_categorical_crossentropy")
    logged = tmp_path / "log.csv"
    callbacks = [fw.SparsityLog(), keras.callbacks.CSVLogger(logged)]
    history = model.fit(*data(model, 2), batch_size=BATCH, epochs=2, callbacks=callbacks, verbose=0).history
    assert history["sparsity"] == [0.5, 0.5]
    assert history["sparsity/net/b/kernel"] == [0.5, 0.5]
    assert "sparsity/net/a/kernel" in logged.read_text().splitlines()[0]
    json.dumps(history)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(RecipeError, match="the model is not compiled with a SparseOptimizer"):
        model.fit(*data(model, 1), callbacks=[fw.SparsityLog()], verbose=0)


_SCRIPT = """
import sys, tempfile, warnings
import keras, numpy as np
import featherweight as fw
from keras import layers as L

def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential([L.Input((8, 8, 3)), L.Conv2D(8, 3, name="stem"), L.Conv2D(16, 3, name="body"),
                             L.Flatten(), L.Dense(10, name="head")], name="net")

rng = np.random.default_rng(0)
x, y = rng.normal(size=(96, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 96)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for options in ({}, {"pattern": "1x4"}, {"pattern": "2:4"}, {"pattern": "channel"}, {"allocation": "global"},
                {"allocation": "erk"}, {"method": "movement"}, {"regrowth": 0.3}):
    optimizer = fw.SparseOptimizer(keras.optimizers.Adam(), fw.schedules.linear(0.0, 0.5, 0, 5), frequency=2, **options)
    model = net()
    model.compile(optimizer, loss)
    model.fit(x, y, batch_size=16, verbose=0)
    (sparsity,) = optimizer.sparsities().values()
    assert sparsity == 0.5, (options, sparsity)
    path = tempfile.mkdtemp() + "/m.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    for one in (model, loaded):
        one.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert loaded.optimizer.sparsities()["body/kernel"] == 0.5
    for one, other in zip(model.weights, loaded.weights):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
keras.config.set_dtype_policy("mixed_float16")
for wrap in (lambda o: o, keras.optimizers.LossScaleOptimizer):
    model, optimizer = net(), fw.SparseOptimizer(keras.optimizers.Adam(), fw.schedules.linear(0.0, 0.5, 0, 5))
    model.compile(wrap(optimizer), loss)
    model.fit(x, y, batch_size=16, verbose=0)
    assert [*optimizer.sparsities().values()] == [0.5]
print("DONE")
"""

_REPLICAS = """
import tensorflow as tf
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
import keras, numpy as np
import featherweight as fw
from keras import layers as L
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = keras.Sequential([L.Input((12,)), L.Dense(16), L.Dense(24), L.Dense(10)])
    model.compile(fw.SparseOptimizer("adam", fw.schedules.linear(0.0, 0.5, 0, 5), frequency=2), "mse")
model.fit(np.ones((96, 12)), np.ones((96, 10)), batch_size=16, verbose=0)
for variable in model.optimizer.kernels:
    for copy in strategy.experimental_local_results(variable.value):
        assert (copy.numpy() == 0).mean() == 0.5
print("DONE")
"""


_TRACES = """
import keras, numpy as np
import featherweight as fw
class Counted(keras.layers.Dense):
    traces = 0
    def call(self, inputs):
        Counted.traces += 1
        return super().call(inputs)
model = keras.Sequential([keras.layers.Input((12,)), keras.layers.Dense(16), Counted(24), keras.layers.Dense(10)])
model.compile(fw.SparseOptimizer("adam", 0.5), "mse")
Counted.traces = 0
model.fit(np.ones((32, 12)), np.ones((32, 10)), batch_size=16, verbose=0)
assert Counted.traces == 1, Counted.traces
assert (np.asarray(model.layers[1].kernel) == 0).mean() == 0.5
print("DONE")
"""


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_other_backends(backend: str) -> None:
    pytest.importorskip(backend)
    run_on(backend, _SCRIPT)


@pytest.mark.frameworks
def test_tensorflow_traces_the_step_once() -> None:
    pytest.importorskip("tensorflow")
    run_on("tensorflow", _TRACES)


@pytest.mark.frameworks
def test_several_devices_of_tensorflow() -> None:
    pytest.importorskip("tensorflow")
    run_on("tensorflow", _REPLICAS)
