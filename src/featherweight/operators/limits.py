"""What LiteRT's integer kernels can't compute: where they end with an error, end the process, or give nonsense.

Each function says what of a call is beyond its kernel, or None, from types, shapes and scales alone. Source: the
kernels' Prepare functions and arithmetic (LiteRT 2.3, tflite/kernels), confirmed on the runtime from both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from featherweight.graph import Tensor
from featherweight.operators.call import FUSED_BOUNDS, Call, fused_activation
from featherweight.operators.fixed_point import binary_exponent

# Bits by which sums shift their operands left before they bring them to one scale (add.cc, sub.cc).
SUM_BITS = {"int8": 20, "int16": 15}
# By which differences that are squared do (squared_difference.cc).
SQUARE_BITS = 7
# A rescaling factor of 2**31 and more shifts by more bits than a number has.
_LARGEST_FACTOR = 2.0**31
# The 64-bit accumulators of int16 products are cut to 16 bits of the multiplier, which leaves 14 bits to shift left.
_LARGEST_WIDE_FACTOR = 2.0**14
# XNNPACK makes no runtime for a product with a larger factor, and LiteRT then none for the whole model.
_LARGEST_DELEGATED_FACTOR = 2.0**8
# What float32 holds, with room for what it multiplies.
_LARGEST_REAL_FACTOR = 2.0**100
# The attribute quantized_bias_type, by number or name: sums of 32 bits.
_INT32 = (2, "INT32")
# Bounds of activations become int32 numbers before they are cut to the output's type (kernel_util.cc: Quantize).
_LARGEST_BOUND = 2.0**31 - 2.0**15


def scale_of(call: Call, position: int) -> float:
    """Returns the scale of an input."""
    return float(call.affine(call.input(position))[0])


def result_scale(call: Call) -> float:
    """Returns the scale of the output."""
    return float(call.affine(call.outputs[0])[0])


def too_large(factor: float, most: float = _LARGEST_FACTOR) -> str | None:
    """Returns what is wrong with a rescaling factor, or None below what a kernel can."""
    if factor < most:
        return None
    return f"it would rescale by {factor:.3g}, and its kernel can by less than {most:.3g}"


def refused_bounds(call: Call, bounds: tuple[float | None, float | None]) -> str | None:
    """Activations that are bounded at numbers other than zero: the bounds must be int32 numbers of output steps."""
    furthest = max((abs(bound) for bound in bounds if bound is not None), default=0.0)
    steps = furthest / result_scale(call)
    if steps < _LARGEST_BOUND:
        return None
    return f"its bound {furthest:g} is {steps:.3g} steps of its output, and its kernel counts up to 2**31 of them"


def refused_fused(call: Call) -> str | None:
    """The same for the activation that an operator has fused."""
    if not call.outputs or call.outputs[0].is_float or call.outputs[0].quant is None:
        return None
    return refused_bounds(call, FUSED_BOUNDS.get(fused_activation(call.node), (None, None)))


def refused_sum(call: Call) -> str | None:
    """Sums and differences: ``0 < 2 max(s₁, s₂) / (2**bits s_out) < 1`` (CalculateOpData: a CHECK that aborts).

    Differences are checked for a factor of 1 only, and shifted by a negative number of bits beyond.
    """
    bits = SUM_BITS.get(call.input(0).dtype)
    if bits is None:
        return None
    first, second, result = (np.float32(s) for s in (scale_of(call, 0), scale_of(call, 1), result_scale(call)))
    only_shifts = bits == SUM_BITS["int16"] and call.node.attrs.get("pot_scale_int16", True)
    exponents = [binary_exponent(scale) for scale in (first, second, result)]
    if only_shifts and None not in exponents:
        return _refused_shifts(call, exponents)
    with np.errstate(over="ignore"):
        larger, left = np.float32(2) * max(first, second), np.float32(2.0**bits) * result
    factor = float(larger) / float(left)
    parts = [float(scale) / float(larger) for scale in (first, second)]
    if 0 < factor < 1 and min(parts) > 0:
        return None
    ends = "gives nonsense" if call.node.op == "SUB" and factor > 1 and min(parts) > 0 else "ends the process"
    return (
        f"scales {float(first):.3g} and {float(second):.3g} of its inputs and {float(result):.3g} of its output are "
        f"further apart than its kernel can bring together (it {ends})"
    )


def _refused_shifts(call: Call, exponents: list[int | None]) -> str | None:
    """Sums of int16 at scales that are all powers of two: one operand has the output's, the other's is not larger."""
    first, second, result = (exponent or 0 for exponent in exponents)
    if call.node.op == "ADD" and call.input(0).shape != call.input(1).shape:
        return "it broadcasts between scales that are powers of two (it ends the process; allowed: pot_scale_int16 off)"
    if max(first, second) == result:
        return None
    return (
        f"its inputs' scales are 2**{first - result} and 2**{second - result} of its output's, and it shifts one of "
        "them to the right only (allowed: one equal, one not larger)"
    )


def refused_squared_difference(call: Call) -> str | None:
    """Squared differences: ``0 < (2 max(s₁, s₂))² / (2**14 s_out) < 1`` (a CHECK that aborts)."""
    if call.input(0).dtype != "int8":
        return None
    twice = float(np.float32(2) * np.float32(max(scale_of(call, 0), scale_of(call, 1))))
    with np.errstate(over="ignore"):
        factor = twice * twice / float(np.float32(2.0 ** (2 * SQUARE_BITS)) * np.float32(result_scale(call)))
    if 0 < factor < 1:
        return None
    return "its output's scale is too fine for its inputs' (its kernel ends the process)"


def refused_product(call: Call, most: float = _LARGEST_FACTOR) -> str | None:
    """Products of two tensors: ``s₁ s₂ / s_out``."""
    if call.input(0).is_float or call.input(0).quant is None:
        return None
    with np.errstate(over="ignore"):
        product = float(np.float32(scale_of(call, 0)) * np.float32(scale_of(call, 1)))
    return too_large(product / result_scale(call), most)


def refused_matmul(call: Call) -> str | None:
    """Matrix products of two tensors: the same, and ranks from 2 to 5."""
    if call.input(0).is_float or call.outputs[0].is_float:
        return None
    if any(not 2 <= len(call.input(position).shape) <= 5 for position in (0, 1)):
        return f"its inputs have {len(call.input(0).shape)} and {len(call.input(1).shape)} dimensions (allowed: 2 to 5)"
    if call.profile.is_delegate and call.input(0).dtype == "int8" and call.affine(call.input(1))[1] == 0:
        return refused_product(call, _LARGEST_REAL_FACTOR)
    return refused_product(call, _LARGEST_WIDE_FACTOR if call.input(0).dtype == "int16" else _LARGEST_FACTOR)


def refused_weighted(call: Call, position: int = 0) -> str | None:
    """Convolutions: ``s_in s_w / s_out`` of every channel."""
    x, weight = call.input(position), call.input(1)
    if x.is_float or call.outputs[0].is_float or weight.quant is None or not weight.quant.scale:
        return None
    factor = scale_of(call, position) * max(weight.quant.scale) / result_scale(call)
    if x.dtype == "int16" and call.node.attrs.get("quantized_bias_type") not in _INT32:
        return too_large(factor, _LARGEST_WIDE_FACTOR)
    is_delegated = call.profile.is_delegate and x.dtype == "int8" and weight.dtype == "int8"
    return too_large(factor, _LARGEST_DELEGATED_FACTOR if is_delegated else _LARGEST_FACTOR)


def refused_dense(call: Call) -> str | None:
    """Dense layers: the same, but for LiteRT's reference kernel, which rescales in float64, int64 biases too."""
    x, weight = call.input(0), call.input(1)
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    is_long = x.dtype == "int16" and bias is not None and bias.dtype != "int32"
    if x.is_float or weight.quant is None:
        return None
    if call.profile.is_reference or is_long:
        return None if bias is None else _unlike_bias(call, weight, bias)
    is_nibbles = weight.dtype == "int4" and weight.shape[-1] % 2 == 0 and x.dtype == "int8"
    of_bytes = replace(weight, dtype="int8") if is_nibbles else weight
    short = replace(call.node, attrs={**call.node.attrs, "quantized_bias_type": _INT32[0]})
    reason = refused_weighted(replace(call, node=short, inputs=(x, of_bytes)))
    is_delegated = call.profile.is_delegate and x.dtype == "int8" and of_bytes.dtype == "int8"
    return reason if reason or is_delegated or bias is None else _unlike_bias(call, weight, bias)


