"""Small float models built by hand: no framework needed."""

from __future__ import annotations

import numpy as np

from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant

FEATURES, HIDDEN, CLASSES = 8, 16, 6


def _dense(name: str, read: str, written: str, units: tuple[int, int], seed: int, activation: str) -> tuple:
    random = np.random.default_rng(seed)
    weight = constant(f"{name}/kernel", random.normal(0, 0.5, units).astype(np.float32))
    bias = constant(f"{name}/bias", random.normal(0, 0.1, units[0]).astype(np.float32))
    attrs = {"fused_activation_function": activation}
    node = Node(
        "FULLY_CONNECTED",
        (read, weight.name, bias.name),
        (written,),
        attrs,
    )
    return node, [weight, bias]


def _value(name: str, *shape: int) -> Tensor:
    return Tensor(name, (1, *shape), "float32", shape_signature=(-1, *shape))


def classifier(hidden_activation: str = "RELU") -> Model:
    """Two dense layers, 8 features to 6 classes, free batch, public names `features` and `scores`."""
    first, first_constants = _dense("one", "x", "hidden", (HIDDEN, FEATURES), 1, hidden_activation)
    second, second_constants = _dense("two", "hidden", "logits", (CLASSES, HIDDEN), 2, "NONE")
    values = [_value("x", FEATURES), _value("hidden", HIDDEN), _value("logits", CLASSES)]
    tensors = {t.name: t for t in (*values, *first_constants, *second_constants)}
    graph = Graph("main", ("x",), ("logits",), (first, second), tensors)
    return Model((graph,), (Signature("serving_default", (("features", "x"),), (("scores", "logits"),)),))


def two_headed() -> Model:
    """Two inputs `left` and `right`, summed; two outputs `small` (n, 2) and `large` (n, 6)."""
    left, right, total = _value("left", FEATURES), _value("right", FEATURES), _value("total", FEATURES)
    add = Node(
        "ADD",
        ("left", "right"),
        ("total",),
        {"fused_activation_function": "NONE"},
    )
    one, one_constants = _dense("one", "total", "small", (2, FEATURES), 3, "NONE")
    two, two_constants = _dense("two", "total", "large", (CLASSES, FEATURES), 4, "NONE")
    values = [left, right, total, _value("small", 2), _value("large", CLASSES)]
    tensors = {t.name: t for t in (*values, *one_constants, *two_constants)}
    return Model((Graph("main", ("left", "right"), ("small", "large"), (add, one, two), tensors),))


def features(count: int = 64, seed: int = 0) -> np.ndarray:
    """Inputs of `classifier`, float32 (count, 8)."""
    return np.random.default_rng(seed).normal(0, 1, (count, FEATURES)).astype(np.float32)
