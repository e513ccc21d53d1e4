"""What LiteRT's integer kernels can't compute: where they end with an error, end the process, or give nonsense.

Each function says what of a call is beyond its kernel, or None, from types, shapes and scales alone. Source: the
kernels' Prepare functions and arithmetic (LiteRT 2.3, tflite/kernels), confirmed on the runtime from both sides.
"""

from __future__ import annotations

import math

import numpy as np

from featherweight.operators.call import Call
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


def _scale(call: Call, position: int) -> float:
    return float(call.affine(call.input(position))[0])


def _result_scale(call: Call) -> float:
    return float(call.affine(call.outputs[0])[0])


def _too_large(factor: float, most: float = _LARGEST_FACTOR) -> str | None:
    if factor < most:
        return None
    return f"it would rescale by {factor:.3g}, and its kernel can by less than {most:.3g}"


def refused_sum(call: Call) -> str | None:
    """Sums and differences: ``0 < 2 max(s₁, s₂) / (2**bits s_out) < 1`` (CalculateOpData: a CHECK that aborts)."""
    bits = SUM_BITS.get(call.input(0).dtype)
    if bits is None:
        return None
    first, second, result = (np.float32(s) for s in (_scale(call, 0), _scale(call, 1), _result_scale(call)))
    only_shifts = bits == SUM_BITS["int16"] and call.node.attrs.get("pot_scale_int16", True)
    if only_shifts and None not in [binary_exponent(scale) for scale in (first, second, result)]:
        return None  # another kernel
    with np.errstate(over="ignore"):
        factor = float(np.float32(2) * max(first, second)) / float(np.float32(2.0**bits) * result)
    if 0 < factor < 1:
        return None
    return (
        f"scales {float(first):.3g} and {float(second):.3g} of its inputs and {float(result):.3g} of its output are "
        "further apart than its kernel can bring together (it ends the process)"
    )


def refused_squared_difference(call: Call) -> str | None:
    """Squared differences: ``0 < (2 max(s₁, s₂))² / (2**14 s_out) < 1`` (a CHECK that aborts)."""
    if call.input(0).dtype != "int8":
        return None
    twice = float(np.float32(2) * np.float32(max(_scale(call, 0), _scale(call, 1))))
    with np.errstate(over="ignore"):
        factor = twice * twice / float(np.float32(2.0 ** (2 * SQUARE_BITS)) * np.float32(_result_scale(call)))
    if 0 < factor < 1:
        return None
    return "its output's scale is too fine for its inputs' (its kernel ends the process)"


def refused_product(call: Call) -> str | None:
    """Products of two tensors: ``s₁ s₂ / s_out``."""
    if call.input(0).is_float or call.input(0).quant is None:
        return None
    return _too_large(_scale(call, 0) * _scale(call, 1) / _result_scale(call), _LARGEST_WIDE_FACTOR)


def refused_matmul(call: Call) -> str | None:
    """Matrix products of two tensors: the same, and ranks from 2 to 5."""
    if call.input(0).is_float or call.outputs[0].is_float:
        return None
    if any(not 2 <= len(call.input(position).shape) <= 5 for position in (0, 1)):
        return f"its inputs have {len(call.input(0).shape)} and {len(call.input(1).shape)} dimensions (allowed: 2 to 5)"
    return refused_product(call)


def refused_weighted(call: Call) -> str | None:
    """Convolutions and dense layers: ``s_in s_w / s_out`` of every channel."""
    x, weight = call.input(0), call.input(1)
    if x.is_float or call.outputs[0].is_float or weight.quant is None or not weight.quant.scale:
        return None
    factor = _scale(call, 0) * max(weight.quant.scale) / _result_scale(call)
    if x.dtype == "int16":
        return _too_large(factor, _LARGEST_WIDE_FACTOR)
    return _too_large(factor, _LARGEST_DELEGATED_FACTOR if call.profile.is_delegate else _LARGEST_FACTOR)


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
    return _too_large(_scale(call, 0) / _result_scale(call))


def refused_mean(call: Call) -> str | None:
    """Means and sums over axes: the same, and a sum of 32 bits."""
    x = call.input(0)
    if x.is_float or x.quant is None:
        return None
    count = math.prod(x.shape) // max(math.prod(call.outputs[0].shape), 1)
    if x.dtype == "int16" and count >= 1 << 16:
        return f"{count} int16 values are more than its sum of 32 bits can hold (allowed: 65535)"
    return refused_rescaling(call)


def refused_equality(call: Call) -> str | None:
    """Comparisons: scales below one."""
    x = call.input(0)
    if x.is_float or x.quant is None:
        return None
    largest = max(_scale(call, 0), _scale(call, 1))
    return None if largest < 1 else f"it compares scales below 1 only, and one is {largest:.3g} (it ends the process)"


def refused_order(call: Call) -> str | None:
    """Comparisons but for equality: the same, but int16 is compared as integers, at one scale."""
    x = call.input(0)
    if x.dtype != "int16" or x.quant is None:
        return refused_equality(call)
    return None if _scale(call, 0) == _scale(call, 1) else "its operands have two scales, which it does not read"


def refused_softmax(call: Call) -> str | None:
    """Softmax of int16: differences times ``6553.5 β s`` must fit 32 bits."""
    if call.input(0).dtype != "int16":
        return None
    factor = _scale(call, 0) * float(call.node.attrs.get("beta", 1.0)) * 6553.5
    return None if factor < 2.0**15 else f"differences of scores at a scale of {_scale(call, 0):.3g} overflow in it"


def refused_sigmoid(call: Call) -> str | None:
    """Sigmoid and hyperbolic tangent of int16: inputs times ``12288 s`` must fit 32 bits."""
    if call.input(0).dtype != "int16" or 2.0**-44 <= _scale(call, 0) <= 2.0**31 / (32767 * 12288):
        return None
    return f"inputs of scale {_scale(call, 0):.3g} overflow in it"


def refused_root(call: Call) -> str | None:
    """Reciprocal roots of int8: ``2**-12 <= 1 / (sqrt(s_in) s_out) < 2**50``."""
    if call.input(0).dtype != "int8":
        return None
    factor = 1.0 / (math.sqrt(_scale(call, 0)) * _result_scale(call))
    return None if 2.0**-12 <= factor < 2.0**50 else f"it would rescale by {factor:.3g}, beyond its kernel"


def refused_padding(call: Call) -> str | None:
    """Paddings: up to five dimensions."""
    rank = len(call.input(0).shape)
    return None if call.input(0).is_float or rank <= 5 else f"its input has {rank} dimensions (allowed: 5)"
