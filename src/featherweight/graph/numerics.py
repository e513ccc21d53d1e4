"""Affine quantization: what integers mean, and how real numbers become integers.

``real = scale * (quantized - zero_point)``, with the conventions of TensorFlow Lite's 8-bit quantization
specification: a scale is a float32 number, zero is exactly representable, weights are symmetric in
[-127, 127], activations asymmetric in [-128, 127] (int8) or symmetric (int16), biases int32 (int64 beside
int16 activations).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from featherweight.errors import DataError

INTEGER_BITS = {"int2": 2, "int4": 4, "int8": 8, "uint8": 8, "int16": 16, "int32": 32, "int64": 64}
# A bias leaves room for the accumulator that it is added to; of int64, NPUs keep 40 bits (Vela: "Int64 bias must be
# smaller than 1099511627775").
LARGEST_BIAS = {"int32": 2**30 - 1, "int64": 2**38}
# Half of the smallest range that the TensorFlow converter gives a weight.
DEAD_WEIGHT = 5e-7
_BLOCK_ELEMENTS = 1 << 17
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_LARGEST_SCALE = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class QuantParams:
    """How the integers of one tensor stand for real numbers: ``real = scale * (q - zero_point)``.

    `scale` and `zero_point` have one entry (per tensor) or ``shape[axis]`` entries (per channel). With a
    `block_size` the last axis is cut into blocks of that many elements, each with its own scale; the scales
    then live in a tensor of their own (`scale_tensor`), because there can be millions of them, and `scale`
    is empty.
    """

    dtype: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    block_size: int | None = None
    scale_tensor: str | None = None

    @property
    def is_per_channel(self) -> bool:
        """True where every index along `axis` has its own scale."""
        return self.axis is not None and self.block_size is None


def integer_range(dtype: str, *, narrow: bool = False) -> tuple[int, int]:
    """Returns (qmin, qmax) of an integer type; `narrow` leaves out the lowest value, so that it is symmetric.

    >>> integer_range("int8"), integer_range("int4", narrow=True)
    ((-128, 127), (-7, 7))
    """
    bits = INTEGER_BITS[dtype]
    if dtype.startswith("u"):
        return 0, (1 << bits) - 1
    qmax = (1 << (bits - 1)) - 1
    return (-qmax if narrow else -qmax - 1), qmax


def storage_dtype(dtype: str) -> np.dtype:
    """Returns the NumPy type that holds values of a graph dtype, one element per value.

    >>> storage_dtype("int8")
    dtype('int8')
    """
    if dtype in {"bfloat16", "int4", "int2", "uint4"}:
        return np.dtype(getattr(ml_dtypes, dtype))
    return np.dtype(object if dtype == "resource" else dtype)


def round_half_away(x: np.ndarray) -> np.ndarray:
    """Rounds to the nearest integer, ties away from zero, in the dtype of `x`.

    Adds the largest number below one half and cuts: ``floor(x + 0.5)`` would be wrong for 0.49999997 in float32,
    whose sum with one half is rounded up to one.

    >>> round_half_away(np.array([0.5, -0.5, 1.5, 0.49999997], np.float32)).tolist()
    [1.0, -1.0, 2.0, 0.0]
    """
    x = np.asarray(x)
    almost_half = np.nextafter(x.dtype.type(0.5), x.dtype.type(0))
    moved = np.asarray(np.copysign(almost_half, x))
    moved += x
    return np.trunc(moved, out=moved)


def check_scale(scale: float, where: str) -> float:
    """Returns `scale` rounded to float32.

    Raises:
        DataError: if it is not a normal, finite, positive float32 number.
    """
    value = float(np.float32(scale)) if abs(scale) <= _LARGEST_SCALE else math.inf
    if not _SMALLEST_SCALE <= value <= _LARGEST_SCALE:
        raise DataError(
            f"{where}: its range needs the scale {scale:g}, which float32 can't hold (allowed: "
            f"{_SMALLEST_SCALE:.3g} to {_LARGEST_SCALE:.3g}). Rescale the values, or keep it float with a rule."
        )
    return value


def params_from_range(
    low: float,
    high: float,
    dtype: str,
    *,
    symmetric: bool = False,
    power_of_two: bool = False,
    where: str = "tensor",
) -> QuantParams:
    """Returns per-tensor parameters whose grid covers [low, high] and holds zero exactly.

    Asymmetric: ``scale = (high - low) / (qmax - qmin)``, ``zero_point = round(qmin - low / scale)``, ties away from
    zero, with the range first widened to contain zero (Jacob et al., 1712.05877, section 3). Symmetric:
    ``scale = max(|low|, |high|) / qmax``. A range of width zero gets the scale 1: all its values are zero. So does one
    whose scale would be below float32's smallest normal number, which hardware flushes to zero.
    With `power_of_two` the scale is the smallest power of two that covers the range.

    Raises:
        DataError: if a bound is NaN or infinite, or the scale overflows float32.

    >>> params = params_from_range(0.0, 2.55, "int8")
    >>> params.scale, params.zero_point
    ((0.009999999776482582,), (-128,))
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{where}: its range is [{low}, {high}]; both ends must be finite numbers.")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    qmin, qmax = integer_range(dtype)
    real = max(-low, high) / qmax if symmetric else (high - low) / (qmax - qmin)
    if real < _SMALLEST_SCALE:
        return QuantParams(dtype, (1.0,), (0,))
    scale = check_scale(real, where)
    if power_of_two:
        scale = check_scale(2.0 ** math.ceil(math.log2(real)), where)
    if symmetric:
        return QuantParams(dtype, (scale,), (0,))
    zero_point = _zero_point(low, high, scale if power_of_two else real, qmin, qmax)
    return QuantParams(dtype, (scale,), (zero_point,))


