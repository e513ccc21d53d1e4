"""Dense layers and matrix products. Weights: (out, in). Sources: schema and LiteRT op_version.cc."""

from __future__ import annotations

from featherweight.graph import Graph, Node
from featherweight.ops.registry import output_elements, register


def _dense_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * graph.tensors[node.inputs[1]].shape[-1]


def _matmul_macs(node: Node, graph: Graph) -> int:
    left = graph.tensors[node.inputs[0]].shape
    return output_elements(node, graph) * left[-2 if node.attrs.get("adj_x") else -1]


register(
    "FULLY_CONNECTED",
    weight=1,
    axis=0,
    bias=2,
    versions={
        "float32*int8": 12,
        "float32*int4": 12,
        "int8*int8": 4,
        "int16*int8": 7,
        "int8*int4": 10,
    },
    macs=_dense_macs,
)
register("BATCH_MATMUL", versions={"int8": 2, "int16": 3}, macs=_matmul_macs)
register(
    "EMBEDDING_LOOKUP",
    weight=1,
    axis=0,
    activation=1,
    versions={"float32*int8": 4, "float32*int4": 4},
)
