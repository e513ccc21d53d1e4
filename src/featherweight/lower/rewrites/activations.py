"""Activations that are one operator, found by the arithmetic that frameworks write them in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import Rule, Tracing
from featherweight.lower.rewrites.placeholders import operator

_SQRT_HALF = math.sqrt(0.5)


def _always(_: Any) -> bool:
    return True


def _pairs(inputs: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Both orders of two operands."""
    yield inputs[0], inputs[1]
    yield inputs[1], inputs[0]


def _gelu(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """x/2 · erfc(−x·√½), as Keras and JAX write it, and x/2 · (1 + erf(x·√½)), in either order."""
    for half, tail in _pairs(inputs):
        x = _scaled(tracing, half, 0.5)
        if x is None:
            continue
        origin = tracing.origin(tail, "erfc")
        found = _negated_argument(tracing, origin.inputs[0]) if origin else _erf_argument(tracing, tail)
        if found is not None and found is x:
            return [_gelu_operator(x)]
    return None


def _gelu_operator(x: Any) -> Any:
    import jax.numpy as jnp
    from jax.scipy.special import erf

    def plain(x: Any) -> Any:
        return jnp.asarray(0.5 * x * (1 + erf(x * np.float32(_SQRT_HALF))), x.dtype)

    return operator("gelu", plain, x, approximate=False)


def _negated_argument(tracing: Tracing, value: Any) -> Any | None:
    """x where value is −x·√½ or −(x·√½)."""
    inner = _scaled(tracing, value, _SQRT_HALF)
    origin = tracing.origin(value if inner is None else inner, "neg")
    if origin is None:
        return _scaled(tracing, value, -_SQRT_HALF)
    return origin.inputs[0] if inner is not None else _scaled(tracing, origin.inputs[0], _SQRT_HALF)


def _erf_argument(tracing: Tracing, value: Any) -> Any | None:
    """x where value is 1 + erf(x·√½)."""
    total = tracing.origin(value, "add")
    for one, rest in _pairs(total.inputs) if total else ():
        erf = tracing.origin(rest, "erf")
        if erf is not None and _is_constant(tracing, one, 1.0):
            return _scaled(tracing, erf.inputs[0], _SQRT_HALF)
    return None


def _scaled(tracing: Tracing, value: Any, factor: float) -> Any | None:
    """x where value is factor · x or x / (1 / factor)."""
    product = tracing.origin(value, "mul")
    for constant, x in _pairs(product.inputs) if product else ():
        if _is_constant(tracing, constant, factor):
            return x
    quotient = tracing.origin(value, "div")
    if quotient is not None and _is_constant(tracing, quotient.inputs[1], 1 / factor):
        return quotient.inputs[0]
    return None


def _is_constant(tracing: Tracing, value: Any, number: float) -> bool:
    """Whether every element is `number`, to float16 precision (constants are rounded to the model's dtype)."""
    found = tracing.scalar(value)
    return found is not None and abs(found - number) < 1e-3


def _prelu(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """relu(x) − α · relu(−x), as Keras writes it, with a constant α that is the same for every sample."""
    for positive, negative in _pairs(inputs):
        x, scaled = _relu_input(tracing, positive), tracing.origin(negative, "mul")
        if x is None or scaled is None or x.ndim < 2:
            continue
        for slope, rest in _pairs(scaled.inputs):
            turned = _relu_input(tracing, rest)
            minus = None if turned is None else tracing.origin(turned, "neg")
            if minus is None or minus.inputs[0] is not x:
                continue
            negated = tracing.concrete(slope)
            if negated is not None and negated.ndim == x.ndim and negated.shape[0] == 1:
                return [operator("prelu", _plain_prelu, x, np.ascontiguousarray(-negated[0], x.dtype))]
    return None


def _relu_input(tracing: Tracing, value: Any) -> Any | None:
    """x where value is max(x, 0)."""
    origin = tracing.origin(value, "max")
    return origin.inputs[0] if origin is not None and tracing.scalar(origin.inputs[1]) == 0 else None


def _plain_prelu(x: Any, slope: Any) -> Any:
    import jax.numpy as jnp

    return jnp.maximum(x, 0) + slope * jnp.minimum(x, 0)


def _is_float(equation: Any) -> bool:
    aval = equation.outvars[0].aval
    return aval.dtype == np.float32 and aval.ndim >= 1


def _softmax(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """exp(x − m) / Σ exp(x − m) over the last dimension, for any m that is constant along it."""
    import jax

    powers = tracing.origin(inputs[0], "exp")
    spread = tracing.origin(inputs[1], "broadcast_in_dim", "reshape")
    total = tracing.origin(spread.inputs[0], "reduce_sum") if spread else None
    last = inputs[0].ndim - 1
    if powers is None or total is None or total.inputs[0] is not inputs[0]:
        return None
    if tuple(int(axis) for axis in total.params["axes"]) != (last,):
        return None
    if inputs[1].shape != (*inputs[0].shape[:-1], 1):
        return None
    shifted = tracing.origin(powers.inputs[0], "sub")
    x = powers.inputs[0]
    if shifted is not None and np.shape(shifted.inputs[1])[-1:] in {(1,), ()}:
        x = shifted.inputs[0]
    return [operator("softmax", lambda value: jax.nn.softmax(value, axis=-1), x, beta=1.0)]


def _logistic(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any] | None:
    """1 / (1 + exp(−x))."""
    from jax import lax

    total = tracing.origin(inputs[1], "add") if _is_constant(tracing, inputs[0], 1.0) else None
    for one, rest in _pairs(total.inputs) if total else ():
        power = tracing.origin(rest, "exp")
        negated = tracing.origin(power.inputs[0], "neg") if power else None
        if negated is not None and _is_constant(tracing, one, 1.0):
            return [lax.logistic(negated.inputs[0])]
    return None


ACTIVATION_RULES: tuple[Rule, ...] = (
    Rule("exact GELU", "mul", _always, _gelu),
    Rule("PReLU", "add", _is_float, _prelu),
    Rule("softmax", "div", _is_float, _softmax),
    Rule("logistic", "div", _is_float, _logistic),
)
