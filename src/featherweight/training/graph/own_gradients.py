"""Functions of arrays whose gradients are not those of their operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import backend

from featherweight.operators.call import Array
from featherweight.training.graph.registry import ops


def with_gradient(
    forward: Callable[..., tuple[Array, Any]], backward: Callable[[Any, Array], tuple[Array | None, ...]]
) -> Callable[..., Array]:
    """Returns a function of arrays whose gradient is not that of its operations.

    Args:
        forward: from the arrays to (result, what the gradient needs).
        backward: from what the gradient needs and the gradient of the result to those of the arrays; None is 0.
    """
    if backend.backend() == "jax":
        import jax

        function: Any = jax.custom_vjp(lambda *arrays: forward(*arrays)[0])
        function.defvjp(forward, backward)
        return function

    def called(*arrays: Array) -> Array:
        @ops.custom_gradient
        def computed(*arrays: Array) -> tuple[Array, Any]:
            result, kept = forward(*arrays)

            def gradient(*args: Array, upstream: Array = None) -> tuple[Array, ...]:
                return backward(kept, args[-1] if upstream is None else upstream)

            return result, gradient

        return computed(*arrays)

    return called
