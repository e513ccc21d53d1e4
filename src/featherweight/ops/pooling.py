"""Pooling and reductions. Source: the 8-bit quantization specification; LiteRT op_version.cc."""

from __future__ import annotations

from featherweight.graph import Graph, Node
from featherweight.ops.registry import output_elements, register


def _pool_macs(node: Node, graph: Graph) -> int:
    return output_elements(node, graph) * int(node.attrs["filter_height"]) * int(node.attrs["filter_width"])


for _name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
    register(_name, same_scale=(0,), versions={"int8": 2, "int16": 3}, macs=_pool_macs)
for _name in ("REDUCE_MAX", "REDUCE_MIN"):
    register(_name, same_scale=(0,), versions={"int8": 2, "int16": 3})
register("MEAN", versions={"int8": 2, "int16": 3})
register("SUM", versions={"int8": 2, "int16": 2})
for _name in ("ARG_MAX", "ARG_MIN"):
    register(_name, versions={"int8": 2})
