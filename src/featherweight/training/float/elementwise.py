"""Arithmetic, comparisons and choices, element by element, in float and of static integers."""

from __future__ import annotations

import numpy as np

from featherweight.operators.call import Array, is_static
from featherweight.training.graph.registry import Step, function, ops


def _binary(name: str, *, of: str) -> None:
    def computed(step: Step) -> tuple[Array, ...]:
        return (step.clamp(getattr(step.xp, of)(step.array(0), step.array(1))),)

    computed.__doc__ = f"{name} of two values, then the fused activation."
    function(name)(computed)


for _name, _of in {
    "ADD": "add",
    "SUB": "subtract",
    "MUL": "multiply",
    "MAXIMUM": "maximum",
    "MINIMUM": "minimum",
    "POW": "power",
    "FLOOR_MOD": "mod",
    "EQUAL": "equal",
    "NOT_EQUAL": "not_equal",
    "GREATER": "greater",
    "GREATER_EQUAL": "greater_equal",
    "LESS": "less",
    "LESS_EQUAL": "less_equal",
    "LOGICAL_AND": "logical_and",
    "LOGICAL_OR": "logical_or",
}.items():
    _binary(_name, of=_of)


def _unary(name: str, *, of: str) -> None:
    def computed(step: Step) -> tuple[Array, ...]:
        return (getattr(step.xp, of)(step.array(0)),)

    computed.__doc__ = f"{name} of every element."
    function(name)(computed)


for _name, _of in {
    "ABS": "abs",
    "NEG": "negative",
    "SQRT": "sqrt",
    "SQUARE": "square",
    "EXP": "exp",
    "LOG": "log",
    "SIN": "sin",
    "COS": "cos",
    "SIGN": "sign",
    "FLOOR": "floor",
    "CEIL": "ceil",
    "ROUND": "round",
    "LOGICAL_NOT": "logical_not",
}.items():
    _unary(_name, of=_of)


@function("RSQRT")
def rsqrt(step: Step) -> tuple[Array, ...]:
    """``1 / sqrt(x)``."""
    x = step.array(0)
    return (np.float32(1) / np.sqrt(x) if is_static(x) else ops.rsqrt(x),)


@function("DIV")
def div(step: Step) -> tuple[Array, ...]:
    """Quotient; of integers, cut toward zero."""
    x, z, xp = step.array(0), step.array(1), step.xp
    if step.outputs[0].is_float:
        return (step.clamp(xp.divide(x, z)),)
    return (xp.sign(x) * xp.sign(z) * xp.floor_divide(xp.abs(x), xp.abs(z)),)


@function("FLOOR_DIV")
def floor_div(step: Step) -> tuple[Array, ...]:
    """Quotient, rounded down."""
    return (step.xp.floor_divide(step.array(0), step.array(1)),)


@function("SQUARED_DIFFERENCE")
def squared_difference(step: Step) -> tuple[Array, ...]:
    """Square of a difference."""
    xp = step.xp
    return (xp.square(xp.subtract(step.array(0), step.array(1))),)


@function("ADD_N")
def add_n(step: Step) -> tuple[Array, ...]:
    """Sum of several values."""
    total = step.array(0)
    for position in range(1, len(step.arrays)):
        total = step.xp.add(total, step.array(position))
    return (total,)


@function("SELECT", "SELECT_V2")
def select(step: Step) -> tuple[Array, ...]:
    """The second value where the condition holds, else the third."""
    condition, x, z, xp = step.array(0), step.array(1), step.array(2), step.xp
    if step.node.op == "SELECT" and len(condition.shape) == 1 and len(x.shape) > 1:
        condition = xp.reshape(condition, (-1, *([1] * (len(x.shape) - 1))))
    return (xp.where(condition, x, z),)


@function("CAST")
def cast(step: Step) -> tuple[Array, ...]:
    """Numbers as another type; what becomes float takes the precision of the model."""
    x, wanted = step.array(0), step.outputs[0].dtype
    if is_static(x):
        return (x.astype(wanted),)
    return (ops.cast(x, step.dtype if wanted == "float32" else wanted),)
