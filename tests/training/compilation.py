"""How XLA compiles in tests."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import jax


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
