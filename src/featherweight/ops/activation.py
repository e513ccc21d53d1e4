"""Activation functions and normalizations. Fixed outputs: TensorFlow Lite 8-bit quantization specification."""

from __future__ import annotations

from featherweight.ops.registry import register

register(
    "SOFTMAX",
    fixed_output={"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
    versions={"int8": 2, "int16": 3},
)
register("LOG_SOFTMAX", fixed_output={"int8": (16 / 256, 127)}, versions={"int8": 2})
register(
    "LOGISTIC",
    fixed_output={"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
    versions={"int8": 2, "int16": 3},
)
register("TANH", fixed_output={"int8": (1 / 128, 0), "int16": (1 / 32768, 0)}, versions={"int8": 2, "int16": 3})
register("L2_NORMALIZATION", fixed_output={"int8": (1 / 128, 0)}, versions={"int8": 2})
for _name in ("RELU", "RELU6"):
    register(_name, versions={"int8": 2, "int16": 3})
for _name in ("RELU_N1_TO_1", "RELU_0_TO_1"):
    register(_name, versions={"int8": 1})
register("LEAKY_RELU", versions={"int8": 1, "int16": 2})
register("PRELU", versions={"int8": 1})
register("ELU", versions={"int8": 1})
register("HARD_SWISH", versions={"int8": 1})
register("GELU", versions={"int8": 2, "int16": 2})
