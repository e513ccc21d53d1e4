"""TensorFlow's Model Optimization Toolkit: quantization-aware training, in Keras 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow_model_optimization

from benchmarks import tfmot_jobs
from benchmarks.leaderboard.record import Inputs, Made


def make(inputs: Inputs, samples: np.ndarray, out: Path, steps: int, learning_rate: float) -> Made:
    """Trains from the float weights by the toolkit's 8-bit scheme, and converts."""
    network = tfmot_jobs.trained(inputs.network, inputs.weights)
    model = tensorflow_model_optimization.quantization.keras.quantize_model(network)
    tfmot_jobs.fit(model, inputs.seed, steps, learning_rate)
    tfmot_jobs.save(model, str(out), is_quantized=True)
    return Made(lambda x: np.asarray(model.predict(x, verbose=0)))
