"""A constant less a value, and a constant over a value, written so that the order of the operands is kept.

The converter moves transpositions behind sums, differences, products and quotients with a constant, and puts the
constant last whatever it was before (TensorFlow's `push_transpose_through_ewise.cc`): ``1 - x.T`` became ``(x - 1).T``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import Rule, Tracing


def _always(_: Any) -> bool:
    return True


def _is_quotient(equation: Any) -> bool:
    return equation.params["y"] < 0


def _hidden(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """The same of a constant that the converter does not see as one until the end."""
    constant, x = inputs
    if not tracing.is_constant(constant) or tracing.is_constant(x):
        return None
    value = equation.primitive.bind(_behind_barrier(constant, x), x)
    return _remembered(tracing, value, equation.primitive.name, inputs)


def _inverse_power(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """1 / xⁿ."""
    from jax import lax

    (x,) = inputs
    if tracing.is_constant(x):
        return None
    power = lax.integer_pow(x, -equation.params["y"])
    value = lax.div(_behind_barrier(np.ones((), x.dtype), x), power)
    return _remembered(tracing, value, "integer_pow", (x,))


def _behind_barrier(constant: Any, x: Any) -> Any:
    from jax import lax

    return lax.broadcast(lax.optimization_barrier(constant), x.shape[: x.ndim - np.ndim(constant)])


def _remembered(tracing: Tracing, value: Any, primitive: str, inputs: tuple[Any, ...]) -> list[Any]:
    tracing.remember(value, primitive, inputs)
    return [value]


CONSTANT_FIRST_RULES: tuple[Rule, ...] = (
    Rule("constant less a value", "sub", _always, _hidden),
    Rule("constant over a value", "div", _always, _hidden),
    Rule("inverse power", "integer_pow", _is_quotient, _inverse_power),
)
