"""Operators that call other graphs of the model."""

from __future__ import annotations

from featherweight.ops.registry import register

register("WHILE", calls=("cond_subgraph_index", "body_subgraph_index"))
register("IF", calls=("then_subgraph_index", "else_subgraph_index"))
register("CALL_ONCE", calls=("init_subgraph_index",))
register("CALL", calls=("subgraph",))
register("STABLEHLO_COMPOSITE", calls=("decomposition_subgraph_index",))
register("STABLEHLO_REDUCE_WINDOW", calls=("body_subgraph_index",))
register("UNIDIRECTIONAL_SEQUENCE_LSTM")
