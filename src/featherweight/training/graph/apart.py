"""Values that a compiled training step computes once, where its compiler would compute them again for every reader.

XLA's CPU compiler puts elementwise arithmetic into the kernels of all its readers. Chains of integer operators then
grow with what is before them: each step of an unrolled recurrent net holds all earlier ones, forward and backward.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from keras import backend

from featherweight.operators.call import Array, is_static


def apart(x: Array, *, gradient: bool = False) -> Array:
    """Returns x, computed on its own: no kernel of a reader computes it again. The gradient passes.

    Args:
        x: a value of the backend.
        gradient: the same holds for its gradient.
    """
    return x if is_static(x) or backend.backend() != "jax" else _kept(gradient)(x)


@cache
def _kept(gradient: bool) -> Any:
    """Returns the identity as a call that XLA does not inline (other platforms weigh what they compute twice)."""
    import jax
    from jax.experimental.xla_metadata import set_xla_metadata

    if jax.default_backend() != "cpu":
        return _same
    same = jax.jit(_same)

    def called(x: Array) -> Array:
        with set_xla_metadata(inlineable="false"):
            return same(x)

    kept = jax.custom_vjp(called)
    kept.defvjp(lambda x: (called(x), None), lambda _, upstream: (called(upstream) if gradient else upstream,))
    return kept


def _same(x: Array) -> Array:
    return x
