"""Embedding lookup: one GATHER instead of a dozen operators that also treat indices outside of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import Rule, Tracing
from featherweight.lower.rewrites.placeholders import operator


def _is_lookup(equation: Any) -> bool:
    """Whether whole rows of a table are gathered: table[indices]."""
    numbers, table = equation.params["dimension_numbers"], equation.invars[0].aval
    indices, output = equation.invars[1].aval, equation.outvars[0].aval
    return (
        tuple(numbers.collapsed_slice_dims) == tuple(numbers.start_index_map) == (0,)
        and not numbers.operand_batching_dims
        and tuple(equation.params["slice_sizes"]) == (1, *table.shape[1:])
        and indices.shape[-1:] == (1,)
        and tuple(numbers.offset_dims) == tuple(range(indices.ndim - 1, output.ndim))
        and "CLIP" not in str(equation.params["mode"])
    )


def _lookup(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any]:
    """JAX counts negative indices from the end, and gives NaN outside of the table; LiteRT refuses to run on those.

    An index outside of the table is an error in every other framework, so neither is carried over.
    """
    import jax.numpy as jnp
    from jax import lax

    table, indices = inputs
    origin = tracing.origin(indices, "broadcast_in_dim", "reshape")
    if origin is not None and origin.inputs[0].shape == indices.shape[:-1]:
        indices = origin.inputs[0]
    else:
        indices = lax.squeeze(indices, [indices.ndim - 1])
    indices = _without_wrap(tracing, indices, table.shape[0])

    def plain(table: Any, indices: Any) -> Any:
        return jnp.take(table, indices, axis=0)

    return [operator("gather", plain, table, indices, axis=0, batch_dims=0)]


def _without_wrap(tracing: Tracing, indices: Any, size: int) -> Any:
    """i where indices are i < 0 ? i + size : i."""
    choice = tracing.origin(indices, "select_n")
    if choice is None or len(choice.inputs) != 3:
        return indices
    _, plain, wrapped = choice.inputs
    total = tracing.origin(wrapped, "add")
    is_wrap = total is not None and total.inputs[0] is plain and tracing.scalar(total.inputs[1]) == size
    return plain if is_wrap and np.issubdtype(plain.dtype, np.integer) else indices


LOOKUP_RULE = Rule("embedding lookup", "gather", _is_lookup, _lookup)