def _zero_point(low: float, high: float, scale: float, qmin: int, qmax: int) -> int:
    """Rounds the zero point from the end of the range that gives the smaller rounding error."""
    from_low, from_high = qmin - low / scale, qmax - high / scale
    error_low, error_high = abs(qmin) + abs(low / scale), abs(qmax) + abs(high / scale)
    exact = from_low if error_low < error_high else from_high
    return min(max(int(math.copysign(math.floor(abs(exact) + 0.5), exact)), qmin), qmax)


def scales_from_largest(largest: np.ndarray, dtype: str, *, power_of_two: bool, where: str) -> np.ndarray:
    """Returns float32 symmetric scales for the given largest magnitudes (float64, any shape).

    A dead channel (zeros, nothing but rounding noise beside the others, or numbers whose scale float32 can't hold) gets
    the scale that a magnitude of 5e-7 would have, as in the TensorFlow converter: its bias, which takes its scale from
    it, must stay fine.

    Raises:
        DataError: if a magnitude is NaN or infinite, or a scale overflows float32.
    """
    if not np.isfinite(largest).all():
        raise DataError(
            f"{where}: it holds NaN or infinite values; quantization needs finite numbers. Repair the model's weights."
        )
    most = integer_range(dtype, narrow=True)[1]
    is_nothing = largest < most * _SMALLEST_SCALE
    is_dead = (largest < DEAD_WEIGHT) & (is_nothing | (largest.max(initial=0.0) >= 1000 * DEAD_WEIGHT))
    scales = np.where(is_dead, DEAD_WEIGHT, largest) / most
    if power_of_two:
        scales = np.exp2(np.ceil(np.log2(scales)))
    for extreme in (scales.min(), scales.max()):
        check_scale(float(extreme), where)
    return scales.astype(np.float32)


