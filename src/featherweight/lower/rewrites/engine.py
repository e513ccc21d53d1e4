"""Rewrites a traced JAX function before it is converted: what the converter gets wrong or poor becomes one operator.

A rule sees one equation of the trace and the equations that computed its inputs; it answers with better values or
with None. The function that was traced, and so the model behind it, is never touched: the untouched trace stays the
source that the result is verified against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Equations that only call another trace: their bodies are evaluated in place.
CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
# Equations that repeat or choose between traces, and the parameters that hold those.
REGIONS = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "cond": ("branches",)}
# Equations that hand the elements of their input on as they are.
_PRESERVING = ("broadcast_in_dim", "reshape", "convert_element_type", "copy", "squeeze", "stop_gradient")
# What stands for an unrolled loop among the names of rules.
UNROLLED = "unrolled loop"
# Constants that a rule asks for are computed if they take no more than this many equations.
_CONSTANT_DEPTH = 24


@dataclass(frozen=True)
class Origin:
    """The equation that computed a value: its primitive, parameters and input values."""

    primitive: str
    params: Mapping[str, Any]
    inputs: tuple[Any, ...]


@dataclass(frozen=True)
class Rule:
    """One rewriting rule.

    Attributes:
        name: what the rule makes, for notes and tests.
        primitive: the primitive whose equations it looks at.
        matches: a cheap test on the equation alone (primitive parameters and abstract values).
        rewrite: `(tracing, equation, inputs)` → outputs, or None where the rule does not apply after all.
    """

    name: str
    primitive: str
    matches: Callable[[Any], bool]
    rewrite: Callable[[Tracing, Any, tuple[Any, ...]], Sequence[Any] | None]


@dataclass(frozen=True)
class Tracing:
    """The state of one rewriting: where each value came from, and what was rewritten.

    Attributes:
        rules: tried in order; the first that gives outputs wins.
        unroll: write loops of known length out.
        origins: value identity → (value, its origin); `origin` reads it.
        lifts: value identity → (value, the same with a further spatial dimension of one); `lifted` reads it.
        applied: the names of the rules that were applied.
    """

    rules: tuple[Rule, ...]
    unroll: bool = False
    origins: dict[int, tuple[Any, Origin]] = field(default_factory=dict)
    lifts: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)

    def origin(self, value: Any, *primitives: str) -> Origin | None:
        """Returns the equation that computed `value` if it is one of `primitives` (or any, if none are given)."""
        found = self.origins.get(id(value))
        if found is None or (primitives and found[1].primitive not in primitives):
            return None
        return found[1]

    def remember(self, value: Any, primitive: str, inputs: tuple[Any, ...]) -> None:
        """Records what a rule made `value` from, for the rules that come across it later."""
        self.origins[id(value)] = (value, Origin(primitive, {}, inputs))

    def lift(self, value: Any, wide: Any) -> None:
        """Records `wide`, of which `value` is a copy without dimension 1 (a size of one)."""
        self.lifts[id(value)] = (value, wide)

    def lifted(self, value: Any) -> Any | None:
        """Returns what `lift` recorded for `value`."""
        found = self.lifts.get(id(value))
        return None if found is None else found[1]

    def scalar(self, value: Any) -> float | None:
        """Returns the number that all elements of `value` are known to be, without computing anything."""
        from jax.core import Tracer

        while isinstance(value, Tracer):
            origin = self.origin(value, *_PRESERVING)
            if origin is None:
                return None
            value = origin.inputs[0]
        return float(np.asarray(value).reshape(-1)[0]) if np.size(value) == 1 else None

    def is_constant(self, value: Any, depth: int = _CONSTANT_DEPTH) -> bool:
        """Says whether `concrete` knows the value, without computing it."""
        from jax.core import Tracer

        if not isinstance(value, Tracer):
            return True
        origin = self.origin(value)
        if origin is None or depth == 0 or "__bind__" not in origin.params:
            return False
        return all(self.is_constant(item, depth - 1) for item in origin.inputs)

    def concrete(self, value: Any, depth: int = _CONSTANT_DEPTH) -> np.ndarray | None:
        """Returns the value as an array if it does not depend on the function's inputs, else None."""
        import jax
        from jax.core import Tracer

        if not isinstance(value, Tracer):
            return np.asarray(value)
        origin = self.origin(value)
        if origin is None or depth == 0 or "__bind__" not in origin.params:
            return None
        inputs = [self.concrete(item, depth - 1) for item in origin.inputs]
        if any(item is None for item in inputs):
            return None
        with jax.ensure_compile_time_eval():
            outputs = origin.params["__bind__"](*inputs)
        return np.asarray(outputs)


