"""Models of a few operators, built by hand, for what needs exact shapes, names and values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant


def node(op: str, inputs: tuple[str, ...], outputs: tuple[str, ...], **attrs: Any) -> Node:
    return Node(op, inputs, outputs, attrs)


def model(
    tensors: list[Tensor], nodes: list[Node], inputs: tuple[str, ...], outputs: tuple[str, ...], signature: bool = False
) -> Model:
    graph = Graph("main", inputs, outputs, tuple(nodes), {tensor.name: tensor for tensor in tensors})
    pairs = tuple((f"in_{name}", name) for name in inputs), tuple((f"out_{name}", name) for name in outputs)
    return Model((graph,), (Signature("serving_default", *pairs),) if signature else ())


def dense(batch: int = 1, *, free: bool = False, signature: bool = False, weight_scale: float = 1.0) -> Model:
    """x (batch, 3) → ReLU(x·Wᵀ) (batch, 4) → reshaped (batch, 2, 2)."""
    weight = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, 2]], np.float32) * weight_scale
    open_ = (lambda *shape: (-1, *shape[1:])) if free else (lambda *shape: None)
    tensors = [
        Tensor("x", (batch, 3), "float32", shape_signature=open_(batch, 3)),
        constant("w", weight),
        Tensor("y", (batch, 4), "float32", shape_signature=open_(batch, 4)),
        constant("shape", np.array([-1, 2, 2], np.int32)),
        Tensor("z", (batch, 2, 2), "float32", shape_signature=open_(batch, 2, 2)),
    ]
    nodes = [
        node("FULLY_CONNECTED", ("x", "w", ""), ("y",), fused_activation_function="RELU"),
        node("RESHAPE", ("y", "shape"), ("z",), new_shape=(-1, 2, 2)),
    ]
    return model(tensors, nodes, ("x",), ("z",), signature)


def two_inputs(*, signature: bool = False) -> Model:
    """Two outputs in an order of their own: s = b − a, then p = a · b; a and b (1, 2)."""
    tensors = [Tensor(name, (1, 2), "float32") for name in ("b", "a", "p", "s")]
    nodes = [
        node("MUL", ("a", "b"), ("p",), fused_activation_function="NONE"),
        node("SUB", ("b", "a"), ("s",), fused_activation_function="NONE"),
    ]
    return model(tensors, nodes, ("a", "b"), ("s", "p"), signature)


def unary(op: str, shape: tuple[int, ...] = (1, 4), **attrs: Any) -> Model:
    """x → op → y, both of one shape."""
    tensors = [Tensor("x", shape, "float32"), Tensor("y", shape, "float32")]
    return model(tensors, [node(op, ("x",), ("y",), **attrs)], ("x",), ("y",))


def chain(*ops: str, shape: tuple[int, ...] = (1, 4)) -> Model:
    """t0 → ops[0] → t1 → ops[1] → t2 …"""
    tensors = [Tensor(f"t{i}", shape, "float32") for i in range(len(ops) + 1)]
    nodes = [node(op, (f"t{i}",), (f"t{i + 1}",)) for i, op in enumerate(ops)]
    return model(tensors, nodes, ("t0",), (f"t{len(ops)}",))


def integers(dtype: str) -> Model:
    """x + x for an integer dtype."""
    tensors = [Tensor("x", (1, 3), dtype), Tensor("y", (1, 3), dtype)]
    nodes = [node("ADD", ("x", "x"), ("y",), fused_activation_function="NONE")]
    return model(tensors, nodes, ("x",), ("y",))


def loop() -> Model:
    """y = x doubled until its only value is at least 100."""
    main = Graph(
        "main",
        ("x",),
        ("y",),
        (node("WHILE", ("x",), ("y",), cond_subgraph_index=1, body_subgraph_index=2),),
        {name: Tensor(name, (1,), "float32") for name in ("x", "y")},
    )
    limit = constant("limit", np.array([100], np.float32))
    condition = Graph(
        "condition",
        ("c",),
        ("more",),
        (node("LESS", ("c", "limit"), ("more",)),),
        {"c": Tensor("c", (1,), "float32"), "limit": limit, "more": Tensor("more", (1,), "bool")},
    )
    body = Graph(
        "body",
        ("i",),
        ("o",),
        (node("ADD", ("i", "i"), ("o",), fused_activation_function="NONE"),),
        {name: Tensor(name, (1,), "float32") for name in ("i", "o")},
    )
    return Model((main, condition, body))


def dynamic() -> Model:
    """Indices of the non-zero values of x (4,): a size that only the values decide."""
    tensors = [
        Tensor("x", (4,), "float32"),
        Tensor("nonzero", (4,), "bool"),
        constant("zero", np.zeros(1, np.float32)),
        Tensor("where", (1, 1), "int64", shape_signature=(-1, 1)),
    ]
    nodes = [
        node("NOT_EQUAL", ("x", "zero"), ("nonzero",)),
        node("WHERE", ("nonzero",), ("where",)),
    ]
    return model(tensors, nodes, ("x",), ("where",))


def renamed(source: Model, name: str) -> Model:
    """The model with another name for its main graph (a different file)."""
    return replace(source, graphs=(replace(source.main, name=name), *source.graphs[1:]))