def _spread(values: tuple[float, ...] | tuple[int, ...], params: QuantParams, ndim: int, dtype: type) -> np.ndarray:
    """Shapes scales or zero points so that they broadcast along the quantized axis."""
    array = np.asarray(values, dtype)
    if params.axis is None:
        return array.reshape(())
    return array.reshape([-1 if d == params.axis else 1 for d in range(ndim)])


def quantize(x: np.ndarray, params: QuantParams, *, narrow: bool = False) -> np.ndarray:
    """Returns ``clip(round_half_away(x * (1 / scale)) + zero_point)`` as integers of ``params.dtype``.

    The reciprocal and the product are float32: this is what the TensorFlow converter and LiteRT's QUANTIZE
    compute, bit for bit. int32 and int64 (biases) round in float64, where float32 can't hold the result.
    """
    x = np.asarray(x)
    inverse = np.float32(1) / _spread(params.scale, params, x.ndim, np.float32)
    zero_point = _spread(params.zero_point, params, x.ndim, np.float32)
    result = np.empty(x.shape, storage_dtype(params.dtype))
    wide = np.float64 if INTEGER_BITS[params.dtype] > 16 else np.float32
    for rows in row_blocks(x.shape):
        part = _round_scaled(x[rows], inverse[rows] if inverse.ndim and inverse.shape[0] > 1 else inverse, wide)
        if any(params.zero_point):
            part += zero_point[rows] if zero_point.ndim and zero_point.shape[0] > 1 else zero_point
        # float64 can't hold 2**63 - 1: clip int64 just below it
        qmin, qmax = (
            integer_range(params.dtype, narrow=narrow) if params.dtype != "int64" else (-(1 << 63), (1 << 63) - 1024)
        )
        result[rows] = np.clip(part, qmin, qmax, out=part)
    return result


def row_blocks(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Cuts an array into blocks of rows that fit into a processor's cache: less memory and time for large weights."""
    if not shape or math.prod(shape) <= _BLOCK_ELEMENTS:
        return [()]
    step = max(1, _BLOCK_ELEMENTS // math.prod(shape[1:]))
    return [(slice(start, start + step),) for start in range(0, shape[0], step)]


def _round_scaled(x: np.ndarray, inverse: np.ndarray, dtype: type) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinity is beyond every integer and clipped as such
        return round_half_away(np.asarray(x.astype(np.float32, copy=False) * inverse, dtype))


def dequantize(q: np.ndarray, params: QuantParams) -> np.ndarray:
    """Returns ``scale * (q - zero_point)`` in float32.

    >>> dequantize(np.array([-128, 127], np.int8), QuantParams("int8", (0.5,), (-128,))).tolist()
    [0.0, 127.5]
    """
    q = np.asarray(q)
    centred = q.astype(np.float32)
    if any(params.zero_point):
        centred = centred - _spread(params.zero_point, params, q.ndim, np.float32)
    return centred * _spread(params.scale, params, q.ndim, np.float32)


def bias_type(activation: str) -> str:
    """Returns the type of a bias beside activations of a type.

    >>> bias_type("int16")
    'int64'
    """
    return "int64" if activation == "int16" else "int32"


def bias_params(bias: np.ndarray, input_scale: float, scales: np.ndarray, dtype: str) -> QuantParams:
    """Returns int32 or int64 bias parameters: ``input_scale * weight_scale[c]`` in float32, zero point 0.

    Where that makes the bias as large as `LARGEST_BIAS` (the weight's scale was widened for it), the scale is exactly
    the one that gives this integer, as in the TensorFlow converter.
    """
    product = np.float32(input_scale) * np.asarray(scales, np.float32)
    if product.size == bias.size:
        limit = (np.abs(bias.reshape(-1).astype(np.float64)) / LARGEST_BIAS[dtype]).astype(np.float32)
        product = np.where(np.isclose(product, limit, rtol=1e-6, atol=0.0), limit, product)
    return QuantParams(dtype, tuple(product.tolist()), (0,) * product.size, 0 if product.size > 1 else None)
