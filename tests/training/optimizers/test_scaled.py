"""The optimizer that trains in units: the change of variables it is said to be, and nothing else."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from featherweight.training.optimizers.scaled import ScaledOptimizer, has_units, in_units

OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "clipped": lambda: keras.optimizers.RMSprop(0.1, global_clipnorm=0.5),
    "averaged": lambda: keras.optimizers.Adam(0.1, use_ema=True),
    "accumulated": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    "lion": lambda: keras.optimizers.Lion(0.1),
}
UNITS = np.float32([[1 / 64], [1.0], [32.0]])


def values(*variables):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def made(seed=0):
    random = np.random.default_rng(seed)
    return keras.Variable(random.normal(size=(3, 4)).astype(np.float32)), keras.Variable(np.float32([1.0, -2.0]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_change_of_variables(name):
    """Training w in units u is training v = w / u with the gradient u dL/dw, to the bit, whatever the optimizer."""
    weight, other = made()
    plain = keras.Variable(values(weight)[0] / UNITS), keras.Variable(values(other)[0])
    scaled, inner = ScaledOptimizer(OPTIMIZERS[name](), lambda: {id(weight): UNITS}), OPTIMIZERS[name]()
    random = np.random.default_rng(1)
    for _ in range(6):
        gradients = [random.normal(size=v.shape).astype(np.float32) for v in (weight, other)]
        scaled.apply([keras.ops.convert_to_tensor(g) for g in gradients], [weight, other])
        inner.apply([keras.ops.convert_to_tensor(g) for g in (gradients[0] * UNITS, gradients[1])], list(plain))
    scaled.finalize_variable_values([weight, other])
    inner.finalize_variable_values(list(plain))
    np.testing.assert_array_equal(values(weight)[0], values(plain[0])[0] * UNITS)
    np.testing.assert_array_equal(values(other)[0], values(plain[1])[0])


def test_units_become_powers_of_two_and_an_untouched_weight_keeps_its_bits():
    weight, _ = made()
    before = values(weight)[0]
    optimizer = ScaledOptimizer(keras.optimizers.SGD(0.1), lambda: {id(weight): np.float32([[3.0], [0.3], [7.0]])})
    optimizer.apply([keras.ops.zeros((3, 4))], [weight])
    np.testing.assert_array_equal(values(weight)[0], before)
    assert values(optimizer.variables[-0])[0].shape is not None
    units = [v for v in optimizer.variables if "units" in v.path]
    assert values(*units)[0].reshape(-1).tolist() == [4.0, 0.25, 8.0]


def test_the_learning_rate_is_that_of_the_wrapped_optimizer():
    optimizer = in_units(keras.optimizers.Adam(0.5), dict)
    optimizer.learning_rate = 0.25
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25
    assert has_units(optimizer)
    assert not has_units(optimizer.inner_optimizer)
    assert in_units(optimizer, dict) is optimizer
