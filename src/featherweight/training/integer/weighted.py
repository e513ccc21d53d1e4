"""Integer kernels of operators with weights: exact sums of products, then one factor per output channel."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from featherweight.operators import lookup, registered
from featherweight.operators.call import Array
from featherweight.operators.families.conv import LANES
from featherweight.training.graph.apart import apart
from featherweight.training.graph.registry import ops
from featherweight.training.integer import fixed_point
from featherweight.training.integer.exact_sums import is_cut
from featherweight.training.integer.int64_scope import wide
from featherweight.training.integer.step import (
    Channels,
    IntegerStep,
    bias_limit,
    in_units,
    integer,
    largest_weight,
    spread,
)
from featherweight.training.integer.straight_through import joined, reciprocal, standing_for

_KINDS = ("conv", "depthwise", "dense", "transposed")


@integer(*(op.name for op in registered() if op.has_integer_weights and op.weight_kind in _KINDS))
def weighted(step: IntegerStep) -> Array:
    """Sums of products and bias, one factor per output channel."""
    op = lookup(step.node.op)
    position = op.weight or 0
    channels, tensor = step.channels or _channels(step), step.input(position)
    inverse = spread(channels.inverse, tensor)
    weight = in_units(step.array(position), inverse, largest_weight(tensor.dtype), learns=step.learns)
    weight = _apart(step, weight)
    scales = step.scale(op.activation), step.scale(position)
    bias = None if op.bias is None else step.optional(op.bias)
    if bias is not None:
        limit = bias_limit(step.input(op.bias or 0).dtype, None if step.is_delegated else channels.factor)
        bias = in_units(bias, channels.unit_inverse, limit, learns=step.learns)
    products, sums = _sums(step, weight, bias)
    if step.is_delegated:
        return step.finished(sums, *scales, factor=channels.factor)
    is_wide = step.outputs[0].dtype == "int16"

    def exact() -> Array:
        if is_wide or products is None:
            return _sums64(step, weight, bias)
        return _with_bias64(fixed_point.real(ops.stop_gradient(products)), bias)

    if op.weight_kind == "dense":
        if step.profile.is_litert and not step.profile.is_micro and (step.profile.is_reference or is_wide):
            return _in_float64(step, sums, scales, channels.factor, exact)
        scales = scales if scales[1].shape else (joined(*scales),)
    if is_wide:
        return step.finished(sums, *scales, factor=channels.factor, rescale=step.profile.rescale_wide, exact=exact)
    as_product = _is_product(step)
    parts = [
        step.finished(sums, *scales, factor=channels.factor, rescale=rescale, exact=exact)
        for rescale, is_used in (
            (step.profile.rescale_products, as_product.any()),
            (step.profile.rescale, not as_product.all()),
        )
        if is_used
    ]
    return parts[0] if len(parts) == 1 else ops.where(as_product, *parts)


def _channels(step: IntegerStep) -> Channels:
    """Returns what scales the integers of one node."""
    op = lookup(step.node.op)
    scale = step.scale(op.weight or 0)
    unit = joined(step.scale(op.activation), scale)
    return Channels(reciprocal(scale, step.zero), reciprocal(unit, step.zero), step.over_output(unit))


def _apart(step: IntegerStep, x: Array) -> Array:
    """Returns a weight, or sums of products: computed once where a convolution is elementwise arithmetic (on JAX)."""
    return apart(x) if lookup(step.node.op).weight_kind == "depthwise" else x


def _is_product(step: IntegerStep) -> np.ndarray:
    """Returns for which output channels, or for all of them, a kernel rescales as it does after matrix products.

    Depthwise kernels do so for whole groups of channels, those of transposed and grouped convolutions never.
    """
    kind, outputs = lookup(step.node.op).weight_kind, step.outputs[0].shape[-1]
    if kind == "depthwise":
        return np.arange(outputs) < outputs - outputs % LANES
    is_grouped = kind == "conv" and step.input(0).shape[3] != step.input(1).shape[3]
    return np.array(kind != "transposed" and not is_grouped)


def _in_float64(
    step: IntegerStep, sums: Array, scales: tuple[Array, Array], real_factor: Array, exact: Callable[[], Array]
) -> Array:
    """LiteRT's reference kernel of dense layers: float64, ties away from zero."""
    with wide():
        factor = fixed_point.factor(scales, step.affine(step.outputs[0])[0], step.zero)
        value = fixed_point.leave(fixed_point.rounded_half_away_real(exact() * factor))
    return step.standing_for(value, sums * real_factor)


def product(step: IntegerStep, x: Array, weight: Array) -> Array:
    """Returns sums of products without bias, in the type of the operands."""
    op, arrays = lookup(step.node.op), list(step.arrays)
    if op.bias is not None and op.bias < len(arrays):
        arrays[op.bias] = None
    arrays[op.activation], arrays[op.weight or 0] = x, weight
    return step.in_float(*arrays)


def _sums64(step: IntegerStep, weight: Array, bias: Array | None) -> Array:
    """Returns sums of products plus bias in float64; inside `wide`."""
    x = fixed_point.real(step.array(lookup(step.node.op).activation))
    return _with_bias64(product(step, ops.stop_gradient(x), ops.stop_gradient(fixed_point.real(weight))), bias)


def _with_bias64(products: Array, bias: Array | None) -> Array:
    return products if bias is None else products + fixed_point.real(ops.stop_gradient(bias))


def _sums(step: IntegerStep, weight: Array, bias: Array | None) -> tuple[Array | None, Array]:
    """Returns (sums of products, those plus bias); None for the former where they are not exact in float32.

    There, sums over chunks of input channels are added in int32. (Where sums can't be cut, the bias alone is: large
    ones come with weights that are all but zero.) A bias beyond 2**24 leaves the products exact, and what float32
    rounds their sum to is what XNNPACK makes a float32 of.
    """
    x = step.array(lookup(step.node.op).activation)
    if step.chunks == 1:
        products = _apart(step, product(step, x, weight))
        return products, products if bias is None else products + bias
    chunks = step.chunks if is_cut(step.node.op, x.shape[-1], weight.shape[-1]) else 1
    parts = [product(step, *pair) for pair in zip(cut(x, chunks), cut(weight, chunks), strict=True)]
    whole, surrogate = sum(ops.cast(part, "int32") for part in parts), sum(parts)
    if bias is not None:
        whole, surrogate = whole + ops.cast(bias, "int32"), surrogate + bias
    return None, standing_for(ops.cast(whole, "float32"), surrogate)


def cut(x: Array, chunks: int) -> list[Array]:
    """Cuts the last axis into parts of about the same size, each of one element at least."""
    edges = sorted({x.shape[-1] * index // chunks for index in range(chunks + 1)})
    return [x[..., low:high] for low, high in pairwise(edges)]
