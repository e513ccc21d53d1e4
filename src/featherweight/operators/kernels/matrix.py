"""What all operators with weights share: centred operands, scales of every output channel, the final rescale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from featherweight.graph import Tensor
from featherweight.graph.numerics import integer_range, round_half_away
from featherweight.operators.call import Call
from featherweight.operators.fixed_point import truncated
from featherweight.operators.kernels.products import exact_type
from featherweight.operators.record import lookup

# XNNPACK takes a node only where every input scale * weight scale / output scale is below this (its operators' checks).
_DELEGATE_LIMIT = np.float32(256)

# The attribute quantized_bias_type, by number or name.
_INT32, _INT64 = (2, "INT32"), (4, "INT64")


@dataclass(frozen=True, eq=False)
class Weighted:
    """The operands of one operator with weights, ready to multiply.

    Attributes:
        x: activations less their zero point, in the exact type.
        weight: weights less their zero point, (channels, depth), in the exact type.
        bias: one integer per channel, or None.
        scales: input scale × weight scale / output scale, one per channel or one.
        dtype: float type in which all sums are exact.
        is_wide: the kernel accumulates in 64 bits.
    """

    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    scales: np.ndarray
    dtype: type
    is_wide: bool


def delegate_takes(call: Call, x_position: int = 0) -> bool:
    """True where XNNPACK takes an operator with weights: int8 with scales in its window, that of the bias included.

    Of int4 weights it takes those of dense layers, of an even depth. A bias without a scale it does not take.
    """
    x, weight, bias = call.input(x_position), call.input(1), lookup(call.node.op).bias
    if weight.quant is None:
        return True
    added = call.inputs[bias] if bias is not None and bias < len(call.inputs) else None
    if added is not None and added.dtype == "int32" and added.quant is None:
        return False
    if weight.dtype == "int4" and (not _is_dense(call) or weight.shape[-1] % 2):
        return False
    if x.dtype == "float32":
        return True
    products = call.affine(x)[0] * np.asarray(weight.quant.scale, np.float32)
    return x.dtype == "int8" and bool((products / call.affine(call.outputs[0])[0] < _DELEGATE_LIMIT).all())


def _is_dense(call: Call) -> bool:
    return lookup(call.node.op).weight_kind == "dense"


def prepare(call: Call, weight: np.ndarray, *, x_position: int = 0, bias_position: int = 2) -> Weighted:
    """Centres activations and the weight of shape (channels, depth), and finds the type in which sums are exact."""
    x_tensor, weight_tensor = call.input(x_position), call.input(1)
    quant = weight_tensor.quant
    allowed = ("int8", "int4") if x_tensor.dtype in lookup(call.node.op).nibbles else ("int8",)
    if weight_tensor.dtype not in allowed or quant is None or not quant.scale:
        raise call.unsupported(
            f"{x_tensor.dtype} activations with weights of type {weight_tensor.dtype} are not supported (supported: "
            f"{' and '.join(allowed)}, with scales)"
        )
    if any(quant.zero_point):
        raise call.unsupported("weights with a zero point other than 0 are not supported")
    _check_output(call, x_tensor)
    bias, bias_type = call.optional(bias_position), None
    if bias is not None:
        bias, bias_type = bias.reshape(-1), call.input(bias_position).dtype
        if x_tensor.dtype == "int16":
            _check_bias(call, call.input(bias_position))
    dtype = exact_type(weight, _largest(call, x_tensor), bias, call)
    is_wide = x_tensor.dtype == "int16" and not _accumulates_short(call, bias_type)
    scales = _output_scales(call, np.asarray(quant.scale, np.float32), x_position, is_wide=is_wide)
    return Weighted(_centred(call, x_position, dtype), weight.astype(dtype), bias, scales, dtype, is_wide)


def _check_bias(call: Call, bias: Tensor) -> None:
    """Raises where kernels for int16 activations would read a bias of another type than it is."""
    wanted = "int32" if _accumulates_short(call, bias.dtype) else "int64"
    if bias.dtype != wanted:
        raise call.unsupported(
            f"int16 activations with a bias of {bias.dtype}, where LiteRT reads {wanted}, are not supported"
        )


def _accumulates_short(call: Call, bias: str | None) -> bool:
    """Returns True where a kernel for int16 activations accumulates in 32 bits, and takes int32 biases.

    That is where `quantized_bias_type` says so, and in LiteRT's optimized dense layer without an int64 bias.
    """
    declared = call.node.attrs.get("quantized_bias_type", 0)
    if _is_dense(call) and call.profile.is_vectorized:
        return declared not in _INT64 and bias != "int64"
    return declared in _INT32


def _rescales_really(call: Call, *, is_wide: bool) -> bool:
    """Returns True for LiteRT's reference kernel of dense layers, which also runs int64 biases: it uses float64."""
    profile = call.profile
    return _is_dense(call) and profile.is_litert and not profile.is_micro and (profile.is_reference or is_wide)


