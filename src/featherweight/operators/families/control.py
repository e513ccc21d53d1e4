"""Operators that call other graphs of the model. Sources: LiteRT while.cc and if.cc."""

from __future__ import annotations

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.record import Op, kernel, register

register(Op("WHILE", "WhileOptions", axes="kept", calls=("cond_subgraph_index", "body_subgraph_index")))
register(Op("IF", "IfOptions", axes="kept", calls=("then_subgraph_index", "else_subgraph_index")))
register(Op("CALL", "CallOptions", calls=("subgraph",)))
register(Op("STABLEHLO_COMPOSITE", "StableHLOCompositeOptions", calls=("decomposition_subgraph_index",)))
register(Op("STABLEHLO_REDUCE_WINDOW", "StablehloReduceWindowOptions", calls=("body_subgraph_index",)))


@kernel("WHILE", "*")
def while_loop(call: Call) -> tuple[np.ndarray, ...]:
    """Runs the body on its own outputs, beginning with the inputs, while the condition gives true."""
    values = [call.array(position) for position in range(len(call.arrays))]
    while _truth(call, call.run_graph(call.attr_int("cond_subgraph_index"), values)[0]):
        values = call.run_graph(call.attr_int("body_subgraph_index"), values)
    return tuple(values)


@kernel("IF", "*")
def branch(call: Call) -> tuple[np.ndarray, ...]:
    """Runs one of two graphs on all inputs but the first, the condition."""
    name = "then_subgraph_index" if _truth(call, call.array(0)) else "else_subgraph_index"
    values = [call.array(position) for position in range(1, len(call.arrays))]
    return tuple(call.run_graph(call.attr_int(name), values))


def _truth(call: Call, condition: np.ndarray) -> bool:
    if condition.dtype != np.bool_ or condition.size != 1:
        raise call.unsupported(
            f"a condition of type {condition.dtype} and shape {list(condition.shape)} is not supported (supported: one "
            "boolean)"
        )
    return bool(condition.reshape(-1)[0])
