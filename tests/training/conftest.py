"""How training steps are compiled: XLA's optimizations take most of the time of small ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.training.compilation import optimizations


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For a module: compiles without most optimizations."""
    with optimizations(are_on=False):
        yield


@pytest.fixture
def optimized() -> Iterator[None]:
    """For one test: compiles as users do."""
    with optimizations(are_on=True):
        yield
