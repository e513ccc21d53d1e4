"""Computes a traced JAX function in float64: what it would give if float32 did not round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featherweight.lower.rewrites.engine import CALLS, REGIONS, body_of, opened


def in_float64(closed: Any, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Evaluates a trace with every float32 in it, weights and inputs too, as float64; integers stay as they are."""
    import jax

    with jax.enable_x64(True):
        outputs = jax.jit(lambda *inputs: _evaluated(closed.jaxpr, closed.consts, inputs))(*map(_widened, arrays))
        return [np.asarray(output) for output in outputs]


def _evaluated(jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    from jax.extend.core import Literal

    values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(_widened, constants), strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return _widened(atom.val) if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if equation.primitive.name in CALLS:
            outputs = _evaluated(*opened(body_of(equation.params)), operands)
        else:
            params = {name: _wide_dtype(value) for name, value in equation.params.items()}
            for name in REGIONS.get(equation.primitive.name, ()):
                params[name] = _wide_region(params[name])
            keywords = equation.primitive.get_bind_params(params)
            functions, keywords = keywords if isinstance(keywords, tuple) else ((), keywords)
            outputs = equation.primitive.bind(*functions, *operands, **keywords)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _widened(value: Any) -> Any:
    if getattr(value, "dtype", None) != np.float32:
        return value
    return value.astype(np.float64) if hasattr(value, "astype") else np.float64(value)  # a literal of the trace


def _wide_dtype(value: Any) -> Any:
    is_float32 = isinstance(value, (np.dtype, type)) and value in (np.dtype(np.float32), np.float32)
    return np.dtype(np.float64) if is_float32 else value


def _wide_region(region: Any) -> Any:
    """The body of a loop, or the branches of a choice."""
    import jax

    if isinstance(region, (tuple, list)):
        return tuple(map(_wide_region, region))
    types = [jax.ShapeDtypeStruct(aval.shape, _wide_dtype(aval.dtype)) for aval in region.in_avals]
    return jax.make_jaxpr(lambda *inputs: _evaluated(region.jaxpr, region.consts, inputs))(*types)
