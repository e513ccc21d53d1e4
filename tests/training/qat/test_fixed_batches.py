"""Graphs whose batch stays fixed are trained at any other, on every backend."""

from __future__ import annotations

import pytest
from tests.backends import run_on

_SCRIPT = """
import jax.numpy as jnp, keras, numpy as np
import featherweight as fw

rng = np.random.default_rng(1)
token, first, last = (rng.normal(size=size).astype(np.float32) for size in ((1, 1, 8), (8, 8), (8, 4)))

def with_token(x):
    return jnp.maximum(jnp.concatenate([token, x], 1) @ first, 0) @ last

x = np.random.default_rng(0).normal(size=(6, 3, 8)).astype(np.float32)
rows = [row[None] for row in x]
for recipe in ("int8", "dynamic"):
    model = fw.quantize_aware(with_token, recipe, calibration=rows, teacher=True, progress=False)
    assert model.exposed.batch == 1
    model.compile(keras.optimizers.Adam(1e-4))
    before = model.predict(x, verbose=0)
    model.fit(x, batch_size=3, verbose=0)
    after, file = model.predict(x, verbose=0), fw.finalize(model).model
    assert (after != before).any()
    found = np.concatenate([fw.run(file, row) for row in rows])
    np.testing.assert_allclose(after, found, *((0, 0) if recipe == "int8" else (1e-5, 1e-6)))
print("DONE")
"""


@pytest.mark.frameworks
@pytest.mark.parametrize("backend", ["torch", "tensorflow", "jax"])
def test_a_net_with_a_token_is_trained(backend: str) -> None:
    run_on(backend, _SCRIPT)
