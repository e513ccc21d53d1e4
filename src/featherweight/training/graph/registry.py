"""What a node computes while it is trained: its definition over any array namespace, or a function of its own here.

A function takes a `Step` and returns the node's outputs. It is backend-agnostic and differentiable, and treats any
batch. Values that are known when the model is traced (constants, static shapes, what is computed from them) are NumPy
arrays and stay so: `Step.xp` is NumPy where all inputs are, so that shape arithmetic never reaches the compiled
program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight.errors import UnsupportedOp, listed
from featherweight.graph import Model, Node, Tensor
from featherweight.operators import lookup, on_numpy, registered
from featherweight.operators.call import FUSED_BOUNDS, Array, Call, clipped, fused_activation, is_static
from featherweight.training.graph import on_keras

ops: Any = on_keras.ops
"""`keras.ops`: what its functions return is not typed."""

_DTYPES = ("float32", "int32", "int64", "uint32", "bool")


def _nothing_known(index: int, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
    return [None] * max(len(arrays), 1)


@dataclass(frozen=True, eq=False)
class Step(Call):
    """One node with its inputs' values, inside a Keras model.

    Float constants among its values are NumPy arrays only if all inputs are; integer constants always are. Integers
    that stand for real numbers are centred: zero is zero.

    Attributes:
        known: as `run_graph` for what is static: takes None for other inputs, and returns None for other outputs.
    """

    known: Callable[[int, Sequence[np.ndarray | None]], list[np.ndarray | None]] = _nothing_known

    @property
    def xp(self) -> Any:
        """NumPy if all inputs are known when the model is traced, else the backend of Keras."""
        return on_numpy if all(array is None or is_static(array) for array in self.arrays) else on_keras

    @property
    def fill(self) -> int:
        """What stands for zero in the output's values."""
        return 0

    def clamp(self, x: Array) -> Array:
        """Returns a float value after the fused activation."""
        return clipped(x, *self.fused_bounds(), on_numpy if is_static(x) else on_keras)

    def unsupported(self, reason: str) -> UnsupportedOp:
        """Returns the error that says what of this node can't be trained."""
        return UnsupportedOp(f"{self.place}: {reason} in a graph model.")


Function = Callable[[Any], tuple[Array, ...]]
_FUNCTIONS: dict[str, Function] = {}


def function(*names: str) -> Callable[[Function], Function]:
    """Registers what operators compute in a Keras model, where that is not their definition over any namespace.

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
    """Returns what an operator computes of floats in a Keras model, or None where there is nothing that does."""
    return _FUNCTIONS.get(op) or lookup(op).definition


def bound(model: Model) -> dict[str, Function]:
    """Returns node name → float function, for the nodes of all graphs.

    Raises:
        UnsupportedOp: naming every node that has none, and why.
    """
    found: dict[str, Function] = {}
    wrong: list[str] = []
    for graph in model.graphs:
        for node in graph.nodes:
            computes = float_function(node.op)
            reason = _obstacle(node, [graph.tensors[name] for name in (*node.inputs, *node.outputs) if name])
            if computes is None:
                reason = "the operator has no differentiable function"
            if reason is None and computes is not None:
                found[node.name] = computes
            else:
                wrong.append(f"{node.op} '{node.name}' ({reason})")
    if wrong:
        known = sorted({*_FUNCTIONS, *(op.name for op in registered() if op.definition is not None)})
        raise UnsupportedOp(
            f"{len(wrong)} node(s) of the model can't be trained: {listed(wrong, limit=1000)}. A graph model takes "
            f"float graphs of these operators: {', '.join(known)}."
        )
    return found


def _obstacle(node: Node, tensors: Sequence[Tensor]) -> str | None:
    """Returns why a node is no float node, or None."""
    for tensor in tensors:
        if tensor.dtype not in _DTYPES:
            return f"tensor '{tensor.name}' is {tensor.dtype}"
    checks_itself = lookup(node.op).axes == "recurrent"
    if not checks_itself and fused_activation(node) not in FUSED_BOUNDS:
        return f"its fused activation {fused_activation(node)} is not one of {', '.join(FUSED_BOUNDS)}"
    if str(node.attrs.get("weights_format", 0)) not in ("0", "DEFAULT"):
        return "its weights are shuffled"
    return None
