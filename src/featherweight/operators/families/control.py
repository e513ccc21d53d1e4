"""Operators that call other graphs of the model. Sources: LiteRT while.cc and if.cc."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.graph import Tensor
from featherweight.operators.call import Call
from featherweight.operators.record import Op, kernel, register

# (index of a graph, its inputs) -> its outputs
RunGraph = Callable[[int, Sequence[np.ndarray]], tuple[np.ndarray, ...]]

register(Op("WHILE", "WhileOptions", axes="kept", calls=("cond_subgraph_index", "body_subgraph_index")))
register(Op("IF", "IfOptions", axes="kept", calls=("then_subgraph_index", "else_subgraph_index")))
register(Op("CALL_ONCE", "CallOnceOptions", calls=("init_subgraph_index",)))
register(Op("CALL", "CallOptions", calls=("subgraph",)))
register(Op("STABLEHLO_COMPOSITE", "StableHLOCompositeOptions", calls=("decomposition_subgraph_index",)))
register(Op("STABLEHLO_REDUCE_WINDOW", "StablehloReduceWindowOptions", calls=("body_subgraph_index",)))


@dataclass(frozen=True, eq=False)
class GraphCall(Call):
    """A node with what it needs of its model beside its inputs and outputs.

    Attributes:
        intermediates: tensors that only say in which parameters the kernel holds what it computes on the way.
        run_graph: runs another graph of the model.
        tensors: the graph's tensors by name (the scales of weights in blocks are one).
    """

    intermediates: tuple[Tensor, ...]
    run_graph: RunGraph
    tensors: Mapping[str, Tensor]


def in_model(call: Call) -> GraphCall:
    """Returns the call as one that knows its model.

    Raises:
        UnsupportedOp: if it was made without one.
    """
    if not isinstance(call, GraphCall):
        raise call.unsupported("a node without its model is not supported")
    return call


@kernel("WHILE", "*")
def while_loop(call: Call) -> tuple[np.ndarray, ...]:
    """Runs the body on its own outputs, beginning with the inputs, while the condition gives true."""
    graphs = in_model(call)
    values = tuple(call.array(position) for position in range(len(call.arrays)))
    while _truth(call, graphs.run_graph(call.attr_int("cond_subgraph_index"), values)[0]):
        values = graphs.run_graph(call.attr_int("body_subgraph_index"), values)
    return values


@kernel("IF", "*")
def branch(call: Call) -> tuple[np.ndarray, ...]:
    """Runs one of two graphs on all inputs but the first, the condition."""
    name = "then_subgraph_index" if _truth(call, call.array(0)) else "else_subgraph_index"
    values = [call.array(position) for position in range(1, len(call.arrays))]
    return in_model(call).run_graph(call.attr_int(name), values)


def _truth(call: Call, condition: np.ndarray) -> bool:
    if condition.dtype != np.bool_ or condition.size != 1:
        raise call.unsupported(
            f"a condition of type {condition.dtype} and shape {list(condition.shape)} is not supported (supported: one "
            "boolean)"
        )
    return bool(condition.reshape(-1)[0])
