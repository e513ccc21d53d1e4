"""The graph: tensors, nodes, and what one can ask of them; no file format, and no operator."""

from __future__ import annotations

from featherweight.graph.model import (
    Graph,
    Model,
    ModelLike,
    Node,
    Signature,
    Tensor,
    constant,
    consumers,
    fresh_name,
    io_names,
    present_names,
    producers,
    replace_graph,
)

__all__ = [
    "Graph",
    "Model",
    "ModelLike",
    "Node",
    "Signature",
    "Tensor",
    "constant",
    "consumers",
    "fresh_name",
    "io_names",
    "present_names",
    "producers",
    "replace_graph",
]
