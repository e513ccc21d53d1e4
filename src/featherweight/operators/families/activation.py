"""Activation functions and normalizations. Fixed outputs: TensorFlow Lite 8-bit quantization specification."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from featherweight.graph.numerics import integer_range
from featherweight.operators import on_numpy
from featherweight.operators.call import FUSED_BOUNDS, Array, Call, clipped, quantized_bound
from featherweight.operators.fixed_point import binary_exponent, shifted
from featherweight.operators.fixed_point import logistic_16 as gemmlowp_logistic
from featherweight.operators.fixed_point import tanh_16 as gemmlowp_tanh
from featherweight.operators.function_limits import (
    refused_hard_swish,
    refused_prelu,
    refused_sigmoid,
    refused_softmax,
)
from featherweight.operators.kernels.interpolation import (
    Function,
    libm,
    sigmoid_16,
    softmax_16,
    tabulated,
    tanh_16,
)
from featherweight.operators.kernels.softmax import softmax_fixed, softmax_table
from featherweight.operators.limits import refused_bounds, refused_rescaling
from featherweight.operators.record import Op, definition, kernel, placed, register
from featherweight.operators.relevance import of_rectified, of_saturated, of_softmax

register(
    Op(
        "SOFTMAX",
        "SoftmaxOptions",
        axes="normalization",
        fixed_output={"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
        versions={"int8": 2, "int16": 3},
        refused=refused_softmax,
        relevant=of_softmax,
        normalizes_rows=True,
        probability="softmax",
    )
)
register(
    Op(
        "LOGISTIC",
        axes="same",
        channels_first=True,
        probability="sigmoid",
        fixed_output={"int8": (1 / 256, -128), "int16": (1 / 32768, 0)},
        versions={"int8": 2, "int16": 3},
        refused=refused_sigmoid,
        relevant=of_saturated,
    )
)
register(
    Op(
        "TANH",
        axes="same",
        channels_first=True,
        fixed_output={"int8": (1 / 128, 0), "int16": (1 / 32768, 0)},
        versions={"int8": 2, "int16": 3},
        refused=refused_sigmoid,
        relevant=of_saturated,
    )
)


def _refused_rectifier(call: Call) -> str | None:
    return refused_rescaling(call) or refused_bounds(call, FUSED_BOUNDS[call.node.op])


for _name in ("RELU", "RELU6"):
    register(
        Op(
            _name,
            axes="same",
            channels_first=True,
            is_homogeneous=_name == "RELU",
            versions={"int8": 2, "int16": 3},
            relevant=of_rectified,
            refused=_refused_rectifier,
        )
    )
register(Op("RELU_N1_TO_1", axes="same", channels_first=True, versions={"int8": 1}, refused=_refused_rectifier))
# Of which XNNPACK takes none.
register(Op("RELU_0_TO_1", axes="same", versions={"int8": 1}, refused=_refused_rectifier))
register(
    Op(
        "LEAKY_RELU",
        "LeakyReluOptions",
        axes="same",
        channels_first=True,
        is_homogeneous=True,
        versions={"int8": 1, "int16": 2},
        refused=refused_rescaling,
    )
)
register(
    Op(
        "PRELU",
        axes="joined",
        is_homogeneous=True,
        trained={1: "alpha"},
        versions={"int8": 1},
        delegated=lambda call: call.input(0).is_float,
        refused=refused_prelu,
    )
)
register(Op("ELU", axes="same", channels_first=True, versions={"int8": 1}, is_curved=True))
HARD_SWISH = register(
    Op(
        "HARD_SWISH",
        "HardSwishOptions",
        axes="same",
        channels_first=True,
        versions={"int8": 1},
        refused=refused_hard_swish,
    )
).name
register(
    Op(
        "GELU",
        "GeluOptions",
        axes="same",
        channels_first=True,
        versions={"int8": 2, "int16": 2},
        is_curved=True,
    )
)


def _sigmoid(x: np.ndarray, exp: Function) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)) in float32."""
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + exp(-x))


