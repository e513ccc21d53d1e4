"""Dense layers and matrix products. Weights: (out, in). Sources: schema and LiteRT op_version.cc."""

from __future__ import annotations

import numpy as np

from featherweight.graph import Graph, Node
from featherweight.ops.calls import Call
from featherweight.ops.matrix import finisher, float_weight, placed, prepare
from featherweight.ops.registry import kernel, output_elements, register


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


def _shapes(call: Call) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Returns x as (rows, in), the weight (out, in), and the output's shape."""
    x, weight = call.array(0), call.array(1)
    if weight.ndim != 2 or weight.shape[1] == 0 or x.size % weight.shape[1]:
        raise call.unsupported(f"a weight of {list(weight.shape)} for inputs of {list(x.shape)} is not supported")
    if str(call.node.attrs.get("weights_format", 0)) not in ("0", "DEFAULT"):
        raise call.unsupported("shuffled weights are not supported")
    rows = x.reshape(-1, weight.shape[1])
    leading = x.shape[:-1] if call.node.attrs.get("keep_num_dims") else (rows.shape[0],)
    return rows, weight, (*leading, weight.shape[0])


@kernel("FULLY_CONNECTED", "int8", "int16")
def fully_connected(call: Call) -> tuple[np.ndarray, ...]:
    """Dense layer: x (…, in), weight (out, in), bias (out)."""
    rows, weight, shape = _shapes(call)
    call = placed(call)
    operands = prepare(call, weight)
    sums = operands.x.reshape(rows.shape) @ operands.weight.T
    return (finisher(call, operands)(sums).reshape(shape),)


@kernel("FULLY_CONNECTED", "float32")
def fully_connected_float(call: Call) -> tuple[np.ndarray, ...]:
    """Dense layer in float32."""
    rows, _, shape = _shapes(call)
    sums, bias = rows @ float_weight(call).T, call.optional(2)
    return (call.clamp(sums if bias is None else sums + bias).reshape(shape),)
