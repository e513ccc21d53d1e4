"""Makes loops exportable: each region of a `tfl.while` becomes a function of its own.

The exporter wants a region to be a single call. What a region captures from outside becomes a loop operand that is
passed through unchanged; captured constants are copied into the function instead. Inner loops go first, so an outer
loop finds them already reduced to calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featherweight.lower.rewrites import bindings

_CONSTANTS = {"arith.constant", "tfl.pseudo_const", "tfl.no_value"}
_KINDS = ("cond", "body")


def outline(module: Any) -> int:
    """Outlines the regions of every `tfl.while` of an MLIR module, in place; returns the number of loops."""
    ir = bindings.ir()
    found: list[Any] = []

    def visit(op: Any) -> Any:
        if op.operation.name == "tfl.while":
            found.append(op.operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit, ir.WalkOrder.POST_ORDER)
    for number, op in enumerate(found):
        _outline(module, op, number)
    return len(found)


def _outline(module: Any, op: Any, number: int) -> None:
    ir = bindings.ir()
    blocks = [region.blocks[0] for region in op.regions]
    captured = _captured(blocks)
    operands = [*op.operands, *captured]
    types = [value.type for value in operands]
    names = [f"while_{kind}_{number}" for kind in _KINDS]
    results = [
        _function(module, name, block, types, captured, returns_captured=kind == "body")
        for kind, name, block in zip(_KINDS, names, blocks, strict=True)
    ]
    with ir.InsertionPoint(op):
        stateless = {"is_stateless": ir.BoolAttr.get(False)}
        loop = ir.Operation.create(
            "tfl.while", results=types, operands=operands, regions=2, attributes=stateless, loc=op.location
        )
    unknown = ir.Location.unknown()
    for region, name, result_types in zip(loop.regions, names, results, strict=True):
        block = ir.Block.create_at_start(region, types, [unknown] * len(types))
        with ir.InsertionPoint(block):
            callee = {"callee": ir.FlatSymbolRefAttr.get(name)}
            call = ir.Operation.create(
                "func.call", results=result_types, operands=list(block.arguments), attributes=callee, loc=unknown
            )
            ir.Operation.create("tfl.yield", operands=list(call.results), loc=unknown)
    for old, new in zip(op.results, list(loop.results)[: len(op.results)], strict=True):
        old.replace_all_uses_with(new)
    op.erase()


def _function(
    module: Any, name: str, block: Any, types: Sequence[Any], captured: Sequence[Any], *, returns_captured: bool
) -> list[Any]:
    """Writes one region as the private function `name` over `types`; returns the types of its results."""
    ir = bindings.ir()
    *body, last = [op.operation for op in block.operations]
    passed = list(captured) if returns_captured else []
    result_types = [value.type for value in [*last.operands, *passed]]
    unknown = ir.Location.unknown()
    with ir.InsertionPoint(module.body):
        attributes = {
            "sym_name": ir.StringAttr.get(name),
            "sym_visibility": ir.StringAttr.get("private"),
            "function_type": ir.TypeAttr.get(ir.FunctionType.get(list(types), result_types)),
        }
        function = ir.Operation.create("func.func", regions=1, attributes=attributes, loc=unknown)
    entry = ir.Block.create_at_start(function.regions[0], list(types), [unknown] * len(types))
    known = _Values(list(zip([*block.arguments, *captured], entry.arguments, strict=True)))
    with ir.InsertionPoint(entry):
        for op in body:
            operands = [known.read(value) for value in op.operands]
            copy = op.clone()
            for i, value in enumerate(operands):
                copy.operands[i] = value
            known.pairs += zip(op.results, copy.results, strict=True)
        returned = [known.read(value) for value in [*last.operands, *passed]]
        ir.Operation.create("func.return", operands=returned, loc=unknown)
    return result_types


class _Values:
    """Old value → new value. MLIR values compare, but do not hash."""

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        self.pairs = pairs

    def read(self, value: Any) -> Any:
        for old, new in self.pairs:
            if old == value:
                return new
        copy = value.owner.operation.clone()  # A captured constant: everything else is known by now.
        self.pairs.append((value, copy.results[0]))
        return copy.results[0]


def _captured(blocks: Sequence[Any]) -> list[Any]:
    """The values, constants apart, that the blocks use and neither of them defines."""
    captured: list[Any] = []
    for block in blocks:
        own = [*block.arguments, *(result for op in block.operations for result in op.operation.results)]
        for op in block.operations:
            for value in op.operation.operands:
                if not (value in own or value in captured or _is_constant(value)):
                    captured.append(value)
    return captured


def _is_constant(value: Any) -> bool:
    ir = bindings.ir()
    return not isinstance(value.owner, ir.Block) and value.owner.operation.name in _CONSTANTS
