"""What all operators with weights share: centred operands, scales of every output channel, the final rescale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from featherweight.numerics import integer_range, round_half_away
from featherweight.ops.calls import Call
from featherweight.ops.products import exact_type

# XNNPACK takes a node only where every input scale * weight scale / output scale is below this (its operators' checks).
_DELEGATE_LIMIT = np.float32(256)


@dataclass(frozen=True, eq=False)
class Weighted:
    """The operands of one operator with weights, ready to multiply.

    Attributes:
        x: activations less their zero point, in the exact type.
        weight: weights less their zero point, (channels, depth), in the exact type.
        bias: one integer per channel, or None.
        scales: input scale × weight scale / output scale, one per channel or one.
        dtype: float type in which all sums are exact.
    """

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    scales: np.ndarray
    dtype: type


def placed(call: Call, x_position: int = 0, *, takes: bool = True) -> Call:
    """Returns the call in the arithmetic that runs it: XNNPACK takes int8 with scales in its window."""
    quant = call.input(1).quant
    if not call.profile.is_delegate or quant is None:
        return call
    products = call.affine(call.input(x_position))[0] * np.asarray(quant.scale, np.float32)
    takes = takes and call.input(x_position).dtype == "int8"
    takes = takes and bool((products / call.affine(call.outputs[0])[0] < _DELEGATE_LIMIT).all())
    return call if takes else call.fallen_back()


def prepare(call: Call, weight: np.ndarray, *, x_position: int = 0, bias_position: int = 2) -> Weighted:
    """Centres activations and the weight of shape (channels, depth), and finds the type in which sums are exact."""
    x_tensor, weight_tensor = call.input(x_position), call.input(1)
    quant = weight_tensor.quant
    if weight_tensor.dtype != "int8" or quant is None or not quant.scale:
        raise call.unsupported(f"weights of type {weight_tensor.dtype} are not supported (supported: int8 with scales)")
    if any(quant.zero_point):
        raise call.unsupported("weights with a zero point other than 0 are not supported")
    if call.outputs[0].dtype != x_tensor.dtype:
        raise call.unsupported(f"outputs of type {call.outputs[0].dtype} from {x_tensor.dtype} are not supported")
    if x_tensor.dtype == "int16" and call.optional(bias_position) is not None:
        bias_tensor = call.input(bias_position)
        if bias_tensor.dtype != "int64":
            raise call.unsupported(f"int16 activations with a bias of {bias_tensor.dtype} are not supported (int64 is)")
    zero_point = call.affine(x_tensor)[1]
    qmin, qmax = integer_range(x_tensor.dtype)
    bias = call.optional(bias_position)
    bias = None if bias is None else bias.reshape(-1)
    dtype = exact_type(weight, max(abs(qmin - zero_point), abs(qmax - zero_point)), bias, call)
    x = call.array(x_position).astype(dtype)
    if zero_point:
        x -= dtype(zero_point)
    scales = _output_scales(call, np.asarray(quant.scale, np.float32), x_position)
    return Weighted(x, weight.astype(dtype), bias, scales, dtype)


def float_weight(call: Call) -> np.ndarray:
    """Returns the weight of a float operator.

    Raises:
        UnsupportedOp: if it is quantized (the hybrid form).
    """
    if call.input(1).dtype != "float32":
        raise call.unsupported(f"float activations with {call.input(1).dtype} weights are not supported")
    return call.array(1)


def _output_scales(call: Call, weight_scales: np.ndarray, x_position: int) -> np.ndarray:
    """Returns the real factors as the kernels compute them.

    XNNPACK: all in float32. LiteRT: in float64, but a dense layer with one scale multiplies the first two in float32
    (GetQuantizedConvolutionMultipler).
    """
    x_scale, out_scale = call.affine(call.input(x_position))[0], call.affine(call.outputs[0])[0]
    if call.profile.is_delegate:
        return (x_scale * weight_scales) / out_scale
    if call.node.op == "FULLY_CONNECTED" and weight_scales.size == 1:
        return (x_scale * weight_scales).astype(np.float64) / np.float64(out_scale)
    return np.float64(x_scale) * weight_scales.astype(np.float64) / np.float64(out_scale)


def finisher(
    call: Call, operands: Weighted, channels: slice = slice(None), *, is_product: bool = True
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from sums of products (…, channels) to output integers: bias, rescale, clip.

    `is_product` says that the kernel is a matrix product, for which a profile may have an arithmetic of its own.
    """
    bias = None if operands.bias is None else operands.bias[channels].astype(operands.dtype)
    scales = operands.scales[channels] if operands.scales.size > 1 else operands.scales
    is_wide = call.outputs[0].dtype == "int16"
    rescale = _rescaler(call, scales, is_wide=is_wide, is_product=is_product)
    # Sums that float32 holds exactly can't leave 32 bits.
    may_overflow = not is_wide and operands.dtype is np.float64

    def finish(sums: np.ndarray) -> np.ndarray:
        if bias is not None:
            sums = sums + bias
        if may_overflow:
            call.check_accumulator(sums, 32)
        return rescale(sums)

    return finish


def _rescaler(call: Call, scales: np.ndarray, *, is_wide: bool, is_product: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from accumulators to output integers."""
    profile = call.profile
    if profile.is_delegate:
        return lambda sums: call.delegated(sums, scales)
    # LiteRT's reference kernel of dense layers, which also runs int16 everywhere, rescales in float64.
    if call.node.op == "FULLY_CONNECTED" and profile.is_litert and (profile.is_reference or is_wide):
        return lambda sums: call.finish(round_half_away(sums.astype(np.float64) * scales))
    multiplier, shift = call.multiplier(scales)
    chosen = profile.rescale_wide if is_wide else profile.rescale_products if is_product else profile.rescale
    return lambda sums: call.finish(chosen(sums.astype(np.int64), multiplier, shift))
