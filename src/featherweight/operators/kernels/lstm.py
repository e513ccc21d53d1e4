"""What the reference kernels of the fused LSTM share: its operands, and the loop over time.

Source: LiteRT unidirectional_sequence_lstm.cc. All of LiteRT's op resolvers run the same kernels; XNNPACK has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.families.recurrent import CELL, HIDDEN

GATES = 4  # input, forget, cell, output
KERNELS, RECURRENTS, _BIASES = range(1, 5), range(5, 9), range(12, 16)
_ABSENT = {"peephole": range(9, 12), "projection": range(16, 18), "layer normalization": range(20, 24)}
# (what one step of the input gives the gates, hidden, cell) -> hidden, cell
Step = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Layer:
    """The operands of one LSTM; the gates' rows are stacked: input, forget, cell, output.

    Attributes:
        x: (steps, batch, features).
        kernel: (4 units, features).
        recurrent: (4 units, units).
        bias: (4 units).
        hidden: (batch, units), where the state begins; so is `cell`.
        units: how many values the state has.
        clip: the largest magnitude of the cell state, 0 for any.
    """

    call: Call
    x: np.ndarray
    kernel: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray
    hidden: np.ndarray
    cell: np.ndarray
    units: int
    clip: float

    @staticmethod
    def of(call: Call) -> Layer:
        """Returns the layer of a node.

        Raises:
            UnsupportedOp: if it has what no importer writes, or shapes don't fit.
        """
        _check_options(call)
        x = call.array(0)
        units = call.array(KERNELS[0]).shape[0]
        kernel = _stacked(call, KERNELS, (units, x.shape[-1]))
        recurrent = _stacked(call, RECURRENTS, (units, units))
        bias = _stacked(call, _BIASES, (units,))
        if x.ndim != 3:
            raise call.unsupported(f"an input of shape {list(x.shape)} is not supported (supported: 3 dimensions)")
        x = x if call.node.attrs.get("time_major") else x.swapaxes(0, 1)
        hidden, cell = call.array(HIDDEN), call.array(CELL)
        if hidden.size != x.shape[1] * units or cell.size != hidden.size:
            raise call.unsupported(
                f"states of {hidden.size} and {cell.size} values for a batch of {x.shape[1]} and {units} units are not "
                "supported"
            )
        states = hidden.reshape(-1, units), cell.reshape(-1, units)
        return Layer(call, x, kernel, recurrent, bias, *states, units, float(call.node.attrs.get("cell_clip", 0.0)))

    def split(self, stacked: np.ndarray) -> list[np.ndarray]:
        """Cuts (batch, 4 units) into the four gates."""
        return [stacked[:, gate * self.units : (gate + 1) * self.units] for gate in range(GATES)]

    def per_gate(self, values: list[np.float32]) -> np.ndarray:
        """Returns one value per gate as one per row of the stacked weights."""
        return np.repeat(np.asarray(values, np.float32), self.units)

    def run(self, given: np.ndarray, step: Step) -> tuple[np.ndarray, ...]:
        """Steps through time; returns the output and the states. `given` is (steps, batch, …), for one step each."""
        hidden, cell = self.hidden, self.cell
        outputs = np.empty((*self.x.shape[:2], self.units), hidden.dtype)
        for time, at in enumerate(given):
            hidden, cell = step(at, hidden, cell)
            outputs[time] = hidden
        if not self.call.node.attrs.get("time_major"):
            outputs = outputs.swapaxes(0, 1)
        shapes = self.call.array(HIDDEN).shape, self.call.array(CELL).shape
        return np.ascontiguousarray(outputs), hidden.reshape(shapes[0]), cell.reshape(shapes[1])


def _stacked(call: Call, positions: range, shape: tuple[int, ...]) -> np.ndarray:
    """Returns one operand of all gates, each of that shape, one above the other."""
    for position in positions:
        if call.array(position).shape != shape:
            raise call.unsupported(
                f"input {position} of shape {list(call.array(position).shape)} is not supported (supported: "
                f"{list(shape)})"
            )
    return np.concatenate([call.array(position) for position in positions])


def _check_options(call: Call) -> None:
    for what, positions in _ABSENT.items():
        if any(call.optional(position) is not None for position in positions):
            raise call.unsupported(f"{what} is not supported")
    activation = call.node.attrs.get("fused_activation_function", "NONE")
    if activation != "TANH":
        raise call.unsupported(f"activation {activation} is not supported (supported: TANH)")
    if call.node.attrs.get("proj_clip") or call.node.attrs.get("diagonal_recurrent_tensors"):
        raise call.unsupported("a clipped projection or diagonal recurrent weights are not supported")
    if call.node.attrs.get("cell_clip", 0.0) < 0:
        raise call.unsupported("a negative cell_clip is not supported")


def weight_scale(call: Call, position: int) -> np.float32:
    """Returns the scale of a symmetric weight.

    Raises:
        UnsupportedOp: if it has none, several, or a zero point.
    """
    scale, zero_point = call.affine(call.input(position))
    if zero_point:
        raise call.unsupported(f"weights with the zero point {zero_point} are not supported (supported: 0)")
    return scale
