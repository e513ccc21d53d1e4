"""What LiteRT computes wrong in interpreters whose inputs are resized."""

from __future__ import annotations

from collections.abc import Mapping

from featherweight.graph import Graph, Model, Node, producers
from featherweight.operators import lookup


def keeps_its_sizes(model: Model) -> bool:
    """True for a model that LiteRT 2.3 computes wrong after its inputs were resized once they had been allocated.

    Behind XNNPACK's float BATCH_MATMUL whose second operand DEQUANTIZE writes, outputs of a larger batch are noise,
    each time another one. Of an interpreter that is resized before its first allocation they are right.
    """
    return any(
        reads_integers_second(node, made, graph)
        for graph in model.graphs
        for made in [producers(graph)]
        for node in graph.nodes
    )


def reads_integers_second(node: Node, made: Mapping[str, Node], graph: Graph) -> bool:
    """True for a product of activations in float whose second operand is converted from integers."""
    if lookup(node.op).axes != "product" or (writer := made.get(node.inputs[1])) is None:
        return False
    read = graph.tensors[writer.inputs[0]]
    return lookup(writer.op).is_conversion and not read.is_constant and not read.is_float
