"""The operators: one record for each, by family."""

from __future__ import annotations

from featherweight.ops import activation, control, conv, elementwise, linear, pooling, quantize, resize, shape
from featherweight.ops.calls import Call, Kernel
from featherweight.ops.registry import Op, kernel, lookup, register, registered

__all__ = ["Call", "Kernel", "Op", "kernel", "lookup", "register", "registered"]

_FAMILIES = (activation, control, conv, elementwise, linear, pooling, quantize, resize, shape)