def _unlike_bias(call: Call, weight: Tensor, bias: Tensor) -> str | None:
    """Of layers with one scale, a bias's may differ from ``s_in s_w`` by a fiftieth of an output step (kernel_util)."""
    if weight.quant is None or len(weight.quant.scale) != 1 or not (bias.is_float or bias.dtype in ("int32", "int64")):
        return None
    product, step = scale_of(call, 0) * weight.quant.scale[0], result_scale(call)
    # Of a bias that is planned, it differs by float32's rounding.
    found = bias.quant.scale[0] if bias.quant is not None and bias.quant.scale else product * (1 + 2.0**-24)
    if abs(product - found) <= 0.02 * step:
        return None
    return (
        f"the scale of its bias and the product of its input's and its weight's, {product:.3g}, are further apart than "
        f"a fiftieth of an output step, {step:.3g}"
    )


def refused_depthwise(call: Call) -> str | None:
    """Depthwise convolutions: the same, and in int8 there must be a bias, which the kernel reads unasked."""
    is_byte = call.input(0).dtype == "int8" and call.outputs[0].dtype == "int8"
    if is_byte and not call.profile.is_reference and (len(call.inputs) < 3 or call.inputs[2] is None):
        return "it has no bias, which its int8 kernel reads all the same (it ends the process)"
    return refused_weighted(call)


