"""Computes a traced JAX function in wider types: in float64 what float32 rounds, in float32 what 16 bits round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import CALLS, REGIONS, body_of, opened

_Types = Mapping[np.dtype[Any], np.dtype[Any]]
_DOUBLE: _Types = {np.dtype(np.float32): np.dtype(np.float64)}


def in_float64(closed: Any, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Evaluates a trace with every float32 in it, weights and inputs too, as float64; integers stay as they are."""
    import jax

    with jax.enable_x64(True):
        wide = [_widened(array, _DOUBLE) for array in arrays]
        outputs = jax.jit(lambda *inputs: _evaluated(closed.jaxpr, closed.consts, inputs, _DOUBLE))(*wide)
        return [np.asarray(output) for output in outputs]


def in_float32(call: Callable[..., Sequence[Any]], dtypes: Sequence[str]) -> Callable[..., list[Any]]:
    """Returns a function that computes as `call` does, with every float of 16 bits in it as float32.

    Args:
        call: takes arrays of these types, and can be traced.
        dtypes: what the function that is returned takes in float32 where they are of 16 bits.
    """
    import jax

    types: _Types = dict.fromkeys(_half(), np.dtype(np.float32))

    def wide(*arrays: Any) -> list[Any]:
        narrow = [jax.ShapeDtypeStruct(a.shape, dtype) for a, dtype in zip(arrays, dtypes, strict=True)]
        closed = jax.make_jaxpr(lambda *inputs: list(call(*inputs)))(*narrow)
        return _evaluated(closed.jaxpr, closed.consts, arrays, types)

    return wide


def has_half(jaxpr: Any) -> bool:
    """True where a trace holds floats of 16 bits, in its calls, loops and branches too."""
    for equation in jaxpr.eqns:
        if any(getattr(atom.aval, "dtype", None) in _half() for atom in (*equation.invars, *equation.outvars)):
            return True
        name = equation.primitive.name
        inner = [body_of(equation.params)] if name in CALLS else [equation.params[p] for p in REGIONS.get(name, ())]
        bodies = [body for part in inner for body in (part if isinstance(part, (tuple, list)) else (part,))]
        if any(has_half(opened(body)[0]) for body in bodies):
            return True
    return False


def _half() -> tuple[np.dtype[Any], ...]:
    import ml_dtypes

    return np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)


def _evaluated(jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any], types: _Types) -> list[Any]:
    import jax
    from jax.extend.core import Literal

    values: dict[Any, Any] = {v: _widened(c, types) for v, c in zip(jaxpr.constvars, constants, strict=True)}
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return _widened(atom.val, types) if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        scope = str(equation.source_info.name_stack)
        with jax.named_scope(scope) if scope else nullcontext():
            outputs = _computed(equation, operands, types)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _computed(equation: Any, operands: Sequence[Any], types: _Types) -> Sequence[Any]:
    if equation.primitive.name in CALLS:
        return _evaluated(*opened(body_of(equation.params)), operands, types)
    params = {name: _wide_dtype(value, types) for name, value in equation.params.items()}
    for name in REGIONS.get(equation.primitive.name, ()):
        params[name] = _wide_region(params[name], types)
    keywords = equation.primitive.get_bind_params(params)
    functions, keywords = keywords if isinstance(keywords, tuple) else ((), keywords)
    outputs = equation.primitive.bind(*functions, *operands, **keywords)
    return outputs if equation.primitive.multiple_results else [outputs]


def _widened(value: Any, types: _Types) -> Any:
    wide = types.get(getattr(value, "dtype", np.dtype(bool)))
    if wide is None:
        return value
    return value.astype(wide) if hasattr(value, "astype") else wide.type(value)  # a literal of the trace


def _wide_dtype(value: Any, types: _Types) -> Any:
    is_dtype = isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))
    return types.get(np.dtype(value), value) if is_dtype else value


def _wide_region(region: Any, types: _Types) -> Any:
    """The body of a loop, or the branches of a choice."""
    import jax

    if isinstance(region, (tuple, list)):
        return tuple(_wide_region(part, types) for part in region)
    avals = [jax.ShapeDtypeStruct(aval.shape, _wide_dtype(aval.dtype, types)) for aval in region.in_avals]
    return jax.make_jaxpr(lambda *inputs: _evaluated(region.jaxpr, region.consts, inputs, types))(*avals)
