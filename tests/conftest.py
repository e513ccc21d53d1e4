"""What holds for every test: one backend, quiet libraries, reproducible property tests."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
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


collect_ignore = ["tflite/fuzzing.py"]  # no test: it imports the fuzzer, which `make fuzz` installs

# Folders whose files take longest, for they train and start processes: the many quick ones fill the end of a run.
SLOW = {"training", "e2e", "demo", "examples", "lower"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files of slow folders first."""
    items.sort(key=lambda item: not SLOW.intersection(item.path.parts))


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same for a test on every run."""
    return np.random.default_rng(0)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """JAX keeps all that it ever compiled, and the allocator what it ever had: gigabytes, in a run of all tests."""
    global _resident_after_release
    is_last = nextitem is None or nextitem.path != item.path
    if "jax" in sys.modules and (is_last or resident_bytes() > _resident_after_release + MAY_GROW_BYTES):
        sys.modules["jax"].clear_caches()
        gc.collect()
        if sys.platform == "linux":
            with contextlib.suppress(AttributeError):  # of other C libraries than glibc
                ctypes.CDLL(None).malloc_trim(0)
        _resident_after_release = resident_bytes()


MAY_GROW_BYTES = 500 << 20
_resident_after_release = MAY_GROW_BYTES


def resident_bytes() -> int:
    """Returns the memory of this process; 0 where no file says it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


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
