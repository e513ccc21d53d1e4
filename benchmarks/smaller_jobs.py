"""Jobs of networks without half of their multiply-accumulates: trained, cut, trained on, quantized, scored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import featherweight as fw
from benchmarks import fashion, networks


def train_whole(name: str, out: str, seed: int, steps: int) -> dict[str, Any]:
    """Trains a network on Fashion-MNIST, drawn as it takes images, and writes it as a Keras file."""
    import keras

    keras.utils.set_random_seed(seed)
    network = networks.NETWORKS[name]()
    schedule = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    network.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-3), "sparse_categorical_crossentropy")
    network.fit(_batches(network.input_shape[1:], steps, seed), steps_per_epoch=steps, verbose=0)
    network.save(out)
    return {}


def train_smaller(source: str, seed: int, steps: int, learning_rate: float, macs: float) -> dict[str, Any]:
    """Removes channels and trains on; returns which test images int8 files get right: whole, cut, trained on."""
    import keras

    network, data = keras.models.load_model(source, compile=False), fashion.data()
    shape = network.input_shape[1:]
    samples = fashion.drawn(fashion.calibration(data, seed)[:, 0], shape)[:, np.newaxis]
    x_test = fashion.drawn(data.x_test, shape)
    removed = fw.remove_channels(network, macs=macs)
    model = fw.graph_model(removed.model)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    found: dict[str, Any] = {"macs": list(removed.macs)}

    def scored(name: str, made: Any) -> None:
        result = fw.quantize(made, calibration=samples, io="float32", progress=False, verify=False)
        found[name] = (np.argmax(fw.run(result.model, x_test), axis=1) == data.y_test).tolist()
        found[f"{name} bytes"] = result.report.after.file_bytes

    scored("whole", network)
    scored("cut", removed)
    model.fit(_batches(shape, steps, seed + 100), steps_per_epoch=steps, verbose=0)
    scored("trained on", model)
    return found


def _batches(shape: tuple[int, ...], steps: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for images, labels in fashion.mirrored(fashion.batches(fashion.data(), steps, seed), seed):
        yield fashion.drawn(images, shape), labels
