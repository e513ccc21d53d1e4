"""How graphs are put together by hand: tensors from shapes or arrays, layers, and models of one layer or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from featherweight.graph import Graph, Model, Node, Tensor, constant

Shape = tuple[int, ...]
Layer = tuple[Node, dict[str, Tensor]]
CONV = {"stride_h": 1, "stride_w": 1, "padding": "SAME", "dilation_h_factor": 1, "dilation_w_factor": 1}
POOL = {"filter_height": 2, "filter_width": 2, "stride_h": 2, "stride_w": 2, "padding": "VALID"}


def weights(*shape: int, seed: int | Shape = 0, spread: float = 0.3) -> np.ndarray:
    """Returns float32 weights."""
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    """Returns an int32 vector."""
    return np.asarray(values, np.int32)


def tensor(name: str, given: Shape | np.ndarray | Tensor, dtype: str = "float32") -> Tensor:
    """Returns a tensor of a shape, a constant of an array, or what is a tensor already."""
    if isinstance(given, Tensor):
        return given
    return Tensor(name, given, dtype) if isinstance(given, tuple) else constant(name, np.asarray(given))


def layer(
    op: str, inputs: Sequence[str], outputs: Mapping[str, Shape | Tensor], /, *, version: int = 1, **attrs: Any
) -> Layer:
    """Returns a node with the tensors that it computes: float32 where a shape alone is given."""
    return Node(op, tuple(inputs), tuple(outputs), attrs, version), {
        n: tensor(n, given) for n, given in outputs.items()
    }


def net(
    inputs: Mapping[str, Shape | Tensor],
    constants: Mapping[str, np.ndarray | Tensor],
    layers: Sequence[Layer],
    outputs: Sequence[str],
) -> Model:
    """Returns a model of layers whose inputs are float32 where a shape alone is given."""
    tensors = {name: tensor(name, given) for name, given in {**inputs, **constants}.items()}
    for _, computed in layers:
        tensors |= computed
    return Model((Graph("main", tuple(inputs), tuple(outputs), tuple(node for node, _ in layers), tensors),))


def model_of(
    op: str,
    inputs: Mapping[str, Shape | np.ndarray],
    outputs: Mapping[str, Shape],
    /,
    dtypes: Mapping[str, str] | None = None,
    *,
    version: int = 1,
    **attrs: Any,
) -> Model:
    """Returns a model of one operator: shapes are fed, arrays are constants; float32 but for the `dtypes` of names."""
    dtypes = dtypes or {}
    taken = {name: tensor(name, given, dtypes.get(name, "float32")) for name, given in inputs.items()}
    given = {name: Tensor(name, shape, dtypes.get(name, "float32")) for name, shape in outputs.items()}
    fed = {name: found for name, found in taken.items() if not found.is_constant}
    constants = {name: found for name, found in taken.items() if found.is_constant}
    return net(fed, constants, [layer(op, tuple(inputs), given, version=version, **attrs)], tuple(outputs))


def of_graphs(**models: Model) -> Model:
    """Returns a model of the graphs of models, called as they are given; the first is the main graph."""
    return Model(tuple(replace(model.main, name=name) for name, model in models.items()))


# ------------------------------------------------------------------------------------------------ layers


def conv(x: str, w: str, b: str, y: str, shape: Shape) -> Layer:
    """Returns a convolution with SAME padding; an empty `b` is no bias."""
    return layer("CONV_2D", (x, w, b) if b else (x, w), {y: shape}, **CONV)


def dense(x: str, w: str, b: str, y: str, shape: Shape, activation: str = "NONE") -> Layer:
    """Returns a dense layer."""
    return layer("FULLY_CONNECTED", (x, w, b), {y: shape}, fused_activation_function=activation)


def unary(op: str, x: str, y: str, shape: Shape) -> Layer:
    """Returns an operator without options."""
    return layer(op, (x,), {y: shape})


def softmax(x: str, y: str, shape: Shape) -> Layer:
    """Returns a SOFTMAX."""
    return layer("SOFTMAX", (x,), {y: shape}, beta=1.0)


def add(x: str, z: str, y: str, shape: Shape) -> Layer:
    """Returns an ADD."""
    return layer("ADD", (x, z), {y: shape})


def reshape(x: str, s: str, y: str, shape: Shape) -> Layer:
    """Returns a RESHAPE."""
    return layer("RESHAPE", (x, s), {y: shape})


def concat(*inputs: str, y: str = "y", shape: Shape = (1, 4, 4, 16)) -> Layer:
    """Returns a concatenation of channels."""
    return layer("CONCATENATION", inputs, {y: shape}, axis=3)
