"""The operators: one record for each, by family."""

from __future__ import annotations

from featherweight.ops import activation, control, conv, elementwise, linear, pooling, quantize, shape
from featherweight.ops.registry import Op, lookup, register, registered

__all__ = ["Op", "lookup", "register", "registered"]

_FAMILIES = (activation, control, conv, elementwise, linear, pooling, quantize, shape)