@kernel("LOGISTIC", "int8")
def logistic(call: Call) -> tuple[np.ndarray, ...]:
    """Sigmoid, from a table."""
    return (tabulated(call, lambda x: _sigmoid(x, libm("exp")), delegated=call.profile.is_delegate),)


@kernel("TANH", "int8")
def tanh(call: Call) -> tuple[np.ndarray, ...]:
    """Hyperbolic tangent, from a table."""
    return (tabulated(call, libm("tanh"), delegated=call.profile.is_delegate),)


@kernel("LOGISTIC", "int16")
def logistic_of_16(call: Call) -> tuple[np.ndarray, ...]:
    """Sigmoid of int16 values: LiteRT's optimized kernel has its own for inputs of 12 fractional bits."""
    scale, _ = call.affine(call.input(0))
    if call.fallen_back().profile.is_vectorized and binary_exponent(scale) == -12:
        return (gemmlowp_logistic(call.array(0).astype(np.int64), 3).astype(np.int16),)
    return (sigmoid_16(call.array(0), scale),)


@kernel("TANH", "int16")
def tanh_of_16(call: Call) -> tuple[np.ndarray, ...]:
    """Hyperbolic tangent of int16 values: LiteRT's optimized kernel has its own for 12 and 11 fractional bits."""
    scale, _ = call.affine(call.input(0))
    exponent = binary_exponent(scale)
    if call.fallen_back().profile.is_vectorized and exponent in (-12, -11):
        fine = shifted(call.array(0).astype(np.int64), exponent + 12, 16)
        return (gemmlowp_tanh(fine, 3).astype(np.int16),)
    return (tanh_16(call.array(0), scale),)


@kernel("SOFTMAX", "int16")
def softmax_of_16(call: Call) -> tuple[np.ndarray, ...]:
    """Softmax of int16 values over the last axis."""
    beta, real = float(call.node.attrs.get("beta", 1.0)), np.float32 if call.profile.is_micro else np.float64
    return (softmax_16(call.array(0), call.affine(call.input(0))[0], beta, real),)


@kernel("SOFTMAX", "int8")
def softmax(call: Call) -> tuple[np.ndarray, ...]:
    """Softmax over the last axis: fixed point in the reference, a table of exponentials elsewhere."""
    scale, _ = call.affine(call.input(0))
    if call.outputs[0].dtype != "int8":
        raise call.unsupported(f"outputs of type {call.outputs[0].dtype} are not supported (supported: int8)")
    compute = softmax_fixed if call.profile.is_reference else softmax_table
    return (compute(call.array(0), scale, float(call.node.attrs.get("beta", 1.0))).astype(np.int8),)


def _clipped(call: Call) -> tuple[np.ndarray, ...]:
    """Rescales to the output's scale, then clips."""
    low, high = FUSED_BOUNDS[call.node.op]
    (in_scale, in_zero), (out_scale, out_zero) = call.affine(call.input(0)), call.affine(call.outputs[0])
    qmin, qmax = integer_range(call.outputs[0].dtype)
    least = qmin if low is None else max(qmin, quantized_bound(low, out_scale, out_zero))
    largest = qmax if high is None else min(qmax, quantized_bound(high, out_scale, out_zero))
    x = call.array(0).astype(np.int64) - in_zero
    return (call.finish(call.rescaled(x, np.float64(in_scale / out_scale)), least, largest),)


def _clipped_float(call: Call) -> tuple[Array, ...]:
    """The value between two bounds."""
    return (clipped(call.array(0), *FUSED_BOUNDS[call.node.op], call.xp),)


for _name in ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1"):
    kernel(_name, "int8", "int16")(_clipped)
    definition(_name, "float32")(_clipped_float)


