"""Hybrid (dynamic-range) kernels as differentiable functions: LiteRT's integers and float32 operations, in its order.

Float activations are quantized row by row on the way, multiplied by integer weights, and become floats again. The
arithmetic is that of `operators.kernels` (`hybrid`, `rows` and `blocks`), where the sources are named: XNNPACK's, and
of LiteRT's own kernels that of the operators which XNNPACK leaves alone. Rows have ranges of their own, so no
activation is ever clipped, and gradients pass through their quantization as through the identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from featherweight.graph import Graph, Node
from featherweight.graph.numerics import integer_range
from featherweight.operators import lookup
from featherweight.operators.call import Array
from featherweight.operators.geometry import padding_of, strides_of
from featherweight.operators.profiles import Profile
from featherweight.operators.record import HYBRID_FORMS
from featherweight.training.graph.registry import Function, ops
from featherweight.training.integer.hybrid_blocks import block_products, quantized_blocks
from featherweight.training.integer.hybrid_rows import Rows, asymmetric_rows, delegated_rows
from featherweight.training.integer.int64_scope import real_product_sum
from featherweight.training.integer.step import IntegerStep, quantized_weight, spread
from featherweight.training.integer.straight_through import bounded, standing_for
from featherweight.training.integer.weighted import cut, product

# The largest magnitude of an activation less its zero point, and the first sum that float32 might not hold.
_LARGEST, _LIMIT = 255, 1 << 24
# The optimized depthwise kernel computes so many channels at a time, and the rest one by one.
_LANES = 4
# No activation is as large.
_FAR = 1e38
_KERNELS: dict[str, Function] = {}


def is_hybrid(node: Node, graph: Graph) -> bool:
    """True where a node multiplies float activations by, or picks float rows of, a constant stored in integers."""
    op = lookup(node.op)
    name = op.input_of(node, op.weight)
    return bool(name) and graph.tensors[name].is_constant and op.form(node, graph) in HYBRID_FORMS


def hybrid_function(op: str, profile: Profile) -> Function | None:
    """Returns the training kernel of an operator's hybrid form, or None where it has none in that arithmetic."""
    record = lookup(op)
    return _KERNELS.get(record.weight_kind) if record.has_integer_weights and profile.is_delegate else None


def _hybrid(kind: str) -> Callable[[Callable[[Any], Array]], Callable[[Any], Array]]:
    def attach(computes: Callable[[Any], Array]) -> Callable[[Any], Array]:
        _KERNELS[kind] = lambda step: (computes(step),)
        return computes

    return attach


@_hybrid("dense")
def fully_connected(step: IntegerStep) -> Array:
    """Dense layer: a range for every row; weights with one scale, one per channel, or one per block.

    Raises:
        UnsupportedOp: if LiteRT's own kernel runs it without zero points.
    """
    x, weight = step.array(0), step.input(1)
    depth, quant = weight.shape[1], weight.quant
    if x.shape[-1] != depth or not (step.node.attrs.get("keep_num_dims") or len(x.shape) == 2):
        x = ops.reshape(x, (-1, depth))
    if quant is not None and quant.block_size is not None:
        return step.clamp(block_products(step, delegated_rows(x, (-1,), step.zero), quant.block_size, _bias(step)))
    if weight.dtype == "int4" and depth % 2:  # XNNPACK takes int4 weights of an even depth only
        if not step.node.attrs.get("asymmetric_quantize_inputs"):
            raise step.unsupported(f"int4 weights of {depth} (odd) inputs, quantized symmetrically, are not supported")
        rows = asymmetric_rows(x, (-1,), step.zero)
        return step.clamp(_biased(_sums(step, rows), _kept(_scales(step) * rows.scales), _bias(step)))
    return _delegated(step, delegated_rows(x, (-1,), step.zero))


@_hybrid("conv")
def conv_2d(step: IntegerStep) -> Array:
    """Convolution: a range for every image; of pointwise ones, which XNNPACK makes dense layers, for every pixel."""
    x, shape = step.array(0), step.input(1).shape
    is_pointwise = tuple(shape[1:3]) == strides_of(step) == (1, 1) and x.shape[-1] == shape[3]
    return _delegated(step, delegated_rows(x, (-1,) if is_pointwise else (1, 2, 3), step.zero))


