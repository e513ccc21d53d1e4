"""Sorting and the largest of a row: one operator that orders values, as JAX does, ties included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras import ops as K  # noqa: N812
from tests.lower.support import ops

from featherweight.lower import lower
from featherweight.runtime import run

X = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
TIES = np.random.default_rng(1).integers(-2, 3, (3, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("x", [X, TIES, TIES.astype(np.int32), np.int32([[[2**31 - 1, -(2**31), 0, -1, 1, 7]]])])
@pytest.mark.parametrize(
    "function",
    [
        lambda x: K.top_k(x, 2),
        lambda x: jax.lax.top_k(x, 6)[1],
        jnp.sort,
        lambda x: jnp.sort(x, axis=1),
        lambda x: jnp.argsort(x, axis=0),
        lambda x: jnp.argsort(x, descending=True),
        lambda x: jax.lax.sort((x, 2.0 * x.astype(jnp.float32)), num_keys=1),
        lambda x: jax.lax.sort((x, x[..., ::-1]), dimension=1, num_keys=1),
    ],
)
def test_what_orders_values_is_jax_s(function: Callable[[Any], Any], x: np.ndarray) -> None:
    model = lower(function, samples=[x])
    assert "TOPK_V2" in ops(model)
    got = run(model, x)
    got = list(got.values()) if isinstance(got, dict) else [got]
    for expected, value in zip(jax.tree.leaves(function(x)), got, strict=True):
        np.testing.assert_array_equal(value, np.asarray(expected))


def test_rows_are_ordered_at_any_batch() -> None:
    inputs = keras.Input((10,))
    values, places = K.top_k(keras.layers.Dense(12)(inputs), 3)
    model = keras.Model(inputs, [values, places, K.median(inputs, axis=-1)])
    lowered = lower(model)
    x = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    for expected, value in zip(model(x), run(lowered, x).values(), strict=True):
        np.testing.assert_allclose(value, np.asarray(expected), atol=1e-6)


def test_values_alone_are_turned_around_behind_the_operator() -> None:
    assert ops(lower(jnp.sort, samples=[X])) == ["TOPK_V2", "REVERSE_V2"]
