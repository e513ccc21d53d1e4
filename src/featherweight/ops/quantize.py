"""Conversions between real numbers and integers."""

from __future__ import annotations

from featherweight.ops.registry import register

QUANTIZE = register("QUANTIZE", versions={"int8": 1, "int16": 2, "int4": 4}).name
# By the type that is read; "channels" is int8 with a scale per channel.
DEQUANTIZE = register("DEQUANTIZE", versions={"int8": 2, "int16": 3, "float16": 3, "channels": 5, "int4": 6}).name
register("FAKE_QUANT")
register("DENSIFY")
