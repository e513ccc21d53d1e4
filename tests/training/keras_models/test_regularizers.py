"""Kurtosis regularization against NumPy: values, gradients, whole models, saving."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from tests import models

import featherweight as fw
from featherweight.errors import RecipeError
from featherweight.training.keras_models.regularizers import kurtosis


def expected(x, target=1.8):
    x = x.astype(np.float64)
    z = (x - x.mean()) / x.std()
    return ((z**4).mean() - target) ** 2


def expected_gradient(x, target=1.8):
    """d (k - t)^2 / dx with k = m4 / m2^2 of n elements, by hand."""
    x, n = x.astype(np.float64), x.size
    d = x - x.mean()
    m2, m3, m4 = (d**2).mean(), (d**3).mean(), (d**4).mean()
    slope = (4 * (d**3 - m3)) / n / m2**2 - 2 * m4 / m2**3 * (2 * d) / n
    return 2 * (m4 / m2**2 - target) * slope


def gradient(function, x):
    """The gradient of a scalar function on the backend of Keras."""
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(x))
    if keras.backend.backend() == "torch":
        variable = ops.convert_to_tensor(x).requires_grad_()
        function(variable).backward()
        return variable.grad.cpu().numpy()
    import tensorflow as tf

    with tf.GradientTape() as tape:
        variable = tf.Variable(x)
        loss = function(variable)
    return np.asarray(tape.gradient(loss, variable))


@pytest.mark.parametrize("draw", ["normal", "uniform", "laplace"])
def test_value_and_gradient(rng, draw):
    x = getattr(rng, draw)(0.3, 2.0, (3, 3, 4, 6)).astype(np.float32)
    regularizer = fw.kurtosis_regularizer(2.5, target=2.0)
    assert float(regularizer(ops.convert_to_tensor(x))) == pytest.approx(2.5 * expected(x, 2.0), rel=1e-4, abs=1e-7)
    wanted = 2.5 * expected_gradient(x, 2.0)
    np.testing.assert_allclose(gradient(regularizer, x), wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())


def test_kurtosis_of_known_distributions(rng):
    assert float(kurtosis(rng.uniform(-3, 5, 200_000).astype(np.float32))) == pytest.approx(1.8, abs=0.01)
    assert float(kurtosis(rng.normal(0, 0.01, 200_000).astype(np.float32))) == pytest.approx(3.0, abs=0.05)


def test_equal_weights_have_no_infinite_loss_or_gradient():
    x = np.full((4, 4), 0.25, np.float32)
    regularizer = fw.kurtosis_regularizer(1.0)
    assert np.isfinite(float(regularizer(x)))
    assert np.isfinite(gradient(regularizer, x)).all()


def test_training_makes_weights_uniform(rng):
    model = keras.Sequential(
        [keras.Input((32,)), keras.layers.Dense(32, kernel_regularizer=fw.kurtosis_regularizer(1.0))]
    )
    kernel = model.layers[0].kernel
    kernel.assign(rng.normal(0, 0.2, kernel.shape).astype(np.float32))
    before = float(kurtosis(kernel))
    model.compile(keras.optimizers.Adam(1e-2), loss=lambda y, p: 0.0 * ops.mean(p))
    model.fit(np.zeros((64, 32)), np.zeros((64, 32)), epochs=20, batch_size=16, verbose=0)
    assert before > 2.7
    assert float(kurtosis(kernel)) < 2.0


def test_saved_without_custom_objects(tmp_path):
    layer = keras.layers.Conv2D(4, 3, kernel_regularizer=fw.kurtosis_regularizer(0.5, target=3))
    keras.Sequential([keras.Input((8, 8, 2)), layer]).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].kernel_regularizer.get_config() == {"strength": 0.5, "target": 3.0}


def test_whole_models_of_any_kind():
    net = keras.models.clone_model(models.build("convnet"))
    net.set_weights(models.build("convnet").get_weights())
    kernels = [v for v in net.trainable_variables if v.name == "kernel"]
    wanted = 0.3 * np.mean([expected(np.asarray(ops.convert_to_numpy(v))) for v in kernels])
    assert fw.add_kurtosis(net, 0.3) == [v.path for v in kernels]
    assert float(sum(net.losses)) == pytest.approx(wanted, rel=1e-4)

    trained = fw.graph_model(models.lowered("convnet"))
    assert len(fw.add_kurtosis(trained, 0.3)) == len(kernels)
    assert float(sum(trained.losses)) > 0
    trained.compile("sgd", loss="mse")
    history = trained.fit(models.batch("convnet", 4), np.zeros((4, 10), np.float32), verbose=0).history
    assert history["loss"][0] > float(sum(trained.losses)) * 0.5


def test_an_own_regularizer_stays():
    net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.1))])
    before = float(sum(net.losses))
    fw.add_kurtosis(net, 0.5)
    wanted = before + 0.5 * expected(np.asarray(ops.convert_to_numpy(net.layers[0].kernel)))
    assert float(sum(net.losses)) == pytest.approx(wanted, rel=1e-4)


def test_bad_input():
    with pytest.raises(RecipeError, match=r"kurtosis: strength is -1 \(allowed: a finite number from 0 on\)"):
        fw.kurtosis_regularizer(-1)
    with pytest.raises(RecipeError, match=r"kurtosis: target is 0\.5 \(allowed: a finite number from 1 on\)"):
        fw.kurtosis_regularizer(1, target=0.5)
    with pytest.raises(RecipeError, match=r"The model 'empty' has no trained kernels\. Build it first"):
        fw.add_kurtosis(keras.Sequential([keras.Input((8,)), keras.layers.ReLU()], name="empty"), 1.0)