def refused_rescaling(call: Call) -> str | None:
    """Operators that bring one tensor to another scale: ``s_in / s_out``."""
    if any(tensor is None or tensor.is_float or tensor.quant is None for tensor in (call.input(0), call.outputs[0])):
        return None
    return too_large(scale_of(call, 0) / result_scale(call))


def refused_mean(call: Call) -> str | None:
    """Means over axes: a sum of 32 bits, and the same but in XNNPACK's float32."""
    if reason := refused_total(call):
        return reason
    is_delegated = call.profile.is_delegate and call.input(0).dtype == "int8"
    return None if is_delegated else refused_rescaling(call)


def refused_total(call: Call) -> str | None:
    """Sums over axes: a sum of 32 bits, and a factor that float32 holds."""
    x = call.input(0)
    if x.is_float or x.quant is None:
        return None
    if reason := too_large(scale_of(call, 0) / result_scale(call), _LARGEST_REAL_FACTOR):
        return reason
    count = math.prod(x.shape) // max(math.prod(call.outputs[0].shape), 1)
    if x.dtype == "int16" and count >= 1 << 16:
        return f"{count} int16 values are more than its sum of 32 bits can hold (allowed: 65535)"
    return None


def refused_equality(call: Call) -> str | None:
    """Comparisons: scales below one."""
    x = call.input(0)
    if x.is_float or x.quant is None:
        return None
    scales = scale_of(call, 0), scale_of(call, 1)
    if max(scales) < 1:
        return None
    ends = "ends the process at 1" if 1 in scales else "takes all numbers for equal"
    return f"it compares scales below 1 only, and one is {max(scales):.3g} (it {ends})"


def refused_order(call: Call) -> str | None:
    """Comparisons but for equality: the same, but int16 is compared as integers, at one scale."""
    x = call.input(0)
    if x.dtype != "int16" or x.quant is None:
        return refused_equality(call)
    return None if scale_of(call, 0) == scale_of(call, 1) else "its operands have two scales, which it does not read"


def coarse_equality(call: Call) -> str | None:
    """Comparisons bring operands to units of 1/256: smaller steps are equal to their neighbours."""
    if call.input(0).is_float or call.input(0).quant is None or scale_of(call, 0) >= 2.0**-8:
        return None
    return f"it compares in steps of 1/256, and those of its operands are {scale_of(call, 0):.3g}"


def coarse_order(call: Call) -> str | None:
    """The same but for int16, which is compared as it is."""
    return None if call.input(0).dtype == "int16" else coarse_equality(call)


def refused_padding(call: Call) -> str | None:
    """Paddings: up to five dimensions."""
    rank = len(call.input(0).shape)
    return None if call.input(0).is_float or rank <= 5 else f"its input has {rank} dimensions (allowed: 5)"


def refused_factors(call: Call) -> str | None:
    """Products over axes: ``s_in / s_out**(1 / n)`` for each of n factors."""
    x = call.input(0)
    if x.is_float or x.quant is None:
        return None
    count = max(math.prod(x.shape) // max(math.prod(call.outputs[0].shape), 1), 1)
    return too_large(scale_of(call, 0) / result_scale(call) ** (1 / count), _LARGEST_WIDE_FACTOR)


def refused_gates(call: Call, pairs: Iterable[tuple[int, int]]) -> str | None:
    """Integer LSTMs: ``2**12 s_in s_w`` of every (operand, weight), and ``2**-30 / s_out`` of what they give."""
    if call.input(0).is_float or call.outputs[0].is_float:
        return None
    # (Coupled input and forget gates have no weights of their own for the former.)
    there = [(operand, weight) for operand, weight in pairs if call.inputs[weight] is not None]
    factors = [scale_of(call, operand) * scale_of(call, weight) * 2.0**12 for operand, weight in there]
    return too_large(max(*factors, 2.0**-30 / result_scale(call)))
