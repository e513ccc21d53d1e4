"""Fixtures for tests that compile many small training steps, where XLA's optimizations take most of the time."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator

import jax
import pytest


@contextlib.contextmanager
def optimizations(are_on: bool) -> Generator[None, None, None]:
    """What is compiled inside is, or is not, optimized by XLA."""
    name = "jax_disable_most_optimizations"
    previous = jax.config.read(name)
    jax.config.update(name, not are_on)
    try:
        yield
    finally:
        jax.config.update(name, previous)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """For the modules that import it: compiles without most optimizations."""
    with optimizations(are_on=False):
        yield


@pytest.fixture
def optimized() -> Iterator[None]:
    """For one test: compiles as users do."""
    with optimizations(are_on=True):
        yield
