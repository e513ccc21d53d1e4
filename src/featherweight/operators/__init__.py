"""The operators: one record for each, by family."""

from __future__ import annotations

from importlib import import_module

from featherweight.operators.axes import AxesRule
from featherweight.operators.call import Call, Kernel
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

# What registers its operators and kernels when it is imported.
for _name in (
    "families.activation",
    "families.comparison",
    "families.control",
    "families.conv",
    "families.creation",
    "families.elementwise",
    "families.functions",
    "families.linear",
    "families.normalization",
    "families.pooling",
    "families.quantize",
    "families.recurrent",
    "families.reduction",
    "families.resize",
    "families.selection",
    "families.shape",
    "kernels.conv_transposed",
    "kernels.detection",
    "kernels.division",
    "kernels.hard_swish",
    "kernels.lstm_integer",
    "kernels.lstm_real",
    "kernels.sums",
):
    import_module(f"{__name__}.{_name}")
