"""Functions of one number: absolute value, roots, exponentials, rounding. Sources: LiteRT elementwise.cc and exp.cc."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.errors import DataError
from featherweight.graph.numerics import storage_dtype
from featherweight.operators.call import Array, Call
from featherweight.operators.fixed_point import inverse_square_root, truncated
from featherweight.operators.function_limits import refused_root
from featherweight.operators.kernels.interpolation import libm, tabulated
from featherweight.operators.limits import refused_rescaling
from featherweight.operators.record import Op, definition, kernel, register
from featherweight.operators.relevance import of_exponential

register(
    Op(
        "ABS",
        "AbsOptions",
        axes="same",
        is_even=True,
        channels_first=True,
        versions={"int8": 2, "int16": 3},
        refused=refused_rescaling,
    )
)
register(Op("NEG", "NegOptions", axes="same", channels_first=True))
register(
    Op(
        "RSQRT",
        axes="same",
        channels_first=True,
        is_steep_at_zero=True,
        is_of_positive=True,
        versions={"int8": 2, "int16": 3},
        is_curved=True,
        is_factor=True,
        refused=refused_root,
    )
)
register(
    Op(
        "EXP",
        "ExpOptions",
        axes="same",
        channels_first=True,
        versions={"int8": 2, "int16": 2},
        is_curved=True,
        relevant=of_exponential,
    )
)
_ROOT: dict[str, Any] = {"axes": "same", "channels_first": True, "is_steep_at_zero": True, "is_curved": True}
register(Op("SQRT", is_of_positive=True, is_factor=True, versions={"int8": 2, "int16": 2}, **_ROOT))
register(Op("LOG", versions={"int8": 2, "int16": 2}, **_ROOT))
for _name, _options in (("SQUARE", "SquareOptions"), ("COS", "CosOptions")):
    register(Op(_name, _options, axes="same", is_even=True, channels_first=True))
register(Op("SIGN", "SignOptions", axes="same"))  # not tried with channels first
for _name in ("SIN", "FLOOR", "CEIL", "ROUND"):
    register(Op(_name, axes="same", channels_first=True))

# Bits that keep the reciprocal root of an integer from vanishing.
_ROOT_BITS = 20


@kernel("ABS", "int8", "int16")
def absolute(call: Call) -> tuple[np.ndarray, ...]:
    """Absolute value, rescaled where the scales differ."""
    (in_scale, in_zero), (out_scale, _) = call.affine(call.input(0)), call.affine(call.outputs[0])
    values = np.abs(call.array(0).astype(np.int64) - in_zero)
    if in_scale != out_scale:
        values = call.fallen_back().rescaled(values, np.float64(in_scale / out_scale))
    return (call.finish(values),)


@kernel("NEG", "int8", "int16")
def negative(call: Call) -> tuple[np.ndarray, ...]:
    """Negative value of symmetric integers; the least one stays what it is."""
    found = call.affine(call.input(0)), call.affine(call.outputs[0])
    if found[0] != found[1] or found[0][1] != 0:
        raise call.unsupported(
            "parameters other than one scale for input and output and zero points of 0 are not supported (LiteRT "
            "negates the integers as they are)"
        )
    return (-call.array(0),)


def _check_domain(call: Call) -> None:
    """Raises where LiteRT ends a run with an error: at the root of a negative number.

    Raises:
        DataError: naming the node and how many values are negative.
    """
    wrong = int((call.array(0) < call.affine(call.input(0))[1]).sum())
    if wrong:
        raise DataError(
            f"{call.place}: {wrong} of {call.array(0).size} input values are negative, and roots of them are not "
            "defined (LiteRT ends with an error). Quantize its input with a range that begins at zero."
        )


@kernel("SQRT", "int8", "int16")
def square_root(call: Call) -> tuple[np.ndarray, ...]:
    """Square root in float32, cut to an integer.

    Raises:
        DataError: if a value is negative.
    """
    _check_domain(call)
    (in_scale, in_zero), (out_scale, _) = call.affine(call.input(0)), call.affine(call.outputs[0])
    roots = np.sqrt(in_scale * (call.array(0).astype(np.int32) - in_zero).astype(np.float32))
    return (call.finish(truncated(roots / out_scale)),)


@kernel("RSQRT", "int8")
def reciprocal_root(call: Call) -> tuple[np.ndarray, ...]:
    """1 / sqrt(x) in fixed point; zero gives the largest integer.

    Raises:
        DataError: if a value is negative.
    """
    _check_domain(call)
    (in_scale, in_zero), (out_scale, _) = call.affine(call.input(0)), call.affine(call.outputs[0])
    call = call.fallen_back()
    x = call.array(0).astype(np.int64) - in_zero
    multiplier, shift = inverse_square_root(x)
    roots = call.profile.rescale(np.ones_like(x), multiplier, shift + _ROOT_BITS)
    out_multiplier, out_shift = call.multiplier(1.0 / (np.float64(np.sqrt(in_scale)) * np.float64(out_scale)))
    values = call.finish(call.profile.rescale(roots, out_multiplier, out_shift - _ROOT_BITS))
    return (np.where(x == 0, np.int8(127), values),)


@kernel("RSQRT", "int16")
def reciprocal_root_of_16(call: Call) -> tuple[np.ndarray, ...]:
    """1 / sqrt(x), from a table; zero gives the largest integer.

    Raises:
        DataError: if a value is negative.
    """
    _check_domain(call)
    largest = np.float32(32767) * call.affine(call.outputs[0])[0]

    def function(x: np.ndarray) -> np.ndarray:
        roots = np.float32(1) / np.sqrt(np.maximum(x, np.float32(1e-38)))
        return np.where(x <= 0, largest, roots)

    return (tabulated(call, function),)


@kernel("EXP", "int8", "int16")
def exponential(call: Call) -> tuple[np.ndarray, ...]:
    """Exponential, from a table."""
    return (tabulated(call, libm("exp")),)


@kernel("LOG", "int8", "int16")
def logarithm(call: Call) -> tuple[np.ndarray, ...]:
    """Natural logarithm, from a table; the least integer at zero and below."""
    (scale, zero_point), low = call.affine(call.outputs[0]), np.iinfo(storage_dtype(call.outputs[0].dtype)).min
    least = np.float32(low - zero_point) * scale
    log = libm("log")

    def function(x: np.ndarray) -> np.ndarray:
        return np.where(x <= 0, least, log(np.maximum(x, np.float32(1e-38))))

    return (tabulated(call, function),)


def _attach(op: str, function: str, *dtypes: str) -> None:
    def computed(call: Call) -> tuple[Array, ...]:
        with np.errstate(all="ignore"):  # infinities and NaN go through, as in LiteRT
            return (getattr(call.xp, function)(call.array(0)),)

    computed.__doc__ = f"{function} of every element."
    definition(op, "float32", *dtypes)(computed)


_attach("ABS", "abs", "int32")
_attach("NEG", "negative", "int32", "int64")
for _name in ("SQRT", "RSQRT", "EXP", "LOG", "SIN", "COS", "SQUARE", "FLOOR", "CEIL", "ROUND", "SIGN"):
    _attach(_name, _name.lower())
