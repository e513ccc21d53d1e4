"""Reference kernel of the integer LSTM: int8 activations and weights, int16 gates and cell state.

Sources: LiteRT unidirectional_sequence_lstm.cc (PopulateQuantizedLstmParams8x8_16) and lstm_eval.cc
(LstmStepInteger8x8_16); TFLite Micro lstm_eval.h (LstmStep) and lstm_eval_common.cc (PrepareGateParametersInteger).
"""

from __future__ import annotations

import functools

import numpy as np

from featherweight.graph import Tensor
from featherweight.operators import fixed_point as fixedpoint
from featherweight.operators.call import Call
from featherweight.operators.families.recurrent import CELL, HIDDEN, LSTM
from featherweight.operators.fixed_point import binary_exponent, rounding_shift
from featherweight.operators.kernels.interpolation import sigmoid_16, tanh_16
from featherweight.operators.kernels.lstm import KERNELS, RECURRENTS, Layer, Step, weight_scale
from featherweight.operators.record import kernel

# Gates have 3 integer and 12 fractional bits; there are hyperbolic tangents of up to 6 integer bits.
_GATE_SCALE = np.float32(2.0**-12)
_MOST_INTEGER_BITS = 6


@kernel(LSTM, "int8*int8")
def lstm_of_8(call: Call) -> tuple[np.ndarray, ...]:
    """Integer LSTM: gates in Q3.12, their functions in fixed point, an int16 cell state, an int8 hidden one."""
    layer = Layer.of(call)
    (x_scale, x_zero), (hidden_scale, hidden_zero) = call.affine(call.input(0)), call.affine(call.input(HIDDEN))
    x_factors = layer.per_gate([weight_scale(call, position) * x_scale / _GATE_SCALE for position in KERNELS])
    factors = layer.per_gate([weight_scale(call, position) * hidden_scale / _GATE_SCALE for position in RECURRENTS])
    weight, recurrent = layer.kernel.astype(np.float64), layer.recurrent.astype(np.float64)
    sums = (layer.x.astype(np.float64) - x_zero) @ weight.T + layer.bias
    call.check_accumulator(sums, 32)
    given = _int16(call.rescaled(sums.astype(np.int64), x_factors.astype(np.float64)))
    exponent = _cell_exponent(call)
    clip = int(np.clip(np.float32(layer.clip) / call.affine(call.input(CELL))[0], 0, 32767))
    out_scale, out_zero = call.affine(_hidden_parameters(call))
    out_factor = np.float64(np.float32(2.0**-15 / np.float64(out_scale) * 2.0**-15))
    if call.profile.is_micro:
        return layer.run(given, _micro_step(call, layer, factors.astype(np.float64), exponent, clip))

    def step(at: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums = (hidden.astype(np.float64) - hidden_zero) @ recurrent.T
        call.check_accumulator(sums, 32)
        gates = _int16(call.rescaled(sums.astype(np.int64), factors.astype(np.float64)) + at)
        into, forget, new, out = (gate.astype(np.int16) for gate in layer.split(gates))
        kept = rounding_shift(_product(sigmoid(forget), cell), 15)
        added = rounding_shift(_product(sigmoid(into), tanh(new)), 30 + exponent)
        cell = _int16(kept.astype(np.int16) + added.astype(np.int16).astype(np.int64)).astype(np.int16)
        if clip:
            cell = np.clip(cell, -clip, clip).astype(np.int16)
        products = _product(sigmoid(out), tanh(cell, 15 + exponent))
        return np.clip(call.rescaled(products, out_factor) + out_zero, -128, 127).astype(np.int8), cell

    return layer.run(given, step)


def _micro_step(call: Call, layer: Layer, factors: np.ndarray, exponent: int, clip: int) -> Step:
    """Returns one step as TFLite Micro takes it: by kernels of products, sums and functions that round to 16 bits."""
    hidden_scale, hidden_zero = call.affine(call.input(HIDDEN))
    recurrent, cell_scale = layer.recurrent.astype(np.float64), np.float32(2.0**exponent)
    out_factor = 2.0**-30 / np.float64(hidden_scale)

    def step(at: np.ndarray, hidden: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sums = (hidden.astype(np.float64) - hidden_zero) @ recurrent.T
        call.check_accumulator(sums, 32)
        gates = _int16(_int16(call.rescaled(sums.astype(np.int64), factors)) + at)
        into, forget, new, out = (gate.astype(np.int16) for gate in layer.split(gates))
        kept = _int16(call.rescaled(_product(sigmoid_16(forget, _GATE_SCALE), cell), 2.0**-15))
        products = _product(sigmoid_16(into, _GATE_SCALE), tanh_16(new, _GATE_SCALE))
        cell = _int16(kept + _int16(call.rescaled(products, 2.0 ** (-30 - exponent)))).astype(np.int16)
        if clip:
            cell = np.clip(cell, -clip, clip).astype(np.int16)
        products = _product(tanh_16(cell, cell_scale), sigmoid_16(out, _GATE_SCALE))
        return np.clip(call.rescaled(products, out_factor) + hidden_zero, -128, 127).astype(np.int8), cell

    return step


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)) of int16 values of 3 integer bits in units of 1/32768, int16."""
    return _sigmoid_table()[x.view(np.uint16)]


def tanh(x: np.ndarray, integer_bits: int = 3) -> np.ndarray:
    """Returns the hyperbolic tangent of int16 values of up to 6 integer bits in units of 1/32768, int16."""
    return _tanh_table(integer_bits)[x.view(np.uint16)]


@functools.cache
def _sigmoid_table() -> np.ndarray:
    return fixedpoint.logistic_16(_arguments(), 3).astype(np.int16)


@functools.cache
def _tanh_table(integer_bits: int) -> np.ndarray:
    # From 16 on gemmlowp's exp is zero; it has no factor for what is larger.
    limit = 16 << (15 - integer_bits)
    return fixedpoint.tanh_16(np.clip(_arguments(), -limit, limit), integer_bits).astype(np.int16)


def _arguments() -> np.ndarray:
    """Returns all int16 values, in the order of their bits."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int64)


def _product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x.astype(np.int64) * y


def _int16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -32768, 32767)


def _cell_exponent(call: Call) -> int:
    """Returns the exponent of the cell state's scale.

    Raises:
        UnsupportedOp: if it is no power of two, or one for which there is no hyperbolic tangent.
    """
    scale, zero_point = call.affine(call.input(CELL))
    exponent = binary_exponent(scale)
    if call.input(CELL).dtype != "int16" or zero_point or exponent is None or not -15 <= exponent <= -9:
        raise call.unsupported(
            f"a cell state of type {call.input(CELL).dtype}, scale {scale:g} and zero point {zero_point} is not "
            f"supported (supported: int16, 2**-15 to 2**{_MOST_INTEGER_BITS - 15}, 0)"
        )
    return exponent


def _hidden_parameters(call: Call) -> Tensor:
    """Returns the fifth of the intermediates, whose parameters the kernel gives its output."""
    intermediates = call.intermediates
    if len(intermediates) != 5:
        raise call.unsupported(f"{len(intermediates)} intermediates are not supported (supported: 5)")
    return intermediates[4]
