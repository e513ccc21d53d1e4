"""How LiteRT's own hybrid kernels quantize rows of float activations, bit for bit.

Source: LiteRT neon_tensor_utils.cc (NeonSymmetricQuantizeFloats, NeonAsymmetricQuantizeFloats), which x86 builds run
too, by way of NEON_2_SSE; confirmed on the installed runtime, ties included.
"""

from __future__ import annotations

import numpy as np

from featherweight.graph.numerics import round_half_away

# (integers less their zero point, zero points, scales) of rows, float32.
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
_LANES = 8
_ONE, _HALF = np.float32(1), np.float32(0.5)


def quantize_symmetric(x: np.ndarray) -> Rows:
    """Returns rows (rows, depth) as integers, zero points (0) and scales: ``scale = max|x| / 127``, all float32."""
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    largest[largest == 0] = 127
    q = _rounded(x * (np.float32(127) / largest))
    return np.clip(q, -127, 127), np.zeros_like(largest), largest / np.float32(127)


def quantize_asymmetric(x: np.ndarray) -> Rows:
    """Returns rows (rows, depth) as integers less their zero point, zero points and scales, all float32.

    ``scale = (max - min) / 255`` over a range with zero: the difference in float32, what comes of it in float64. The
    zero point is rounded from the end with the smaller error, and added behind the rounding.
    """
    low, high = x.min(axis=1, keepdims=True, initial=0), x.max(axis=1, keepdims=True, initial=0)
    scale = np.where(low == high, 1, (high - low) / np.float64(255))
    from_low, from_high = low / scale, high / scale
    zero_points = np.where(128 + np.abs(from_low) < 127 + np.abs(from_high), -128 - from_low, 127 - from_high)
    zero_points = np.where(low == high, 0, round_half_away(np.clip(zero_points, -128, 127))).astype(np.float32)
    scales = scale.astype(np.float32)
    q = _rounded(x * (_ONE / scales)) + zero_points
    return np.clip(q, -128, 127) - zero_points, zero_points, scales


def _rounded(x: np.ndarray) -> np.ndarray:
    """Rounds half away from zero. Vectors are rounded by adding a half, which takes the number below 0.5 to 1."""
    rounded, whole = round_half_away(x), x.shape[1] // _LANES * _LANES
    rounded[:, :whole] = np.trunc(x[:, :whole] + np.copysign(_HALF, x[:, :whole]))
    return rounded
