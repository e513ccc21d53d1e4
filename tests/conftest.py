"""What holds for every test: one backend, quiet libraries, reproducible property tests."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

# Before anything imports a framework. The child processes of tests inherit it.
for _name, _value in {
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}.items():
    os.environ.setdefault(_name, _value)

# What XLA has compiled and converters have lowered, for all processes of a run: the same comes up again and again.
if "FEATHERWEIGHT_TEST_RUN" not in os.environ:
    _RUN = tempfile.mkdtemp(prefix="featherweight-tests-")
    os.environ["FEATHERWEIGHT_TEST_RUN"] = _RUN
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(_RUN, "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    atexit.register(shutil.rmtree, _RUN, ignore_errors=True)

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


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_let_go() -> Iterator[None]:
    """JAX keeps all that it ever compiled: gigabytes, in a run of all tests."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For a module: XLA compiles without most of its optimizations, which take most of the time of small programs."""
    from tests.compilation import optimizations

    with optimizations(are_on=False):
        yield


@pytest.fixture(scope="module")
def optimized_module() -> Iterator[None]:
    """For a module: XLA compiles as for users."""
    from tests.compilation import optimizations

    with optimizations(are_on=True):
        yield


@pytest.fixture
def optimized() -> Iterator[None]:
    """For one test: XLA compiles as for users."""
    from tests.compilation import optimizations

    with optimizations(are_on=True):
        yield
