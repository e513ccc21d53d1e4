"""One-dimensional convolutions as two-dimensional ones, together with what follows them.

The operators are two-dimensional. A RESHAPE straight behind a convolution would keep its bias, batch norm and
activation from being folded into it. So elementwise arithmetic with constants is done on the lifted value,
(n, 1, w, c), and the RESHAPE comes after it, or never, where the next operator is lifted too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import Rule, Tracing

_ELEMENTWISE = ("add", "sub", "mul", "div", "max", "min", "tanh", "logistic")


def lifted(tracing: Tracing, x: Any) -> Any:
    """(n, w, c) → (n, 1, w, c)."""
    from jax import lax

    wide = tracing.lifted(x)
    return lax.expand_dims(x, (1,)) if wide is None else wide


def lowered(tracing: Tracing, wide: Any) -> Any:
    """(n, 1, w, c) → (n, w, c), remembered as lifted."""
    from jax import lax

    x = lax.squeeze(wide, (1,))
    tracing.lift(x, wide)
    return x


def _is_conv(equation: Any) -> bool:
    params = equation.params
    numbers = params["dimension_numbers"]
    return (
        len(params["window_strides"]) == 1
        and tuple(params["lhs_dilation"]) == (1,)
        and params["batch_group_count"] == 1
        and tuple(numbers.lhs_spec) == tuple(numbers.out_spec) == (0, 2, 1)
        and equation.outvars[0].aval.dtype == np.float32
    )


def _conv(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any]:
    import jax.numpy as jnp
    from jax import lax

    params = equation.params
    out, inner, width = params["dimension_numbers"].rhs_spec
    kernel = inputs[1]
    layout = [""] * 3
    layout[out], layout[inner], layout[width] = "O", "I", "W"
    layout.insert(width, "H")
    wide = lax.conv_general_dilated(
        lifted(tracing, inputs[0]),
        jnp.expand_dims(kernel, width),
        (1, *params["window_strides"]),
        ((0, 0), *params["padding"]),
        rhs_dilation=(1, *params["rhs_dilation"]),
        dimension_numbers=("NHWC", "".join(layout), "NHWC"),
        feature_group_count=params["feature_group_count"],
    )
    return [lowered(tracing, wide)]


def _is_three_dimensional(equation: Any) -> bool:
    aval = equation.outvars[0].aval
    return aval.ndim == 3 and aval.dtype == np.float32


def _elementwise(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """Arithmetic of lifted values with each other and with constants."""
    wide = [_operand(tracing, value) for value in inputs]
    if not any(tracing.lifted(value) is not None for value in inputs) or any(w is None for w in wide):
        return None
    keywords = equation.primitive.get_bind_params(equation.params)
    keywords = keywords[1] if isinstance(keywords, tuple) else keywords
    result = lowered(tracing, equation.primitive.bind(*_broadcast(wide), **keywords))
    tracing.remember(result, equation.primitive.name, inputs)
    return [result]


def _operand(tracing: Tracing, value: Any) -> Any | None:
    wide = tracing.lifted(value)
    if wide is not None:
        return wide
    constant = tracing.concrete(value)
    if constant is None or constant.ndim not in (0, 3):
        return None
    return constant if constant.ndim == 0 else np.expand_dims(constant, 1)


def _broadcast(operands: Sequence[Any]) -> list[Any]:
    """Primitives want equal shapes, or scalars."""
    import jax.numpy as jnp

    shape = np.broadcast_shapes(*(np.shape(o) for o in operands))
    return [o if np.ndim(o) == 0 else jnp.broadcast_to(o, shape) for o in operands]


LIFTING_RULES: tuple[Rule, ...] = (
    Rule("one-dimensional convolution", "conv_general_dilated", _is_conv, _conv),
    *(Rule("lifted arithmetic", primitive, _is_three_dimensional, _elementwise) for primitive in _ELEMENTWISE),
)
