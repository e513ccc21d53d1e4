"""One small float model per operator: what each registered form must run on a runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from featherweight.graph import Model, Tensor
from tests.building import CONV, POOL, Shape, ints, model_of, weights

X = (1, 6, 6, 8)
FACTORIES: dict[str, Callable[[], Model]] = {}


def _add(op: str, inputs: dict[str, Shape | np.ndarray], outputs: dict[str, Shape], /, **more: Any) -> None:
    FACTORIES[op] = partial(model_of, op, inputs, outputs, **more)


# ------------------------------------------------------------------------------------------------ weights

_add("CONV_2D", {"x": X, "w": weights(4, 3, 3, 8), "b": weights(4)}, {"y": (1, 6, 6, 4)}, **CONV)
_add("DEPTHWISE_CONV_2D", {"x": X, "w": weights(1, 3, 3, 8), "b": weights(8)}, {"y": X}, depth_multiplier=1, **CONV)
_add(
    "TRANSPOSE_CONV",
    {"size": ints(1, 12, 12, 4), "w": weights(4, 3, 3, 8), "x": X, "b": weights(4)},
    {"y": (1, 12, 12, 4)},
    stride_h=2,
    stride_w=2,
    padding="SAME",
)
_add("FULLY_CONNECTED", {"x": (1, 64), "w": weights(8, 64), "b": weights(8)}, {"y": (1, 8)})
_add("BATCH_MATMUL", {"x": (2, 5, 8), "z": (2, 8, 3)}, {"y": (2, 5, 3)})
_add("EMBEDDING_LOOKUP", {"x": (4,), "w": weights(10, 32)}, {"y": (4, 32)}, dtypes={"x": "int32"})


def lstm(steps: int = 6, features: int = 8, units: int = 8) -> Model:
    """Returns a fused LSTM whose states nothing resets, as an imported file has them."""
    inputs: dict[str, Shape | np.ndarray] = {"x": (1, steps, features)}
    shapes = {"kernel": (units, features), "recurrent": (units, units), "bias": (units,)}
    for part, shape in shapes.items():
        inputs |= {f"{part}_{gate}": weights(*shape, seed=shape, spread=0.4) for gate in "ifco"}
    model = model_of("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, {"y": (1, steps, units)}, fused_activation_function="TANH")
    (node,), (*names,) = model.main.nodes, inputs
    wired = (*names[:9], *[""] * 3, *names[9:], *[""] * 2, "hidden", "cell", *[""] * 4)
    states = {name: Tensor(name, (1, units), "float32", is_variable=True) for name in ("hidden", "cell")}
    graph = replace(model.main, nodes=(replace(node, inputs=wired),), tensors={**model.main.tensors, **states})
    return replace(model, graphs=(graph,))


FACTORIES["UNIDIRECTIONAL_SEQUENCE_LSTM"] = lstm

# ------------------------------------------------------------------------------------------------ functions

for _op in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "POW"):
    _add(_op, {"x": X, "z": X}, {"y": X})
for _op in (
    *("ABS", "NEG", "EXP", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "ELU", "TANH", "LOGISTIC"),
    *("HARD_SWISH", "GELU", "L2_NORMALIZATION", "LOG_SOFTMAX", "RSQRT", "SQRT", "LOG"),
    *("SIN", "COS", "SQUARE", "FLOOR", "CEIL", "ROUND"),
):
    _add(_op, {"x": X}, {"y": X})
POSITIVE = {"RSQRT", "SQRT", "LOG", "POW"}
_add("SOFTMAX", {"x": (1, 10)}, {"y": (1, 10)}, beta=1.0)
_add("LEAKY_RELU", {"x": X}, {"y": X}, alpha=0.2)
_add("PRELU", {"x": X, "alpha": weights(1, 1, 8)}, {"y": X})
_add("CAST", {"x": X}, {"y": X}, dtypes={"y": "int32"}, in_data_type=0, out_data_type=2)
COMPARISONS = ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
for _op in COMPARISONS:
    _add(_op, {"x": X, "z": X}, {"y": X}, dtypes={"y": "bool"})
_add("LOGICAL_NOT", {"x": X}, {"y": X}, dtypes={"x": "bool", "y": "bool"})
for _op in ("SELECT", "SELECT_V2"):
    _add(_op, {"c": X, "x": X, "z": X}, {"y": X}, dtypes={"c": "bool"})

# ------------------------------------------------------------------------------------------------ windows, reductions

for _op in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
    _add(_op, {"x": X}, {"y": (1, 3, 3, 8)}, **POOL)
for _op in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
    _add(_op, {"x": X, "axes": ints(1, 2)}, {"y": (1, 8)}, keep_dims=False)
for _op in ("ARG_MAX", "ARG_MIN"):
    _add(_op, {"x": X, "axis": ints(3)}, {"y": (1, 6, 6)}, dtypes={"y": "int32"}, output_type=2)
_add("TOPK_V2", {"x": (1, 10), "k": ints(3).reshape(())}, {"y": (1, 3), "i": (1, 3)}, dtypes={"i": "int32"})
for _op in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
    _add(_op, {"x": X, "s": ints(12, 12)}, {"y": (1, 12, 12, 8)}, half_pixel_centers=True)

# ------------------------------------------------------------------------------------------------ movement

_PADS = ints(0, 0, 1, 1, 1, 1, 0, 0).reshape(4, 2)
_HALVES = {"y": (1, 6, 6, 4), "y2": (1, 6, 6, 4)}
_add("RESHAPE", {"x": X, "s": ints(1, 36, 8)}, {"y": (1, 36, 8)})
_add("SQUEEZE", {"x": X}, {"y": X[1:]}, squeeze_dims=(0,))
_add("EXPAND_DIMS", {"x": X, "a": ints(1)}, {"y": (1, 1, *X[1:])})
_add("TRANSPOSE", {"x": X, "p": ints(0, 3, 1, 2)}, {"y": (1, 8, 6, 6)})
_add("TILE", {"x": X, "m": ints(1, 2, 1, 1)}, {"y": (1, 12, 6, 8)})
_add("BROADCAST_TO", {"x": X, "s": ints(3, 6, 6, 8)}, {"y": (3, 6, 6, 8)}, version=2)
_add("SPACE_TO_DEPTH", {"x": X}, {"y": (1, 3, 3, 32)}, block_size=2)
_add("DEPTH_TO_SPACE", {"x": X}, {"y": (1, 12, 12, 2)}, block_size=2)
_add("REVERSE_V2", {"x": X, "a": ints(1)}, {"y": X})
_add("MIRROR_PAD", {"x": X, "p": _PADS}, {"y": (1, 8, 8, 8)}, mode=0)
_add("PAD", {"x": X, "p": _PADS}, {"y": (1, 8, 8, 8)})
_add("PADV2", {"x": X, "p": _PADS, "v": np.array([0.5], np.float32)}, {"y": (1, 8, 8, 8)})
_add("SLICE", {"x": X, "b": ints(0, 1, 1, 0), "s": ints(1, 3, 3, 8)}, {"y": (1, 3, 3, 8)})
_add(
    "STRIDED_SLICE",
    {"x": X, "b": ints(0, 0, 0, 0), "e": ints(1, 6, 6, 8), "s": ints(1, 2, 2, 1)},
    {"y": (1, 3, 3, 8)},
)
_add("GATHER", {"x": X, "i": ints(2, 0, 1)}, {"y": (1, 3, 6, 8)}, axis=1)
_add("GATHER_ND", {"x": X, "i": ints(0, 1, 0, 2).reshape(2, 2)}, {"y": (2, 6, 8)})
_add("SPACE_TO_BATCH_ND", {"x": X, "b": ints(2, 2), "p": np.zeros((2, 2), np.int32)}, {"y": (4, 3, 3, 8)})
_add("BATCH_TO_SPACE_ND", {"x": (4, 3, 3, 8), "b": ints(2, 2), "p": np.zeros((2, 2), np.int32)}, {"y": X})
_add("SPLIT", {"a": ints(3).reshape(()), "x": X}, _HALVES, num_splits=2)
_add("SPLIT_V", {"x": X, "s": ints(4, 4), "a": ints(3).reshape(())}, _HALVES, num_splits=2)
_add("PACK", {"x": (1, 8), "z": (1, 8)}, {"y": (2, 1, 8)}, values_count=2, axis=0)
_add("UNPACK", {"x": (2, 8)}, {"y": (8,), "y2": (8,)}, num=2, axis=0)
_add("CONCATENATION", {"x": X, "z": X}, {"y": (1, 6, 6, 16)}, axis=3)
_add("DYNAMIC_UPDATE_SLICE", {"x": (1, 8, 4), "u": (1, 2, 4), "s": ints(0, 3, 0)}, {"y": (1, 8, 4)})


def feeds(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random inputs for a model of `FACTORIES`."""
    random = np.random.default_rng(seed)
    op = model.main.nodes[0].op
    found: dict[str, np.ndarray] = {}
    for name in model.main.inputs:
        tensor = model.main.tensors[name]
        if tensor.dtype == "bool":
            found[name] = random.random(tensor.shape) < 0.5
        elif tensor.dtype == "int32":
            found[name] = random.integers(0, 8, tensor.shape, np.int32)
        elif op in POSITIVE:
            found[name] = random.uniform(0.5, 4, tensor.shape).astype(np.float32)
        else:
            found[name] = random.normal(0, 1.5, tensor.shape).astype(np.float32)
    if op in COMPARISONS:
        found["z"] = np.where(random.random(X) < 0.5, found["x"], found["z"])
    return found
