"""Graphs whose batch stays fixed are trained at any other, on every backend."""

from __future__ import annotations

import pytest
from tests.backends import run_on

_SCRIPT = """
import keras, numpy as np, torch
import featherweight as fw

class Token(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.first, self.last = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1))))

torch.manual_seed(0)
x = np.random.default_rng(0).normal(size=(6, 3, 8)).astype(np.float32)
rows = [row[None] for row in x]
for recipe in ("int8", "dynamic"):
    model = fw.quantize_aware(Token().eval(), recipe, calibration=rows, teacher=True, progress=False)
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
def test_a_module_with_a_token_is_trained(backend: str) -> None:
    run_on(backend, _SCRIPT)
