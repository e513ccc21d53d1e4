"""The operators: one record for each, by family."""

from __future__ import annotations

from featherweight.operators.axes import AxesRule
from featherweight.operators.call import Call, Kernel
from featherweight.operators.families import (
    activation,
    comparison,
    control,
    conv,
    creation,
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
from featherweight.operators.kernels import (
    conv_transposed,
    detection,
    division,
    hard_swish,
    lstm_integer,
    lstm_real,
    sums,
)
from featherweight.operators.record import (
    Op,
    WeightRole,
    definition,
    kernel,
    lookup,
    macs,
    placed,
    refusal,
    register,
    registered,
)

__all__ = [
    "AxesRule",
    "Call",
    "Kernel",
    "Op",
    "WeightRole",
    "definition",
    "kernel",
    "lookup",
    "macs",
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
    creation,
    elementwise,
    functions,
    hard_swish,
    linear,
    conv_transposed,
    detection,
    division,
    lstm_integer,
    lstm_real,
    sums,
    normalization,
    pooling,
    quantize,
    recurrent,
    reduction,
    resize,
    selection,
    shape,
)
