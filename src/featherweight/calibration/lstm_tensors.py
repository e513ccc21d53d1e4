"""The cell states of fused LSTM layers, which no tensor of the graph holds: only the last one is left after a run.

They are computed in NumPy from what the layer was fed, once more, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featherweight.graph import Graph, Node
from featherweight.operators import lookup
from featherweight.operators.families.recurrent import CELL


def cells(graph: Graph) -> dict[str, Node]:
    """Maps the cell state of every plain float LSTM layer to the layer."""
    return {node.inputs[CELL]: node for node in graph.nodes if _is_plain(node, graph)}


def held(graph: Graph, names: Sequence[str]) -> list[str]:
    """Returns what to compute and read to know `names`: for a cell state, what its layer is fed, or else gives."""
    layers = cells(graph)

    def read(name: str) -> str:
        if name not in layers:
            return name
        fed = layers[name].inputs[0]
        return layers[name].outputs[0] if fed in graph.inputs else fed

    return list(dict.fromkeys(read(name) for name in names))


def _is_plain(node: Node, graph: Graph) -> bool:
    """True for an LSTM with the float weights of four gates, and nothing further that enters into its state."""
    op = lookup(node.op)
    if op.axes != "recurrent" or not op.input_of(node, CELL) or node.attrs.get("time_major"):
        return False
    positions = {p for role in op.weights for p in role[:2] if p is not None}
    further = {p for p, name in enumerate(node.inputs) if name} - positions - {0, CELL - 1, CELL}
    return not further and all(
        (name := node.inputs[p]) and graph.tensors[name].is_float and graph.tensors[name].is_constant for p in positions
    )


def cell_states(node: Node, graph: Graph, x: np.ndarray) -> np.ndarray:
    """Returns the cell state after every step, (steps, batch, units), from a state of nought.

    Args:
        node: a plain LSTM (`cells`).
        graph: its graph.
        x: what it is fed, (batch, steps, features).
    """
    first, *rest = (np.concatenate([_weight(node, graph, start + gate) for gate in range(4)]) for start in (12, 1, 5))
    kernel, recurrent = (matrix.T for matrix in rest)
    batch, steps, _ = x.shape
    units = recurrent.shape[0]
    driven = x @ kernel + first
    # Input, forget, cell and output gate; a sigmoid is half a hyperbolic tangent of half its argument.
    scales = np.array([[0.5], [0.5], [1.0], [0.5]], np.float32)
    hidden, cell = np.zeros((2, batch, units), np.float32)
    states = np.empty((steps, batch, units), np.float32)
    for step in range(steps):
        gates = driven[:, step] + hidden @ recurrent
        squashed = np.tanh(gates.reshape(batch, 4, units) * scales)
        sigmoid = 0.5 * squashed + 0.5
        cell = sigmoid[:, 1] * cell + sigmoid[:, 0] * squashed[:, 2]
        hidden = sigmoid[:, 3] * np.tanh(cell)
        states[step] = cell
    return states


def _weight(node: Node, graph: Graph, position: int) -> np.ndarray:
    return np.asarray(graph.tensors[node.inputs[position]].array)
