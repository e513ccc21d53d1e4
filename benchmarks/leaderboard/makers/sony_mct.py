"""Sony's Model Compression Toolkit for TFLite, in Keras 2: after training, or by its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keras
import model_compression_toolkit as mct
import numpy as np

from benchmarks.leaderboard.record import Inputs, Made

_EPOCHS = 5


def make(inputs: Inputs, samples: np.ndarray, out: Path, gradients: bool = False) -> Made:
    """Quantizes for its target `tflite` and exports as int8."""
    model = _model(inputs)
    target = mct.get_target_platform_capabilities(tpc_version="1.0", device_type="tflite")

    def dataset() -> Iterator[list[np.ndarray]]:
        for sample in samples:
            yield [sample]

    if gradients:
        config = mct.gptq.get_keras_gptq_config(n_epochs=_EPOCHS)
        quantized, _ = mct.gptq.keras_gradient_post_training_quantization(
            model, dataset, gptq_config=config, target_platform_capabilities=target
        )
    else:
        quantized, _ = mct.ptq.keras_post_training_quantization(model, dataset, target_platform_capabilities=target)
    mct.exporter.keras_export_model(
        quantized,
        str(out),
        serialization_format=mct.exporter.KerasExportSerializationFormat.TFLITE,
        quantization_format=mct.exporter.QuantizationFormat.INT8,
    )
    return Made(lambda x: np.asarray(quantized.predict(x, verbose=0)))


def _model(inputs: Inputs) -> keras.Model:
    if inputs.keras.endswith(".h5"):
        return keras.models.load_model(inputs.keras, compile=False)
    from benchmarks import networks

    return networks.with_weights(inputs.network, inputs.weights)
