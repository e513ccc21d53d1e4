"""Integer kernels of sums, products, differences, comparisons and slopes of two operands, element by element."""

from __future__ import annotations

import numpy as np

from featherweight.operators.call import Array, is_static
from featherweight.operators.fixed_point import rescale_twice
from featherweight.training.graph.registry import ops
from featherweight.training.integer import fixed_point
from featherweight.training.integer.int64_scope import wide
from featherweight.training.integer.step import IntegerStep, integer, whole_number
from featherweight.training.integer.straight_through import binary_exponent, joined, power_of_two

# Bits that LiteRT's kernels shift operands left by before they bring them to one scale.
_DIFFERENCE_BITS, _COMPARISON_BITS = 7, 8


@integer("ADD", "SUB")
def added(step: IntegerStep) -> Array:
    """Two multipliers, one sum, one rounding shift (XNNPACK: 21 bits) or one more multiplier."""
    sign = 1 if step.node.op == "ADD" else -1
    ratios = step.over_output(step.scale(0)), step.over_output(step.scale(1))
    value = _delegated_sum(step, ratios, sign) if step.is_delegated else _fixed_sum(step, sign)
    return step.standing_for(value, step.array(0) * ratios[0] + sign * (step.array(1) * ratios[1]))


def _delegated_sum(step: IntegerStep, ratios: tuple[Array, Array], sign: int) -> Array:
    shift = 20 - binary_exponent(_larger(*ratios))
    one = power_of_two(shift)
    x, z = (ops.cast(step.array(at), "int32") * whole_number(ratio * one) for at, ratio in enumerate(ratios))
    half = 1 << (int(shift) - 1) if is_static(shift) else ops.left_shift(ops.ones_like(shift), shift - 1)
    return ops.cast(ops.right_shift(x + sign * z + half, int(shift) if is_static(shift) else shift), "float32")


def _fixed_sum(step: IntegerStep, sign: int) -> Array:
    """Both operands are shifted left, brought to twice the larger scale, added and rescaled (LiteRT add.cc)."""
    scales, rescale = (step.scale(0), step.scale(1)), step.profile.rescale
    left = np.float32(1 << (20 if step.outputs[0].dtype == "int8" else 15))
    twice = 2 * _larger(*scales)
    with wide():
        x, z = (
            fixed_point.rescaled(
                fixed_point.real(step.array(at)) * float(left), fixed_point.factor((scale,), twice, step.zero), rescale
            )
            for at, scale in enumerate(scales)
        )
        factor = fixed_point.factor((twice,), step.affine(step.outputs[0])[0] * left, step.zero)
        return fixed_point.leave(fixed_point.rescaled(x + sign * z, factor, rescale))


def _larger(x: Array, z: Array) -> Array:
    return max(x, z) if is_static(x) and is_static(z) else ops.maximum(x, z)


@integer("MUL")
def multiplied(step: IntegerStep) -> Array:
    """One product, one factor, which is computed in float32 (on TFLM in float64)."""
    scales = step.scale(0), step.scale(1)
    products, scale = step.array(0) * step.array(1), joined(*scales)
    if step.is_delegated:
        return step.finished(products, scale)
    factor = step.over_output(scale)
    with wide():
        exact = fixed_point.real(step.array(0)) * fixed_point.real(step.array(1))
        out_scale, is_micro = step.affine(step.outputs[0])[0], step.profile.is_micro
        real = fixed_point.factor(scales, out_scale, step.zero) if is_micro else fixed_point.real(factor)
        value = fixed_point.leave(fixed_point.rescaled(exact, real, step.profile.rescale))
    return step.standing_for(value, products * factor)


@integer("SQUARED_DIFFERENCE")
def squared_difference(step: IntegerStep) -> Array:
    """Both operands are shifted left, brought to twice the larger scale, subtracted, squared and rescaled."""
    scales, rescale = (step.scale(0), step.scale(1)), step.profile.rescale
    twice = 2 * _larger(*scales)
    with wide():
        x, z = (
            fixed_point.rescaled(
                fixed_point.real(step.array(at)) * float(1 << _DIFFERENCE_BITS),
                fixed_point.factor((scale,), twice, step.zero),
                rescale,
            )
            for at, scale in enumerate(scales)
        )
        out_scale = step.affine(step.outputs[0])[0] * np.float32(1 << 2 * _DIFFERENCE_BITS)
        factor = fixed_point.factor((twice, twice), out_scale, step.zero)
        value = fixed_point.leave(fixed_point.rescaled((x - z) * (x - z), factor, rescale))
    real = step.in_float(*(step.array(at) * scale for at, scale in enumerate(scales)))
    return step.standing_for(value, ops.divide(real, step.affine(step.outputs[0])[0]))


@integer("PRELU")
def prelu(step: IntegerStep) -> Array:
    """One factor at zero and above, another one below."""
    x, rescale = step.array(0), step.profile.rescale
    factors = step.over_output(step.scale(0)), step.over_output(joined(step.scale(0), step.scale(1)))
    with wide():
        integers = fixed_point.whole(x)
        sides = [
            fixed_point.rescaled(part, fixed_point.real(factor), rescale)
            for part, factor in zip((integers, integers * fixed_point.whole(step.array(1))), factors, strict=True)
        ]
        value = fixed_point.leave(ops.where(integers >= 0, *sides))
    return step.standing_for(value, ops.where(x >= 0, x * factors[0], x * step.array(1) * factors[1]))


@integer("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
def compared(step: IntegerStep) -> Array:
    """Compares real values in units of 1/256: nearer ones count as equal. Kernels for the order of int16 don't."""
    if step.input(0).dtype == "int8" or step.node.op in ("EQUAL", "NOT_EQUAL"):
        return step.in_float(_coarse(step, 0), _coarse(step, 1))
    return step.in_float(step.array(0), step.array(1))


def _coarse(step: IntegerStep, position: int) -> Array:
    """Returns an operand's real value in units of 1/256, rounded, as LiteRT's comparisons.h does.

    Raises:
        UnsupportedOp: if its scale is one or larger: LiteRT shifts by a negative number of bits.
    """
    scale = step.scale(position)
    if is_static(scale) and scale >= 1:
        raise step.unsupported(f"a scale of {float(scale):g} is not supported (by LiteRT neither; allowed: below 1)")
    with wide():
        shifted = ops.left_shift(fixed_point.whole(step.array(position)), np.int64(_COMPARISON_BITS))
        return fixed_point.leave(fixed_point.rescaled(shifted, fixed_point.real(scale), rescale_twice))
