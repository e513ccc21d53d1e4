"""What LiteRT's integer kernels of functions can't compute: softmax, sigmoids, roots, tables.

Each function says what of a call is beyond its kernel, or None, like those of `limits`, with the same sources.
"""

from __future__ import annotations

import math

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.limits import refused_product, refused_rescaling, result_scale, scale_of, too_large


def refused_softmax(call: Call) -> str | None:
    """Softmax: in int16, differences times ``6553.5 β s`` must fit 32 bits; in the reference, ``2**26 β s > 1``."""
    scale, beta = scale_of(call, 0), float(call.node.attrs.get("beta", 1.0))
    if call.input(0).dtype != "int16":
        return refused_differences(call, beta)
    if scale * beta * 6553.5 < 2.0**15:
        return None
    return f"differences of scores at a scale of {scale:.3g} overflow in it"


def refused_differences(call: Call, beta: float = 1.0) -> str | None:
    """Differences of int8 scores in LiteRT's reference kernels: ``2**26 β s > 1`` (a CHECK that aborts)."""
    if not call.profile.is_reference or call.input(0).is_float or scale_of(call, 0) * beta * 2.0**26 > 1 + 2.0**-29:
        return None
    return f"scores in steps of {scale_of(call, 0):.3g} are finer than its kernel takes (it ends the process)"


def refused_sigmoid(call: Call) -> str | None:
    """Sigmoid and hyperbolic tangent of int16: inputs times ``12288 s`` must fit 32 bits, ``12288 s 2**31`` be one."""
    if call.input(0).dtype != "int16" or 2.0**-44 <= scale_of(call, 0) <= 2.0**31 / (32767 * 12288):
        return None
    return f"inputs of scale {scale_of(call, 0):.3g} are out of its reach (allowed: {2.0**-44:.3g} to 5.33)"


def refused_hard_swish(call: Call) -> str | None:
    """Hard swish of int8: ``s_in / 128 < s_out``, and the gate's factor, ``s_in / 128 * 32768 / 3``, is below 2**31."""
    fine = np.float32(1 / 128) * np.float32(scale_of(call, 0))
    factor = float(fine / np.float32(result_scale(call)))
    if factor >= 1 - 2.0**-32:
        return f"its input's scale is {128 * factor:.3g} times its output's (allowed: less than 128)"
    return too_large(float(fine / np.float32(3 / 32768)))


def refused_prelu(call: Call) -> str | None:
    """PReLU: ``s_in / s_out`` above zero, ``s_in s_alpha / s_out`` below."""
    return refused_rescaling(call) or refused_product(call)


def refused_root(call: Call) -> str | None:
    """Reciprocal roots of int8: ``2**-12 <= 1 / (sqrt(s_in) s_out) < 2**50``, or nothing that counts."""
    if call.input(0).dtype != "int8":
        return None
    factor = 1.0 / (math.sqrt(scale_of(call, 0)) * result_scale(call))
    if factor < 2.0**-32 or 2.0**-12 <= factor < 2.0**50:
        return None
    return f"it would rescale by {factor:.3g}, beyond its kernel"
