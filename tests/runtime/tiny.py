"""Models of a few operators, built by hand, for what needs exact shapes, names and values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tests.building import Shape, ints, layer, model_of, net, of_graphs

from featherweight.graph import Model, Signature, Tensor


def dense(batch: int = 1, *, free: bool = False, signature: bool = False, weight_scale: float = 1.0) -> Model:
    """x (batch, 3) → ReLU(x·Wᵀ) (batch, 4) → reshaped (batch, 2, 2)."""
    weight = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, 2]], np.float32) * weight_scale

    def value(name: str, *shape: int) -> Tensor:
        return Tensor(name, (batch, *shape), "float32", shape_signature=(-1, *shape) if free else None)

    layers = [
        layer("FULLY_CONNECTED", ("x", "w", ""), {"y": value("y", 4)}, fused_activation_function="RELU"),
        layer("RESHAPE", ("y", "shape"), {"z": value("z", 2, 2)}, new_shape=(-1, 2, 2)),
    ]
    made = net({"x": value("x", 3)}, {"w": weight, "shape": ints(-1, 2, 2)}, layers, ("z",))
    return with_signature(made) if signature else made


def two_inputs(*, signature: bool = False) -> Model:
    """Two outputs in an order of their own: s = b − a, then p = a · b; a and b (1, 2)."""
    layers = [
        layer("MUL", ("a", "b"), {"p": (1, 2)}, fused_activation_function="NONE"),
        layer("SUB", ("b", "a"), {"s": (1, 2)}, fused_activation_function="NONE"),
    ]
    made = net({"b": (1, 2), "a": (1, 2)}, {}, layers, ("s", "p"))
    made = replace(made, graphs=(replace(made.main, inputs=("a", "b")),))
    return with_signature(made) if signature else made


def with_signature(made: Model) -> Model:
    """Returns the model with a signature that calls input x in_x, output y out_y."""
    inputs = tuple((f"in_{name}", name) for name in made.main.inputs)
    outputs = tuple((f"out_{name}", name) for name in made.main.outputs)
    return replace(made, signatures=(Signature("serving_default", inputs, outputs),))


def unary(op: str, shape: Shape = (1, 4), **attrs: Any) -> Model:
    """x → op → y, both of one shape."""
    return model_of(op, {"x": shape}, {"y": shape}, **attrs)


def chain(*ops: str, shape: Shape = (1, 4)) -> Model:
    """t0 → ops[0] → t1 → ops[1] → t2 …"""
    layers = [layer(op, (f"t{i}",), {f"t{i + 1}": shape}) for i, op in enumerate(ops)]
    return net({"t0": shape}, {}, layers, (f"t{len(ops)}",))


def integers(dtype: str) -> Model:
    """x + x for an integer dtype."""
    x, y = (Tensor(name, (1, 3), dtype) for name in "xy")
    return net({"x": x}, {}, [layer("ADD", ("x", "x"), {"y": y}, fused_activation_function="NONE")], ("y",))


def loop() -> Model:
    """y = x doubled until its only value is at least 100."""
    more = Tensor("more", (1,), "bool")
    main = net(
        {"x": (1,)}, {}, [layer("WHILE", ("x",), {"y": (1,)}, cond_subgraph_index=1, body_subgraph_index=2)], "y"
    )
    limit = {"limit": np.array([100], np.float32)}
    condition = net({"c": (1,)}, limit, [layer("LESS", ("c", "limit"), {"more": more})], ("more",))
    body = net({"i": (1,)}, {}, [layer("ADD", ("i", "i"), {"o": (1,)}, fused_activation_function="NONE")], ("o",))
    return of_graphs(main=main, condition=condition, body=body)


def dynamic() -> Model:
    """Indices of the non-zero values of x (4,): a size that only the values decide."""
    nonzero, where = Tensor("nonzero", (4,), "bool"), Tensor("where", (1, 1), "int64", shape_signature=(-1, 1))
    layers = [
        layer("NOT_EQUAL", ("x", "zero"), {"nonzero": nonzero}),
        layer("WHERE", ("nonzero",), {"where": where}),
    ]
    return net({"x": (4,)}, {"zero": np.zeros(1, np.float32)}, layers, ("where",))


def renamed(source: Model, name: str) -> Model:
    """The model with another name for its main graph (a different file)."""
    return replace(source, graphs=(replace(source.main, name=name), *source.graphs[1:]))
