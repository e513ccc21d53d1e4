"""TensorFlow's converter, quantizing after training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.leaderboard.record import Inputs, Made

peers.import_tensorflow()


def make(inputs: Inputs, samples: np.ndarray, out: Path, form: str) -> Made:
    """Writes an `int8` or a `dynamic` file from the Keras model."""
    if form == "dynamic":
        out.write_bytes(peers.tensorflow_dynamic(inputs.keras))
    else:
        out.write_bytes(peers.tensorflow_convert(inputs.keras, samples, is_int8=True))
    return Made()
