"""The units that a folded net is trained in: what they are, that they leave the forward pass alone, what they bring."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from tests import models
from tests.training.checking import assert_equal, quantized, runtime_outputs

import featherweight as fw
from featherweight.training.optimizers.scaled import ScaledOptimizer
from featherweight.training.qat.rising_loss import WarnOfRisingLoss
from featherweight.training.qat.units import units_of

# A channel's weights and bias are multiplied by it, and what reads the channel is divided.
SPREAD = np.float32(2.0) ** np.arange(-14, 18, 4)


def folded():
    """A net as folding leaves it: channels that differ by 2^28, which int8 with a scale per channel does not feel."""
    random = np.random.default_rng(0)
    inputs = keras.Input((16,), name="x")
    net = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Dense(8, activation="relu", name="hidden")(inputs)))
    first = random.normal(0, 0.3, (16, 8)).astype(np.float32), random.normal(0, 1, 8).astype(np.float32)
    second = random.normal(0, 0.4, (8, 4)).astype(np.float32), random.normal(0, 1, 4).astype(np.float32)
    net.set_weights([first[0], first[1], *second])
    return net


def numpy_of(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def samples(count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)


def unit_of(model, path):
    variable = next(v for v in model.trainable_variables if v.path.endswith(path))
    return units_of(model)[id(variable)]


def test_units_are_those_of_channels_and_their_sums():
    net = folded()
    kernel, bias = net.get_weights()[:2]
    model = fw.quantize_aware(net, calibration=samples(32), progress=False)
    deviations = np.sqrt(np.square(kernel).mean(0))
    np.testing.assert_allclose(unit_of(model, "hidden/kernel").reshape(-1), deviations, rtol=1e-5)
    magnitude = unit_of(model, "hidden/bias") / (deviations * 4)
    assert magnitude.shape == bias.shape
    np.testing.assert_allclose(magnitude, magnitude[0], rtol=1e-5)
    assert 0.5 < magnitude[0] < 2  # of inputs with a deviation of 1


def test_units_grow_with_the_channel():
    net, other = folded(), folded()
    kernel, bias, *rest = net.get_weights()
    other.set_weights([kernel * SPREAD, bias * SPREAD, *rest])
    plain, scaled = (fw.quantize_aware(n, calibration=samples(32), progress=False) for n in (net, other))
    for path in ("hidden/kernel", "hidden/bias"):
        ratio = unit_of(scaled, path).reshape(-1) / unit_of(plain, path).reshape(-1)
        np.testing.assert_allclose(ratio, SPREAD, rtol=1e-4)


def test_a_dead_channel_and_a_pruned_kernel_have_units():
    net = folded()
    kernel, *rest = net.get_weights()
    kernel[:, 2] = 0
    kernel[::2, 3] = 0
    net.set_weights([kernel, *rest])
    model = fw.quantize_aware(net, calibration=samples(32), progress=False)
    unit = unit_of(model, "hidden/kernel").reshape(-1)
    assert (unit > 0).all()
    np.testing.assert_allclose(unit[3], np.sqrt(np.square(kernel[1::2, 3]).mean()), rtol=1e-5)


def moves(model, x):
    variables = model.trainable_variables
    before = [numpy_of(variable) for variable in variables]
    model.train_on_batch(x)
    pairs = zip(variables, before, strict=True)
    return {variable.path.split("/", 1)[1]: np.abs(numpy_of(variable) - value) for variable, value in pairs}


def test_the_first_step_of_adam_moves_each_weight_by_its_unit():
    net, spread = folded(), np.float32(2.0) ** np.arange(-3, 5)
    kernel, bias, following, last = net.get_weights()
    net.set_weights([kernel * spread, bias * spread, following / spread[:, None], last])
    model = fw.quantize_aware(net, calibration=samples(32), teacher=True, progress=False)
    model.compile(keras.optimizers.Adam(1e-3))
    found = moves(model, samples(32, 2))["hidden/kernel"].max(1)
    units = unit_of(model, "hidden/kernel").reshape(-1)
    assert units.max() > 50 * units.min()
    assert (found <= 1.5e-3 * units).all()
    assert (found >= 0.6e-3 * units).all()


def test_the_real_numbers_themselves_are_trained_on_request():
    model = fw.quantize_aware(folded(), "w4a8", calibration=samples(32), teacher=True, progress=False)
    optimizer = keras.optimizers.Adam(1e-3)
    model.compile(optimizer, scaled=False)
    assert model.optimizer is optimizer
    moved = moves(model, samples(32, 2))["hidden/kernel"]
    assert moved.max() == pytest.approx(1e-3, rel=0.01)


def test_the_forward_pass_and_the_file_are_as_ever():
    inputs = models.batch("convnet", 16, seed=2)
    model = quantized("convnet", teacher=True)
    before = model.predict(inputs, verbose=0)
    model.compile(keras.optimizers.Adam(1e-5))
    assert_equal(model.predict(inputs, verbose=0), before)
    model.fit(inputs, epochs=2, batch_size=8, verbose=0)
    assert_equal(model.predict(inputs, verbose=0), runtime_outputs(fw.finalize(model), inputs))


def test_training_goes_on_after_saving_as_if_never_saved(tmp_path):
    inputs = samples(32, 3)
    model = fw.quantize_aware(folded(), "w4a8", calibration=samples(32), teacher=True, progress=False)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(inputs, epochs=2, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "half.keras")
    again = keras.saving.load_model(tmp_path / "half.keras")
    assert isinstance(again.optimizer, ScaledOptimizer)
    for half in (model, again):
        half.fit(inputs, epochs=2, batch_size=8, shuffle=False, verbose=0)
    for one, other in zip(model.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(numpy_of(one), numpy_of(other))


def test_masks_of_a_sparse_optimizer_hold():
    model = quantized("convnet", teacher=True)
    model.compile(fw.SparseOptimizer(keras.optimizers.Adam(1e-2), 0.5, keep=()))
    for _ in range(2):
        model.train_on_batch(models.batch("convnet", 16, seed=2))
    assert all(value == pytest.approx(0.5, abs=0.01) for value in model.optimizer.sparsities().values())
    assert isinstance(model.optimizer.inner_optimizer, ScaledOptimizer)


def test_compiling_again_with_the_same_optimizer():
    model, optimizer = quantized("convnet", teacher=True), keras.optimizers.Adam(1e-3)
    for _ in range(2):
        model.compile(optimizer)
        model.train_on_batch(models.batch("convnet", 8, seed=2))


def test_a_rising_loss_is_said(caplog):
    model = fw.quantize_aware(folded(), calibration=samples(32), teacher=True, progress=False)
    model.compile(keras.optimizers.Adam(0.3))
    model.fit(samples(64, 2), epochs=4, batch_size=16, verbose=0)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert re.search(r"rises: .* in the first step, .* in epoch 1.*tenth of the rate; fw.try_learning_rates", said[0])


def test_a_slow_rise_is_said_in_the_end(caplog):
    callback = WarnOfRisingLoss()
    callback.set_model(fw.quantize_aware(folded(), calibration=samples(32), teacher=True, progress=False))
    callback.on_train_begin()
    for epoch in range(6):
        callback.on_train_batch_end(0, {"loss": 1.0})
        callback.on_epoch_end(epoch, {"loss": 1 + 0.1 * epoch})
    callback.on_train_end()
    assert re.search(r"rises: 1\.1 in the first half of all epochs, 1\.4 in the second", caplog.text)


def test_an_easy_first_batch_is_no_rise(caplog):
    callback = WarnOfRisingLoss()
    callback.set_model(fw.quantize_aware(folded(), calibration=samples(32), teacher=True, progress=False))
    callback.on_train_begin()
    for batch, mean in enumerate([0.25, 0.8, 0.9, 0.7, 0.6]):  # as Keras logs it: of the epoch so far
        callback.on_train_batch_end(batch, {"loss": mean})
    callback.on_epoch_end(0, {"loss": 0.6})
    assert not caplog.records
    callback.on_epoch_end(1, {"loss": 1.3})
    assert re.search(r"rises: 0\.6 in the first steps, 1\.3 in epoch 2", caplog.text)


def test_a_falling_loss_is_not(caplog):
    model = fw.quantize_aware(folded(), "w4a8", calibration=samples(32), teacher=True, verify=False, progress=False)
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(samples(64, 2), epochs=5, batch_size=16, verbose=0)
    assert not caplog.records
