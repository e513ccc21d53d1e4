"""ai-edge-quantizer, from the float file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.leaderboard.record import Inputs, Made

peers.import_ai_edge_quantizer()


def make(
    inputs: Inputs, samples: np.ndarray, out: Path, form: str = "int8", algorithm: str = "", bits: int = 8
) -> Made:
    """Writes a file by its ready recipe for a form, or by an algorithm for weights of so many bits, int8 beside."""
    if algorithm:
        peers.ai_edge_static(inputs.model, list(samples), str(out), algorithm, bits)
    else:
        peers.ai_edge_quantize(inputs.model, list(samples), str(out), form)
    return Made()
