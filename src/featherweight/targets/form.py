"""The form in which an operator of a file computes."""

from __future__ import annotations

from featherweight import operators
from featherweight.graph import Graph, Node
from featherweight.graph.numerics import INTEGER_BITS


def form_of(node: Node, graph: Graph) -> str | None:
    """Returns the form in which a node of a file computes, ``"float32"`` for float, None where it touches neither."""
    if converts(node) or operators.lookup(node.op).is_of_shape:
        return None
    op = operators.lookup(node.op)
    weight = op.input_of(node, op.weight)
    others = [graph.tensors[name] for name in (*node.inputs, *node.outputs) if name and name != weight]
    integers = [t.dtype for t in others if t.quant and t.dtype in {"int8", "int16", "uint8"}]
    is_float = any(t.dtype in {"float32", "float16"} for t in others)
    activation = "float32" if is_float else integers[0] if integers else None
    dtype = graph.tensors[weight].dtype if weight else ""
    has_form = activation and dtype and not (is_float and dtype not in INTEGER_BITS)
    return f"{activation}*{dtype}" if has_form else activation


def converts(node: Node) -> bool:
    """True for QUANTIZE and DEQUANTIZE."""
    return operators.lookup(node.op).is_conversion


def plain_form_of(node: Node, graph: Graph) -> str:
    """Returns the type of the numbers that a node computes with or moves, whatever they stand for."""
    op = operators.lookup(node.op)
    position = op.same_scale[0] if op.same_scale else op.activation
    names = [name for name in (*node.inputs[position : position + 1], *node.inputs, *node.outputs) if name]
    return graph.tensors[names[0]].dtype if names else ""
