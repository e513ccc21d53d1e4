"""Probabilities among so many that steps of 1/256 leave hardly anything of them: attention over hundreds of tokens.

They are not wrong at random: where all are alike, all are rounded the same way, and their sum is not 1.
"""

from __future__ import annotations

import math

import numpy as np

from featherweight.calibration.details import Magnitudes


def rounded_db(magnitudes: Magnitudes, step: float, levels: int) -> float:
    """Returns the signal-to-noise ratio of probabilities in steps, in dB: ``10 log10(Σ p² / Σ (p̂ − p)²)``.

    Args:
        magnitudes: how often which occurred.
        step: what they are rounded to multiples of.
        levels: how many multiples there are, zero too.
    """
    values, counts = magnitudes.values.astype(np.float64), magnitudes.counts.astype(np.float64)
    rounded = np.clip(np.round(values / step), 0, levels - 1) * step
    signal, noise = float(counts @ values**2), float(counts @ (rounded - values) ** 2)
    return 10 * math.log10(signal / noise) if signal and noise else math.inf