def prepare_pair(call: Call) -> Weighted:
    """Centres both operands of a matrix product, each with one scale; they keep their shapes."""
    x_tensor, y_tensor = call.input(0), call.input(1)
    _check_output(call, x_tensor)
    if (x_tensor.dtype, y_tensor.dtype) not in (("int8", "int8"), ("int16", "int16"), ("int16", "int8")):
        raise call.unsupported(f"{x_tensor.dtype} times {y_tensor.dtype} is not supported")
    scale = call.affine(y_tensor)[0]
    y = _centred(call, 1, np.float64)
    sides = y if call.node.attrs.get("adj_y") else np.swapaxes(y, -1, -2)
    dtype = exact_type(sides.reshape(-1, sides.shape[-1]), _largest(call, x_tensor), None, call)
    is_wide = x_tensor.dtype == "int16"
    scales = _output_scales(call, np.asarray([scale]), 0, is_wide=is_wide)
    return Weighted(_centred(call, 0, dtype), y.astype(dtype, copy=False), None, scales, dtype, is_wide)


def _check_output(call: Call, x_tensor: Tensor) -> None:
    if call.outputs[0].dtype != x_tensor.dtype:
        raise call.unsupported(f"outputs of type {call.outputs[0].dtype} from {x_tensor.dtype} are not supported")


def _largest(call: Call, tensor: Tensor) -> int:
    """Returns the largest magnitude of an integer of a tensor less its zero point."""
    zero_point, (qmin, qmax) = call.affine(tensor)[1], integer_range(tensor.dtype)
    return max(abs(qmin - zero_point), abs(qmax - zero_point))


def _centred(call: Call, position: int, dtype: type) -> np.ndarray:
    """Returns an input's integers less their zero point, in a float type."""
    x, zero_point = call.array(position).astype(dtype), call.affine(call.input(position))[1]
    if zero_point:
        x -= dtype(zero_point)
    return x


def _output_scales(call: Call, weight_scales: np.ndarray, x_position: int, *, is_wide: bool) -> np.ndarray:
    """Returns the real factors as the kernels compute them.

    XNNPACK: all in float32. LiteRT: in float64, but a dense layer with one scale, or a matrix product, multiplies the
    first two in float32 (GetQuantizedConvolutionMultipler).
    """
    x_scale, out_scale = call.affine(call.input(x_position))[0], call.affine(call.outputs[0])[0]
    if call.profile.is_delegate:
        return (x_scale * weight_scales) / out_scale
    is_joined = (_is_dense(call) or lookup(call.node.op).weight is None) and weight_scales.size == 1
    if is_joined and not _rescales_really(call, is_wide=is_wide):
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
    rescale = _rescaler(call, scales, is_wide=operands.is_wide, is_product=is_product)
    # Sums that float32 holds exactly can't leave 32 bits. Of 64-bit accumulators, kernels rescale 48 bits.
    bits = 48 if operands.is_wide else 32
    may_overflow = operands.dtype is np.float64

    def finish(sums: np.ndarray) -> np.ndarray:
        if bias is not None:
            sums = sums + bias
        if may_overflow:
            call.check_accumulator(sums, bits)
        return rescale(sums)

    return finish


def _rescaler(call: Call, scales: np.ndarray, *, is_wide: bool, is_product: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from accumulators to output integers."""
    profile = call.profile
    if profile.is_delegate:
        return lambda sums: call.delegated(sums, scales)
    if _rescales_really(call, is_wide=is_wide):
        return lambda sums: call.finish(truncated(round_half_away(sums.astype(np.float64) * scales)))
    multiplier, shift = call.multiplier(scales)
    chosen = profile.rescale_wide if is_wide else profile.rescale_products if is_product else profile.rescale
    return lambda sums: call.finish(chosen(sums.astype(np.int64), multiplier, shift))