def rewritten(closed: Any, rules: Sequence[Rule], unroll: bool) -> tuple[Callable[..., list[Any]], list[str]]:
    """Returns (function, names of the rules applied): the function evaluates the trace under the rules.

    The list of names fills while the function is traced, so it is complete only after that.
    """
    applied: list[str] = []

    def main(*args: Any) -> list[Any]:
        applied.clear()
        return evaluate(Tracing(tuple(rules), unroll, applied=applied), closed.jaxpr, closed.consts, args)

    return main, applied


def evaluate(tracing: Tracing, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """Evaluates a trace equation by equation under the rules of `tracing`."""
    import jax
    from jax.extend.core import Literal

    values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        scope = str(equation.source_info.name_stack)
        with jax.named_scope(scope) if scope else _no_scope():
            outputs = _apply(tracing, equation, tuple(read(atom) for atom in equation.invars))
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _no_scope() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def _apply(tracing: Tracing, equation: Any, inputs: tuple[Any, ...]) -> Sequence[Any]:
    """Evaluates one equation: by a rule, in place, unrolled, or as it is."""
    for rule in tracing.rules:
        if _looks_at(rule, equation):
            outputs = rule.rewrite(tracing, equation, inputs)
            if outputs is not None:
                tracing.applied.append(rule.name)
                return outputs
    primitive = equation.primitive.name
    if primitive in CALLS:
        body, constants = opened(body_of(equation.params))
        return evaluate(tracing, body, constants, inputs)
    if primitive == "scan" and tracing.unroll:
        tracing.applied.append(UNROLLED)
        return _unrolled(tracing, equation.params, inputs)
    params = dict(equation.params)
    for name in REGIONS.get(primitive, ()):
        params[name] = _rewritten_region(tracing, params[name])

    def bind(*operands: Any) -> Any:
        keywords = equation.primitive.get_bind_params(params)
        functions, keywords = keywords if isinstance(keywords, tuple) else ((), keywords)  # JAX before 0.10: a pair.
        return equation.primitive.bind(*functions, *operands, **keywords)

    outputs = bind(*inputs)
    if equation.primitive.multiple_results:
        return outputs
    origin = Origin(primitive, params if primitive in REGIONS else {**params, "__bind__": bind}, inputs)
    tracing.origins[id(outputs)] = (outputs, origin)
    return [outputs]


def _rewritten_region(tracing: Tracing, region: Any) -> Any:
    """Rewrites the body of a loop or the branches of a choice."""
    import jax

    if isinstance(region, (tuple, list)):
        return tuple(_rewritten_region(tracing, item) for item in region)

    def body(*inputs: Any) -> list[Any]:
        return evaluate(tracing, region.jaxpr, region.consts, inputs)

    return jax.make_jaxpr(body)(*region.in_avals)


def _unrolled(tracing: Tracing, params: Mapping[str, Any], inputs: tuple[Any, ...]) -> list[Any]:
    """Evaluates a `scan` step by step, so that no loop is left."""
    import jax.numpy as jnp
    from jax import lax

    held, carried = params["num_consts"], params["num_carry"]
    constants, state = inputs[:held], list(inputs[held : held + carried])
    sequences = inputs[held + carried :]
    steps = range(params["length"])
    rows: dict[int, list[Any]] = {}
    for step in reversed(steps) if params["reverse"] else steps:
        current = [lax.index_in_dim(sequence, step, 0, keepdims=False) for sequence in sequences]
        results = evaluate(tracing, params["jaxpr"].jaxpr, params["jaxpr"].consts, [*constants, *state, *current])
        state, rows[step] = list(results[:carried]), list(results[carried:])
    count = len(params["jaxpr"].out_avals) - carried
    return state + [jnp.stack([rows[step][i] for step in steps]) for i in range(count)]


def _looks_at(rule: Rule, equation: Any) -> bool:
    return rule.primitive == equation.primitive.name and rule.matches(equation)


def body_of(params: Mapping[str, Any]) -> Any:
    """Returns the trace that an equation of `CALLS` calls."""
    return next(params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in params)


def opened(body: Any) -> tuple[Any, Sequence[Any]]:
    """Returns (trace, its constants) of a closed or an open trace."""
    return (body.jaxpr, body.consts) if hasattr(body, "consts") else (body, ())
