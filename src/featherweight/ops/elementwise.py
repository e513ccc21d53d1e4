"""Elementwise arithmetic, comparisons and choices. Source: LiteRT op_version.cc and kernels."""

from __future__ import annotations

from featherweight.ops.registry import register

register("ADD", versions={"int8": 2, "int16": 3})
register("SUB", versions={"int8": 2, "int16": 5})
register("MUL", versions={"int8": 3, "int16": 4})
register("SQUARED_DIFFERENCE", versions={"int8": 2, "int16": 2})
register("DIV")
for _name in ("MAXIMUM", "MINIMUM"):
    register(_name, same_scale=(0, 1), versions={"int8": 2, "int16": 4})
register("ABS", versions={"int8": 2, "int16": 3})
register("NEG")
register("RSQRT", versions={"int8": 2, "int16": 3})
for _name in ("EXP", "SQRT", "LOG"):
    register(_name, versions={"int8": 2, "int16": 2})
# Comparisons share one scale: kernels rescale operands of different scales so coarsely that equal values differ.
for _name, _int16 in (("EQUAL", 5), ("NOT_EQUAL", 4), ("GREATER_EQUAL", 3), ("LESS", 3)):
    register(_name, same_scale=(0, 1), versions={"int8": 2, "int16": _int16})
for _name in ("GREATER", "LESS_EQUAL"):
    register(_name, same_scale=(0, 1), versions={"int8": 2})
for _name in ("SELECT", "SELECT_V2"):
    register(_name, same_scale=(1, 2), versions={"int8": 2 if _name == "SELECT" else 1, "int16": 1})
