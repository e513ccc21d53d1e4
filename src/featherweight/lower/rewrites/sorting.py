"""Sorting and the largest of a row: TOPK_V2, the one operator that orders values.

It puts the largest first, and among equals the one that comes first: a stable order, from the largest down. What is
sorted from the smallest up is turned around: values behind the operator, keys that others are sorted by before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import Rule, Tracing
from featherweight.lower.rewrites.placeholders import operator

_SORTED_TYPES = ("float32", "int32")


def _is_ordered(equation: Any) -> bool:
    key = equation.invars[0].aval
    return key.ndim > 0 and key.dtype.name in _SORTED_TYPES and equation.params.get("num_keys", 1) == 1


def _top_k(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any]:
    axis = equation.params.get("axis", -1) % inputs[0].ndim
    values, places = _largest(_with_last(inputs[0], axis), int(equation.params["k"]))
    return [_with_last(values, axis), _with_last(places, axis)]


def _sort(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any]:
    """Values alone are reversed; what goes along with them is taken from where the keys were."""
    from jax import lax

    axis = equation.params["dimension"] % inputs[0].ndim
    key = _with_last(inputs[0], axis)
    size, last = key.shape[-1], key.ndim - 1
    if len(inputs) == 1:
        return [_with_last(lax.rev(_largest(key, size)[0], (last,)), axis)]
    turned, places = _largest(_turned(key), size)
    outputs = [_with_last(_turned(turned), axis)]
    for other in inputs[1:]:
        counted = _is_count(tracing, other, axis)
        found = places.astype(other.dtype) if counted else _taken(_with_last(other, axis), places)
        outputs.append(_with_last(found, axis))
    return outputs


def _largest(x: Any, count: int) -> tuple[Any, Any]:
    """(…, n) → the `count` largest of each row, from the largest down, and where they were."""
    import jax.numpy as jnp
    from jax import lax

    def plain(x: Any, _: Any) -> tuple[Any, Any]:
        """JAX's own `top_k` is written in a dialect that the converter reads in another version."""
        counted = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
        turned, places = lax.sort((_turned(x), counted), num_keys=1)
        return _turned(turned)[..., :count], places[..., :count]

    found = operator("topk_v2", plain, x, np.asarray(count, np.int32))
    return found[0], found[1]


def _turned(x: Any) -> Any:
    """Reverses the order of values: −x, and −x − 1 of integers, of which the lowest has no negative."""
    return -x if np.issubdtype(x.dtype, np.floating) else -x - 1


def _taken(x: Any, places: Any) -> Any:
    """(…, n), places in the last axis → the values there."""
    import jax.numpy as jnp

    axis = x.ndim - 1
    return operator("gather", lambda x, at: jnp.take_along_axis(x, at, -1), x, places, axis=axis, batch_dims=axis)


def _is_count(tracing: Tracing, value: Any, axis: int) -> bool:
    """True for 0, 1, 2 … along an axis: what `argsort` sorts along with the keys."""
    known = tracing.concrete(value) if np.issubdtype(value.dtype, np.integer) else None
    if known is None:
        return False
    steps = np.arange(known.shape[axis]).reshape([-1 if d == axis else 1 for d in range(known.ndim)])
    return bool((known == steps).all())


def _with_last(x: Any, axis: int) -> Any:
    """Swaps an axis and the last one."""
    import jax.numpy as jnp

    return x if axis == x.ndim - 1 else jnp.swapaxes(x, axis, -1)


SORTING_RULES: tuple[Rule, ...] = (
    Rule("largest of a row", "top_k", _is_ordered, _top_k),
    Rule("sorting", "sort", _is_ordered, _sort),
)
