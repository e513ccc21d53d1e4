"""The operators: one record for each, by family."""

from __future__ import annotations

from featherweight.operators.axes import AxesRule
from featherweight.operators.call import Call, Kernel
from featherweight.operators.families import (
    activation,
    comparison,
    control,
    conv,
    conv_transposed,
    creation,
    detection,
    division,
    elementwise,
    functions,
    linear,
    normalization,
    pooling,
    quantize,
    recurrent,
    reduction,
    resize,
    selection,
    shape,
)
from featherweight.operators.kernels import lstm_integer, lstm_real
from featherweight.operators.record import Op, WeightRole, kernel, lookup, placed, refusal, register, registered

__all__ = [
    "AxesRule",
    "Call",
    "Kernel",
    "Op",
    "WeightRole",
    "kernel",
    "lookup",
    "placed",
    "refusal",
    "register",
    "registered",
]

_FAMILIES = (
    activation,
    comparison,
    control,
    conv,
    conv_transposed,
    creation,
    detection,
    division,
    elementwise,
    functions,
    linear,
    lstm_integer,
    lstm_real,
    normalization,
    pooling,
    quantize,
    recurrent,
    reduction,
    resize,
    selection,
    shape,
)
