"""What holds for every test: one backend, quiet libraries, reproducible property tests."""

from __future__ import annotations

import os

# Before anything imports a framework. The child processes of tests inherit it.
for _name, _value in {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}.items():
    os.environ.setdefault(_name, _value)

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# The first example of a property may import a framework, so no deadlines; the same examples on every run.
settings.register_profile(
    "featherweight",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("featherweight")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same for a test on every run."""
    return np.random.default_rng(0)
