"""What a node computes while it is trained: functions of arrays in `keras.ops`, one for each operator.

A function takes a `Step` and returns the node's outputs. It is backend-agnostic and differentiable, treats any batch,
and is made of `keras.ops` alone. Values that are known when the model is traced (constants, static shapes, what is
computed from them) are NumPy arrays and stay so: `Step.xp` is NumPy where all inputs are, so that shape arithmetic
never reaches the compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from featherweight.errors import UnsupportedOp, listed
from featherweight.graph import Model, Node, Tensor
from featherweight.operators.call import FUSED_BOUNDS

ops: Any = keras.ops
"""`keras.ops`: what its functions return is not typed."""

Array = Any
"""A value: a NumPy array where it is static, else a tensor of the Keras backend."""

# Operators that check their activation themselves.
_OWN_ACTIVATION = ("UNIDIRECTIONAL_SEQUENCE_LSTM",)
_DTYPES = ("float32", "int32", "int64", "uint32", "bool")


def _nothing_known(index: int, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    return [None] * max(len(arrays), 1)


@dataclass(frozen=True, eq=False)
class Step:
    """One node with its inputs' values, ready to compute.

    Attributes:
        arrays: the inputs' values; None where an optional input is absent. Float constants are NumPy arrays only if
            all inputs are; integer constants always.
        inputs: the inputs' tensors (types, the shapes at the file's own batch).
        outputs: the outputs' tensors.
        call: runs another graph of the model (its index, its inputs' values) and returns its outputs' values.
        dtype: the float type that the model computes in.
        known: as `call` for what is static: takes None for other inputs, and returns None for other outputs.
    """

    node: Node
    arrays: tuple[Array | None, ...]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    call: Callable[[int, Sequence[Array]], list[Array]]
    dtype: str = "float32"
    known: Callable[[int, Sequence[np.ndarray | None]], list[np.ndarray | None]] = _nothing_known

    @property
    def place(self) -> str:
        """The node, for messages."""
        return f"{self.node.op} '{self.node.name}'"

    @property
    def is_static(self) -> bool:
        """True where all inputs are known when the model is traced."""
        return all(array is None or is_static(array) for array in self.arrays)

    @property
    def xp(self) -> Any:
        """NumPy if all inputs are static, else `keras.ops`: both have the same functions by the same names."""
        return np if self.is_static else ops

    def array(self, position: int) -> Array:
        """Returns the value of an input that must be there."""
        value = self.optional(position)
        if value is None:
            raise self.unsupported(f"input {position} is absent (it must be there)")
        return value

    def optional(self, position: int) -> Array | None:
        """Returns the value of an input, or None where it is absent."""
        return self.arrays[position] if position < len(self.arrays) else None

    def static(self, position: int) -> np.ndarray:
        """Returns the value of an input that must be known when the model is traced (axes, sizes …)."""
        value = self.array(position)
        if not is_static(value):
            raise self.unsupported(f"input {position} is computed from data (it must be a constant)")
        return value

    def integers(self, position: int) -> tuple[int, ...]:
        """Returns a small static integer input, flat."""
        return tuple(int(value) for value in self.static(position).reshape(-1))

    def attr_int(self, name: str, default: int = 0) -> int:
        """Returns an integer attribute."""
        return int(self.node.attrs.get(name, default))

    def clamp(self, x: Array) -> Array:
        """Returns a float value after the node's fused activation."""
        low, high = FUSED_BOUNDS[fused_activation(self.node)]
        return clipped(x, low, high)

    def unsupported(self, reason: str) -> UnsupportedOp:
        """Returns the error that says what of this node can't be trained."""
        return UnsupportedOp(f"{self.place}: {reason} in a graph model.")


Function = Callable[[Step], tuple[Array, ...]]
_FUNCTIONS: dict[str, Function] = {}


def function(*names: str) -> Callable[[Function], Function]:
    """Registers the float function of operators.

    Raises:
        ValueError: if an operator has one.
    """

    def attach(computes: Function) -> Function:
        for name in names:
            if name in _FUNCTIONS:
                raise ValueError(f"operator {name} has two functions")
            _FUNCTIONS[name] = computes
        return computes

    return attach


def float_function(op: str) -> Function | None:
    """Returns the float function of an operator, or None where it has none."""
    return _FUNCTIONS.get(op)


def bound(model: Model) -> dict[str, Function]:
    """Returns node name → float function, for the nodes of all graphs.

    Raises:
        UnsupportedOp: naming every node that has none, and why.
    """
    found: dict[str, Function] = {}
    wrong: list[str] = []
    for graph in model.graphs:
        for node in graph.nodes:
            computes = _FUNCTIONS.get(node.op)
            reason = _obstacle(node, [graph.tensors[name] for name in (*node.inputs, *node.outputs) if name])
            if computes is None:
                reason = "the operator has no differentiable function"
            if reason is None and computes is not None:
                found[node.name] = computes
            else:
                wrong.append(f"{node.op} '{node.name}' ({reason})")
    if wrong:
        raise UnsupportedOp(
            f"{len(wrong)} node(s) of the model can't be trained: {listed(wrong, limit=1000)}. A graph model takes "
            f"float graphs of these operators: {', '.join(sorted(_FUNCTIONS))}."
        )
    return found


def fused_activation(node: Node) -> str:
    """Returns the name of the node's fused activation, ``NONE`` where it has none."""
    return str(node.attrs.get("fused_activation_function", "NONE"))


def is_static(value: Array) -> bool:
    """True for a value that is known when the model is traced."""
    return isinstance(value, (np.ndarray, np.generic))


def clipped(x: Array, low: float | None, high: float | None) -> Array:
    """Returns x in [low, high]; the gradient is 0 where a bound is active."""
    if low is None and high is None:
        return x
    if is_static(x):
        return np.clip(x, low, high)
    if (low, high) == (0.0, None):
        return ops.relu(x)
    return ops.relu6(x) if (low, high) == (0.0, 6.0) else ops.clip(x, low, high)


def _obstacle(node: Node, tensors: Sequence[Tensor]) -> str | None:
    """Returns why a node is no float node, or None."""
    for tensor in tensors:
        if tensor.dtype not in _DTYPES:
            return f"tensor '{tensor.name}' is {tensor.dtype}"
    if node.op not in _OWN_ACTIVATION and fused_activation(node) not in FUSED_BOUNDS:
        return f"its fused activation {fused_activation(node)} is not one of {', '.join(FUSED_BOUNDS)}"
    if str(node.attrs.get("weights_format", 0)) not in ("0", "DEFAULT"):
        return "its weights are shuffled"
    return None
