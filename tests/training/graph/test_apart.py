"""Values that XLA's CPU compiler computes once: same numbers and gradients, and programs that grow as chains do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from featherweight.training.graph.apart import apart
from featherweight.training.integer.straight_through import requantized


def chain(x: Any, factors: Any, *, is_apart: bool) -> Any:
    """A cell that reads its state twice, as many times as there are factors."""
    state = x
    for factor in factors:
        other = requantized(state, factor, -127.0, 127.0)
        state = requantized(state * 0.5 + other, np.float32(0.75), -127.0, 127.0)
        state = apart(state, gradient=True) if is_apart else state
    return (state * state).sum()


def instructions(steps: int) -> int:
    x, factors = jnp.ones((4, 8)), list(np.linspace(0.5, 1.5, steps, dtype=np.float32))
    compiled = jax.jit(jax.grad(lambda x: chain(x, factors, is_apart=True))).lower(x).compile()
    return sum(" = " in line for line in compiled.as_text().splitlines())


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other platforms weigh what they compute twice")
def test_a_chain_of_cells_compiles_to_as_many_instructions_for_each() -> None:
    four, eight = instructions(4), instructions(8)
    assert eight < 2.2 * four


def test_values_and_gradients_are_the_same() -> None:
    x = np.random.default_rng(0).normal(scale=40, size=(4, 8)).astype(np.float32)
    factors = list(np.linspace(0.5, 1.5, 5, dtype=np.float32))
    found = [
        jax.jit(jax.value_and_grad(lambda x, is_apart=is_apart: chain(x, factors, is_apart=is_apart)))(x)
        for is_apart in (False, True)
    ]
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)


def test_what_is_known_beforehand_stays_known() -> None:
    assert apart(np.float32(3)) == np.float32(3)
    assert isinstance(apart(np.ones(2)), np.ndarray)
