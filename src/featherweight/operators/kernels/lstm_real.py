"""Reference kernel of the LSTM with float activations: float weights, or int8 ones (hybrid).

Products of the hybrid form are integers, so that it is LiteRT's bit for bit; in float, sums are added up in another
order. Source: LiteRT lstm_eval.cc (LstmStepFloat, LstmStepHybrid).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.families.recurrent import LSTM
from featherweight.operators.kernels import eigen, rows
from featherweight.operators.kernels.lstm import KERNELS, RECURRENTS, Layer, weight_scale
from featherweight.operators.record import kernel

# Where each gate lies in LiteRT's scratch memory, in units of a batch: the cell gate before the forget gate.
_PLACES = (0, 2, 1, 3)
# Rows -> their products with the stacked weights.
Product = Callable[[np.ndarray], np.ndarray]


@kernel(LSTM, "float32", "float32*int8")
def lstm_of_reals(call: Call) -> tuple[np.ndarray, ...]:
    """LSTM in float32, or hybrid: every row of the input and of the state is quantized at every step."""
    layer = Layer.of(call)
    types = {call.input(position).dtype for position in (*KERNELS, *RECURRENTS)}
    if types not in ({"float32"}, {"int8"}):
        raise call.unsupported(f"weights of type {', '.join(sorted(types))} are not supported (supported: one type)")
    product = _quantized if types == {"int8"} else _plain
    of_input = product(layer, layer.kernel, KERNELS)
    of_hidden = product(layer, layer.recurrent, RECURRENTS)
    steps, batch, features = layer.x.shape
    given = layer.bias + of_input(layer.x.reshape(-1, features)).reshape(steps, batch, -1)
    masks = _taken_by_four(layer, batch)

    def step(at: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        into, forget, new, out = layer.split(at + of_hidden(hidden))
        cell = eigen.sigmoid(forget, masks[1]) * cell
        cell = cell + eigen.tanh(new) * eigen.sigmoid(into, masks[0])
        if layer.clip:
            cell = np.clip(cell, -np.float32(layer.clip), np.float32(layer.clip))
        return eigen.sigmoid(out, masks[3]) * eigen.tanh(cell), cell

    return layer.run(given, step)


def _plain(layer: Layer, weight: np.ndarray, positions: range) -> Product:
    transposed = weight.T

    def product(x: np.ndarray) -> np.ndarray:
        return x @ transposed

    return product


def _quantized(layer: Layer, weight: np.ndarray, positions: range) -> Product:
    """Returns the product that quantizes rows, with a zero point where `asymmetric_quantize_inputs` says so."""
    call = layer.call
    scales = layer.per_gate([weight_scale(call, position) for position in positions])
    transposed = weight.T.astype(np.float64)
    is_asymmetric = bool(call.node.attrs.get("asymmetric_quantize_inputs"))
    quantize = rows.quantize_asymmetric if is_asymmetric else rows.quantize_symmetric

    def product(x: np.ndarray) -> np.ndarray:
        centred, _, row_scales = quantize(x)
        sums = centred.astype(np.float64) @ transposed
        call.check_accumulator(sums, 32)
        return sums.astype(np.float32) * (row_scales * scales)

    return product


def _taken_by_four(layer: Layer, batch: int) -> list[np.ndarray]:
    """Returns for each gate which of its values (batch, units) Eigen takes four at a time.

    LiteRT computes one example after the other where the batch comes first, else all at once.
    """
    units, size = layer.units, batch * layer.units
    if layer.call.node.attrs.get("time_major"):
        return [eigen.taken_by_four(place * size, size).reshape(batch, units) for place in _PLACES]
    starts = [range(place * size, (place + 1) * size, units) for place in _PLACES]
    return [np.stack([eigen.taken_by_four(start, units) for start in batch_starts]) for batch_starts in starts]
