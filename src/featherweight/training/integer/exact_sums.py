"""Where float32 sums of products might not be exact, and into how many parts they are cut there."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from featherweight.graph import Graph, Model, Node
from featherweight.graph.numerics import integer_range
from featherweight.operators import lookup

# float32 holds all integers up to this.
LIMIT = float(1 << 24)
# Sums may grow during training by this factor; `finalize` checks what became of them.
_ROOM = 1.5
_MOST = 64
_CUT_BY_CHANNELS = ("conv", "dense", "transposed")


def chunks_of(model: Model, *, zero_points_move: bool = False) -> dict[str, int]:
    """Returns node → parts that its input channels must be cut into, where there is more than one."""
    # A zero point at the end of the grid doubles the largest magnitude of what was centred.
    room = _ROOM * (2 if zero_points_move else 1)
    return {node.name: chunks for node in model.main.nodes if (chunks := _chunks(node, model.main, room)) > 1}


def _chunks(node: Node, graph: Graph, room: float) -> int:
    """Returns the smallest number of parts whose sums are exact, with room to grow."""
    return next((n for n in range(1, _MOST) if largest_sum(node, graph, n) * room < LIMIT), _MOST)


def is_cut(op: str, channels: int, weight_channels: int) -> bool:
    """True where every sum runs over all input channels (no groups), and can be cut into parts of them."""
    return lookup(op).weight_kind in _CUT_BY_CHANNELS and channels == weight_channels


def doubtful_sums(model: Model, chunks: Mapping[str, int]) -> list[str]:
    """Returns the nodes whose sums, in so many parts, float32 may not hold exactly with the weights of the moment."""
    graph = model.main
    return [node.name for node in graph.nodes if largest_sum(node, graph, chunks.get(node.name, 1)) >= LIMIT]


def largest_sum(node: Node, graph: Graph, chunks: int = 1) -> float:
    """Returns the largest magnitude that a sum of products of a node can have, or 0 where it has no integer weight.

    ``sum(|weight|) * max(|x|) + |bias|`` of the worst channel, over the worst part of the input channels.
    """
    op = lookup(node.op)
    if op.weight is None or op.weight >= len(node.inputs):
        return 0.0
    x, weight = graph.tensors[node.inputs[op.activation]], graph.tensors[node.inputs[op.weight]]
    values = weight.array
    if values is None or weight.quant is None or x.dtype != "int8":  # int16 is summed in 64 bits
        return 0.0
    magnitudes = np.abs(values.astype(np.float64))
    axis = (op.axis or 0) % values.ndim
    channels = np.moveaxis(magnitudes, axis, 0)
    if is_cut(node.op, x.shape[-1], values.shape[-1]):
        size = channels.shape[-1]
        edges = [size * index // chunks for index in range(chunks + 1)]
        sums = [channels[..., a:b].reshape(len(channels), -1).sum(axis=1) for a, b in pairwise(edges)]
        worst = np.max(sums, axis=0)
    else:
        worst = channels.reshape(len(channels), -1).sum(axis=1)
    qmin, qmax = integer_range(x.dtype)
    zero_point = x.quant.zero_point[0] if x.quant and x.quant.zero_point else 0
    worst = worst * max(abs(qmin - zero_point), abs(qmax - zero_point))
    has_bias = op.bias is not None and op.bias < len(node.inputs) and bool(node.inputs[op.bias])
    bias = graph.tensors[node.inputs[op.bias or 0]].array if has_bias else None
    if chunks == 1 and bias is not None:
        worst = worst + np.abs(bias.astype(np.float64))
    return float(worst.max(initial=0.0))
