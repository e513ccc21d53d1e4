"""Operators that JAX has no word for: placed in a trace as named composites, made real just before conversion.

`operator` puts a `stablehlo.composite` named ``featherweight.<op>`` into the trace, whose decomposition computes the
same in plain JAX. `expand` replaces each by the operator ``tfl.<op>`` with the same attributes, before the converter
runs: so it folds constants, biases, batch norms and activations into them as into any other operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from featherweight.lower.rewrites import bindings

_PREFIX = "featherweight."
# Operators whose last operand is optional, and is absent when the placeholder is made.
_ABSENT_LAST = {"transpose_conv", "conv_3d_transpose", "fully_connected"}


def operator(op: str, decomposition: Callable[..., Any], *inputs: Any, **attrs: Any) -> Any:
    """Returns the output of a placeholder for `tfl.<op>` with the operands `inputs` and attributes `attrs`.

    `decomposition(*inputs)` must compute the same: it gives the output's shape and dtype.
    """
    from jax import lax

    return lax.composite(lambda *args, **_: decomposition(*args), f"{_PREFIX}{op}")(*inputs, **attrs)


def expand(module: Any) -> None:
    """Replaces every placeholder of an MLIR module by its operator, in place."""
    ir = bindings.ir()
    found: list[Any] = []

    def visit(op: Any) -> Any:
        if op.operation.name == "stablehlo.composite" and _name(op).startswith(_PREFIX):
            found.append(op.operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for op in found:
        _expand(op)


def _expand(op: Any) -> None:
    ir = bindings.ir()
    kind = _name(op).removeprefix(_PREFIX)
    operands = list(op.operands)
    given = op.attributes["composite_attributes"]
    attributes = {given[i].name: _attribute(given[i].attr) for i in range(len(given))}
    with ir.InsertionPoint(op), op.location:
        if kind in _ABSENT_LAST:
            nothing = ir.Type.parse("none")
            absent = ir.Operation.create("tfl.no_value", results=[nothing], attributes={"value": ir.UnitAttr.get()})
            operands.append(absent.results[0])
        results = [result.type for result in op.results]
        new = ir.Operation.create(f"tfl.{kind}", results=results, operands=operands, attributes=attributes)
    for old_result, new_result in zip(op.results, new.results, strict=True):
        old_result.replace_all_uses_with(new_result)
    op.erase()


def _attribute(attribute: Any) -> Any:
    """Narrows numbers to the 32 bits that operator attributes have; everything else stays."""
    ir = bindings.ir()
    if isinstance(attribute, ir.IntegerAttr) and str(attribute.type) == "i64":
        return ir.IntegerAttr.get(ir.IntegerType.get_signless(32), attribute.value)
    if isinstance(attribute, ir.FloatAttr):
        return ir.FloatAttr.get(ir.F32Type.get(), attribute.value)
    return attribute


def _name(op: Any) -> str:
    return str(op.attributes["name"]).strip('"')
