"""Keras's own `model.quantize`, exported by Keras."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from benchmarks import peers
from benchmarks.leaderboard.record import Inputs, Made

peers.import_tensorflow()


def make(inputs: Inputs, samples: np.ndarray, out: Path, mode: str) -> Made:
    """Quantizes in a mode of Keras: dense layers, with activations quantized on the fly; convolutions stay float."""
    model = peers.keras_model(inputs.keras)
    model.quantize(mode)
    kept = [layer.name for layer in model.layers if layer.weights and not getattr(layer, "quantization_mode", None)]
    model.export(str(out), format="litert", verbose=False)
    notes = (f"stays float: {len(kept)} of {sum(bool(layer.weights) for layer in model.layers)} layers with weights",)
    return Made(lambda x: np.asarray(keras.ops.convert_to_numpy(model(x, training=False))), notes=notes)