@_hybrid("transposed")
def transpose_conv(step: IntegerStep) -> Array:
    """Transposed convolution: a range for every image.

    Raises:
        UnsupportedOp: if XNNPACK leaves it alone: a kernel smaller than its stride, that would need padding.
    """
    sizes, strides = step.input(1).shape[1:3], strides_of(step)
    if padding_of(step) == "same" and (sizes[0] < strides[0] or sizes[1] < strides[1]):
        raise step.unsupported(f"a hybrid kernel of {list(sizes)} with larger strides {list(strides)} is not supported")
    return _delegated(step, delegated_rows(step.array(2), (1, 2, 3), step.zero))


@_hybrid("depthwise")
def depthwise_conv_2d(step: IntegerStep) -> Array:
    """Depthwise convolution, in LiteRT's optimized kernel: XNNPACK does not take it. A range for every image.

    Raises:
        UnsupportedOp: if the weight has one scale for all channels, which that kernel reads past.
    """
    scales, bias, channels = _scales(step), _bias(step), step.input(1).shape[3]
    quant = step.input(1).quant
    if quant is None or len(quant.scale) != channels:
        raise step.unsupported(f"a hybrid weight with one scale for {channels} channels is not supported")
    rows = asymmetric_rows(step.array(0), (1, 2, 3), step.zero)
    sums = _sums(step, rows)
    vectors = _biased(_kept(sums * scales), rows.scales, bias)
    rest = _biased(_kept(sums * rows.scales), scales, bias)
    is_vector = np.arange(channels) < channels // _LANES * _LANES
    return step.clamp(ops.where(ops.convert_to_tensor(is_vector), vectors, rest))


@_hybrid("embedding")
def embedding_lookup(step: IntegerStep) -> Array:
    """Rows of a quantized table, as real numbers."""
    quant = step.input(1).quant
    if quant is not None and quant.block_size is not None:
        integers, scales = quantized_blocks(step, quant.block_size)
        table = integers * ops.repeat(scales, quant.block_size, axis=1)
        return _kept(ops.take(table, step.array(0), axis=0))
    scale = spread(step.scale(1), step.input(1))
    table = quantized_weight(step.array(1), scale, step.input(1).dtype, step.zero) * scale
    return _kept(ops.take(table, step.array(0), axis=0))


def _delegated(step: IntegerStep, rows: Rows) -> Array:
    """XNNPACK: the sum times the row's scale, then times the weight's plus the bias in one rounding."""
    scales, bias = _scales(step), _bias(step)
    sums = _sums(step, rows) * rows.scales
    value = real_product_sum(*(ops.stop_gradient(ops.convert_to_tensor(part)) for part in (sums, scales, bias)))
    return step.clamp(standing_for(value, sums * scales + bias))


def _biased(sums: Array, scales: Array, bias: Array) -> Array:
    return _kept(sums * scales) + bias


def _kept(product: Array) -> Array:
    """Returns a product that stays one: XLA contracts a product with a sum, TensorFlow reorders products of three."""
    return bounded(product, -_FAR, _FAR)


def _scales(step: IntegerStep) -> Array:
    """Returns the weight's scales along the last axis of the output, or its one scale."""
    return ops.convert_to_tensor(step.scale(1))


def _bias(step: IntegerStep) -> Array:
    """Returns the bias, float32, along the last axis of the output; a zero where there is none."""
    position = lookup(step.node.op).bias
    bias = None if position is None else step.optional(position)
    return ops.zeros((1,), "float32") if bias is None else ops.reshape(bias, (-1,))


def _sums(step: IntegerStep, rows: Rows) -> Array:
    """Returns sums of products of integers, rounded once to float32.

    They are cut into parts of input channels that float32 holds whatever the weights become, and added as int32.

    Raises:
        UnsupportedOp: if not even a part for each channel is small enough, or channels are in groups.
    """
    tensor = step.input(1)
    weight = quantized_weight(step.array(1), spread(step.scale(1), tensor), tensor.dtype, step.zero)
    taps, channels = math.prod(tensor.shape[1:-1]), tensor.shape[-1]
    if lookup(step.node.op).weight_kind == "depthwise":
        channels = 1
    room = (_LIMIT // (_LARGEST * integer_range(tensor.dtype)[1])) // taps
    if channels <= room:
        return product(step, rows.centred, weight)
    if room == 0 or rows.centred.shape[-1] != channels:
        raise step.unsupported(f"hybrid sums of {taps * channels} products are not supported")
    count = -(-channels // room)
    pairs = zip(cut(rows.centred, count), cut(weight, count), strict=True)
    parts = [product(step, *pair) for pair in pairs]
    whole = sum(ops.cast(ops.stop_gradient(part), "int32") for part in parts)
    return standing_for(ops.cast(whole, "float32"), sum(parts))
