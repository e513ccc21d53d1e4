"""Activation functions and normalizations in float."""

from __future__ import annotations

from typing import Any

from featherweight.operators.call import Array, clipped
from featherweight.training.graph.registry import Step, function, ops

for _op, _low, _high in (
    ("RELU", 0.0, None),
    ("RELU6", 0.0, 6.0),
    ("RELU_N1_TO_1", -1.0, 1.0),
    ("RELU_0_TO_1", 0.0, 1.0),
):

    def _bounded(step: Step, low: float = _low, high: float | None = _high) -> tuple[Array, ...]:
        """The value between two bounds."""
        return (clipped(step.array(0), low, high, step.xp),)

    function(_op)(_bounded)


def _tensor(x: Array) -> Any:
    return ops.convert_to_tensor(x)


@function("LOGISTIC")
def logistic(step: Step) -> tuple[Array, ...]:
    """Logistic function."""
    return (ops.sigmoid(_tensor(step.array(0))),)


@function("TANH")
def tanh(step: Step) -> tuple[Array, ...]:
    """Hyperbolic tangent."""
    return (step.xp.tanh(step.array(0)),)


@function("HARD_SWISH")
def hard_swish(step: Step) -> tuple[Array, ...]:
    """``x * relu6(x + 3) / 6``."""
    x = _tensor(step.array(0))
    return (x * ops.relu6(x + 3.0) * (1 / 6),)


@function("ELU")
def elu(step: Step) -> tuple[Array, ...]:
    """x, or exp(x) - 1 below zero."""
    return (ops.elu(_tensor(step.array(0))),)


@function("GELU")
def gelu(step: Step) -> tuple[Array, ...]:
    """x times the normal distribution function at x, or its tanh approximation."""
    return (ops.gelu(_tensor(step.array(0)), approximate=bool(step.node.attrs.get("approximate"))),)


@function("LEAKY_RELU")
def leaky_relu(step: Step) -> tuple[Array, ...]:
    """x, or alpha * x below zero."""
    return (_leaky(_tensor(step.array(0)), float(step.node.attrs.get("alpha", 0.0))),)


@function("PRELU")
def prelu(step: Step) -> tuple[Array, ...]:
    """x, or alpha * x below zero, with a learned alpha."""
    return (_leaky(_tensor(step.array(0)), step.array(1)),)


def _leaky(x: Array, alpha: Array | float) -> Array:
    return ops.where(ops.greater_equal(x, 0), x, x * alpha)


@function("SOFTMAX")
def softmax(step: Step) -> tuple[Array, ...]:
    """Softmax of beta * x over the last axis."""
    x, beta = _tensor(step.array(0)), float(step.node.attrs.get("beta", 1.0))
    return (ops.softmax(x if beta == 1.0 else x * beta, axis=-1),)


@function("LOG_SOFTMAX")
def log_softmax(step: Step) -> tuple[Array, ...]:
    """Logarithm of the softmax over the last axis."""
    return (ops.log_softmax(_tensor(step.array(0)), axis=-1),)


@function("L2_NORMALIZATION")
def l2_normalization(step: Step) -> tuple[Array, ...]:
    """x over its Euclidean norm along the last axis, at least 1e-6 (LiteRT reference/l2normalization.h)."""
    x = _tensor(step.array(0))
    squares = ops.sum(ops.square(ops.cast(x, "float32")), axis=-1, keepdims=True)
    return (step.clamp(x * ops.cast(ops.rsqrt(ops.maximum(squares, 1e-12)), step.dtype)),)
