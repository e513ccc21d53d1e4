"""Hard swish of int8 in registers of 16 bits. Source: LiteRT reference/hard_swish.h."""

from __future__ import annotations

import numpy as np

from featherweight.operators.call import Call
from featherweight.operators.families.activation import HARD_SWISH
from featherweight.operators.fixed_point import quantize_multiplier, rounding_shift
from featherweight.operators.record import kernel


@kernel(HARD_SWISH, "int8")
def hard_swish(call: Call) -> tuple[np.ndarray, ...]:
    """``x * relu6(x + 3) / 6`` in 16-bit fixed point (reference/hard_swish.h)."""
    (in_scale, in_zero), (out_scale, _) = call.affine(call.input(0)), call.affine(call.outputs[0])
    fine_scale = np.float32(1 / 128) * in_scale
    multiplier, shift = (int(v) for v in quantize_multiplier(np.float64(fine_scale / out_scale)))
    gate_multiplier, gate_shift = (int(v) for v in quantize_multiplier(np.float64(fine_scale / np.float32(3 / 32768))))
    fine = (call.array(0).astype(np.int64) - in_zero) << 7
    product = _high_16(fine, _shortened(multiplier))
    gate = fine if gate_shift <= 0 else _saturated_16(fine << (gate_shift - 1))
    gate = _high_16(gate, _shortened(gate_multiplier))
    if gate_shift > 0:
        gate = _saturated_16(gate << 1)
    elif gate_shift < 0:
        gate = _shifted_16(gate, -gate_shift)
    gate = (gate + (1 << 15)) >> 1
    both = gate * product
    both = np.where(both >= 0, both >> 15, -((-both) >> 15))
    values = _shifted_16(both, -shift) if shift <= 0 else both << shift
    return (call.finish(values),)


def _shortened(multiplier: int) -> int:
    """Returns a multiplier of 32 bits in 16 (DownScaleInt32ToInt16Multiplier)."""
    return 0x7FFF if multiplier >= 0x7FFFFFFF - (1 << 15) else (multiplier + (1 << 15)) >> 16


def _saturated_16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -(1 << 15), (1 << 15) - 1)


def _shifted_16(x: np.ndarray, exponent: int) -> np.ndarray:
    """Returns ``x / 2**exponent``; in registers of 16 bits, 16 and more leave 1 or -1 (RoundingDivideByPOT)."""
    return rounding_shift(x, exponent) if exponent < 16 else np.where(x >= 0, 1, -1)


def _high_16(x: np.ndarray, multiplier: int) -> np.ndarray:
    """Returns ``round(x * multiplier / 2**15)``, ties toward positive infinity."""
    return np.minimum((x * multiplier + (1 << 14)) >> 15, (1 << 15) - 1)
