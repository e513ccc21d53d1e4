"""Fixed-point rescaling inside a training step: `operators.fixed_point` over the backend of Keras.

Factors may be computed from scales that are trained. All functions take and return int64 and float64 tensors, inside
`int64_scope.wide`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.operators import fixed_point
from featherweight.operators.call import Array
from featherweight.operators.fixed_point import Rescale
from featherweight.training.graph.registry import ops
from featherweight.training.integer.int64_scope import INT64


def rescaled(x: Array, real: Array, rescale: Rescale) -> Array:
    """Returns integers times real factors (see `factor`) in the arithmetic of a profile, int64."""
    return rescale(whole(x), *fixed_point.quantize_multiplier(real, INT64), INT64)


def factor(scales: tuple[Array, ...], divisor: Array, zero: Array) -> Array:
    """Returns ``product(scales) / divisor`` of float32 numbers in float64; `zero` as in `quotient`."""
    product = real(scales[0])
    for scale in scales[1:]:
        product = product * real(scale)
    return product / (real(divisor) + real(zero) * product)


def rounded_half_away_real(x: Array) -> Array:
    """Returns float64 numbers rounded to int64, ties away from zero (Keras's floor would go through float32)."""
    magnitude = whole(ops.abs(x) + float(np.nextafter(0.5, 0.0)))
    return whole(ops.where(x < 0, -magnitude, magnitude))


def whole(x: Any) -> Array:
    """Returns a value as int64."""
    return fixed_point.whole(x, INT64)


def real(x: Any) -> Array:
    """Returns a value as float64."""
    return fixed_point.real(x, INT64)


def leave(x: Array) -> Array:
    """Returns int64 integers as float32, cut to what float32 holds exactly: more than any output."""
    return ops.cast(ops.clip(x, -(1 << 23), 1 << 23), "float32")