@kernel("LEAKY_RELU", "int8", "int16")
def leaky_relu(call: Call) -> tuple[np.ndarray, ...]:
    """x, or alpha * x below zero: two multipliers; XNNPACK's have 8 fractional bits."""
    (in_scale, in_zero), (out_scale, _) = call.affine(call.input(0)), call.affine(call.outputs[0])
    alpha = np.float32(call.node.attrs.get("alpha", 0.0))
    x = call.array(0).astype(np.int64) - in_zero
    above, below = in_scale / out_scale, (in_scale * alpha) / out_scale
    if call.profile.is_delegate and call.input(0).dtype == "int8":
        above, below = in_scale / out_scale, alpha * (in_scale / out_scale)
        if 2.0**-8 <= above <= 2.0**7 and 2.0**-8 <= abs(below) <= 2.0**7:
            factors = np.where(x >= 0, int(np.rint(np.float32(256) * above)), int(np.rint(np.float32(256) * below)))
            return (call.finish((x * factors + 128) >> 8),)
    call = call.fallen_back()
    above, below = in_scale / out_scale, (in_scale * alpha) / out_scale
    values = np.where(x >= 0, call.rescaled(x, np.float64(above)), call.rescaled(x, np.float64(below)))
    return (call.finish(values),)


@kernel("ELU", "int8")
def elu_of_8(call: Call) -> tuple[np.ndarray, ...]:
    """Exponential linear unit: from a table, or by XNNPACK's function of the same name."""
    below, delegated = libm("expm1"), call.profile.is_delegate
    return (tabulated(call, lambda x: np.where(x < 0, below(np.minimum(x, 0)), x), delegated=delegated),)


@kernel("GELU", "int8", "int16")
def gelu_of_integers(call: Call) -> tuple[np.ndarray, ...]:
    """Gaussian error linear unit, from a table."""
    approximate = bool(call.node.attrs.get("approximate"))
    tanh, erfc = libm("tanh"), libm("erfc")
    return (tabulated(call, lambda x: on_numpy.gelu(x, approximate=approximate, tanh=tanh, erfc=erfc)),)


@kernel("PRELU", "int8")
def prelu(call: Call) -> tuple[np.ndarray, ...]:
    """x, or alpha * x below zero, with an alpha per channel that is quantized itself (reference/prelu.h)."""
    (in_scale, in_zero), (out_scale, _) = call.affine(call.input(0)), call.affine(call.outputs[0])
    alpha_scale, alpha_zero = call.affine(call.input(1))
    x, alpha = call.array(0).astype(np.int64) - in_zero, call.array(1).astype(np.int64) - alpha_zero
    above, below = in_scale / out_scale, (in_scale * alpha_scale) / out_scale
    call = placed(call)
    values = np.where(x >= 0, call.rescaled(x, np.float64(above)), call.rescaled(x * alpha, np.float64(below)))
    return (call.finish(values),)


def _attach(op: str, compute: Callable[[Call, Array], Array], summary: str) -> None:
    def computed(call: Call) -> tuple[Array, ...]:
        with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN go through, as in LiteRT
            return (compute(call, call.array(0)),)

    computed.__doc__ = summary
    definition(op, "float32")(computed)


def _leaky(call: Call, x: Array, alpha: Array | float) -> Array:
    return call.xp.where(call.xp.greater_equal(x, 0), x, x * alpha)


def _softmax(call: Call, x: Array) -> Array:
    beta = float(call.node.attrs.get("beta", 1.0))
    return call.xp.softmax(x if beta == 1.0 else x * beta, axis=-1)


_attach("LOGISTIC", lambda call, x: call.xp.sigmoid(x), "Logistic function.")
_attach("TANH", lambda call, x: call.xp.tanh(x), "Hyperbolic tangent.")
_attach("HARD_SWISH", lambda call, x: x * call.xp.relu6(x + 3.0) * (1 / 6), "``x * relu6(x + 3) / 6``.")
_attach("ELU", lambda call, x: call.xp.elu(x), "x, or exp(x) - 1 below zero.")
_attach(
    "GELU",
    lambda call, x: call.xp.gelu(x, approximate=bool(call.node.attrs.get("approximate"))),
    "x times the normal distribution function at x, or its tanh approximation.",
)
_attach(
    "LEAKY_RELU",
    lambda call, x: _leaky(call, x, float(call.node.attrs.get("alpha", 0.0))),
    "x, or alpha * x below zero.",
)
_attach("PRELU", lambda call, x: _leaky(call, x, call.array(1)), "x, or alpha * x below zero, with a learned alpha.")
_attach("SOFTMAX", _softmax, "Softmax of beta * x over the last axis.")
