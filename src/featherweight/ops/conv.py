"""Convolutions. Weights: (out, kh, kw, in); depthwise (1, kh, kw, out). Sources: schema and LiteRT op_version.cc."""

from __future__ import annotations

import math

from featherweight.graph import Graph, Node
from featherweight.ops.registry import output_elements, register


def _conv_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * math.prod(graph.tensors[node.inputs[1]].shape[1:])


def _depthwise_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * math.prod(graph.tensors[node.inputs[1]].shape[1:3])


def _transpose_conv_macs(node: Node, graph: Graph) -> int:
    pixels = math.prod(graph.tensors[node.inputs[2]].shape[:3])
    return pixels * math.prod(graph.tensors[node.inputs[1]].shape)


def _conv_3d_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * math.prod(graph.tensors[node.inputs[1]].shape[:4])


register(
    "CONV_2D",
    weight=1,
    axis=0,
    bias=2,
    versions={"float32*int8": 5, "int8*int8": 3, "int16*int8": 4, "int8*int4": 7},
    macs=_conv_macs,
)
register(
    "DEPTHWISE_CONV_2D",
    weight=1,
    axis=3,
    bias=2,
    versions={"float32*int8": 6, "int8*int8": 3, "int16*int8": 5, "int8*int4": 7},
    macs=_depthwise_macs,
)
register(
    "TRANSPOSE_CONV",
    weight=1,
    axis=0,
    bias=3,
    activation=2,
    versions={"float32*int8": 2, "int8*int8": 2, "int16*int8": 2},
    macs=_transpose_conv_macs,
)
register("CONV_3D", weight=1, axis=4, bias=2, macs=_conv_3d_macs)
