"""Inputs of called graphs that are no tensor: a converter writes such where a branch reads fewer than another."""

from __future__ import annotations

from typing import Any

from featherweight.operators import lookup
from featherweight.tflite.names import OPS, option_fields, schema

_ABSENT = -1


def fill_absent_inputs(packed: Any) -> Any:
    """Gives each absent input of a called graph a tensor of its own, as the caller's operand is; returns the model.

    `packed` is the schema's model, as it was read. What is called takes the caller's last operands.
    """
    for sub in packed.subgraphs or ():
        for operator in sub.operators or ():
            for called in _called(operator, packed):
                graph = packed.subgraphs[called]
                if graph.inputs is not None and _ABSENT in graph.inputs:
                    operands = operator.inputs[len(operator.inputs) - len(graph.inputs) :]
                    _fill(graph, [sub.tensors[operand] for operand in operands])
    return packed


def _called(operator: Any, packed: Any) -> list[int]:
    """Returns the graphs that an operator calls."""
    calls = lookup(OPS.get(_code(packed.operatorCodes[operator.opcodeIndex]), "")).calls
    options = operator.builtinOptions or operator.builtinOptions2
    if not calls or options is None:
        return []
    fields = option_fields(type(options).__name__.removesuffix("T"))
    found = [getattr(options, fields[call], _ABSENT) for call in calls if call in fields]
    return [index for index in found if 0 <= index < len(packed.subgraphs)]


def _code(code: Any) -> int:
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def _fill(graph: Any, operands: list[Any]) -> None:
    if len(operands) != len(graph.inputs):
        return
    inputs = [int(index) for index in graph.inputs]
    for position, operand in enumerate(operands):
        if inputs[position] == _ABSENT:
            tensor = schema.TensorT()
            tensor.name, tensor.type = f"absent_{position}", operand.type
            tensor.shape, tensor.shapeSignature = operand.shape, operand.shapeSignature
            tensor.quantization = operand.quantization
            inputs[position] = len(graph.tensors)
            graph.tensors.append(tensor)
    graph.inputs = inputs
