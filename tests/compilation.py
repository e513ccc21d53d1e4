"""How XLA compiles in tests."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any
from unittest import mock

import jax
from jax._src import compiler


@contextlib.contextmanager
def optimizations(are_on: bool) -> Generator[None, None, None]:
    """What is compiled inside is optimized by XLA, or compiled as fast as can be: in a third of the time."""
    name = "jax_disable_most_optimizations"
    previous = jax.config.read(name)
    jax.config.update(name, not are_on)
    try:
        with mock.patch.object(compiler, "get_compile_options", _as_users_do if are_on else _quickly):
            yield
    finally:
        jax.config.update(name, previous)


_as_users_do = compiler.get_compile_options


def _quickly(*args: Any, **options: Any) -> Any:
    """Options of a compilation without XLA's newer emitters of fused loops, which take most of the time."""
    overrides = {**(options.pop("env_options_overrides", None) or {}), "xla_cpu_use_fusion_emitters": False}
    return _as_users_do(*args, env_options_overrides=overrides, **options)
