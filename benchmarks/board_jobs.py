"""The samples of the leaderboard's networks; run as jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def fashion_samples(out: str, draws: int) -> dict[str, Any]:
    """Writes the test images of Fashion-MNIST, and `draws` sets of its training images to calibrate with."""
    from benchmarks import fashion

    data, folder = fashion.data(), Path(out)
    np.savez(folder / "fashion_test.npz", x=data.x_test, y=data.y_test)
    for draw in range(draws):
        np.save(folder / f"fashion_calibration_{draw}.npy", fashion.calibration(data, draw))
    return {"source": data.source}


def resized_samples(fed: str, test: str, side: int, scale: float, out: str) -> dict[str, Any]:
    """Writes crops of photographs as a network of another size takes them: `OUT_calibration.npy`, `OUT_test.npz`."""
    from benchmarks.ranges_jobs import resized

    with np.load(test) as arrays:
        np.savez(f"{out}_test.npz", x=resized(arrays["x"], side, scale), group=arrays["group"])
    np.save(f"{out}_calibration.npy", resized(np.load(fed)[:, 0], side, scale)[:, np.newaxis])
    return {}


def media_samples(model: str, lowest: float, calibration: int, unseen: int, out: str) -> dict[str, Any]:
    """Writes crops of photographs as one of MediaPipe's networks takes them, none of a photograph in both sets."""
    from benchmarks.media_jobs import images_of
    from featherweight import tflite

    graph = tflite.read(model).main
    fed, tested = images_of(graph.tensors[graph.inputs[0]].shape, lowest, calibration, unseen)
    np.save(f"{out}_calibration.npy", np.stack(fed))
    np.savez(f"{out}_test.npz", x=np.concatenate(tested))
    return {}


def lower_file(source: str, out: str) -> dict[str, Any]:
    """Writes the float `.tflite` of a Keras file."""
    import featherweight as fw

    fw.save(fw.load(source), out)
    return {}


def keras_weights(source: str, out: str) -> dict[str, Any]:
    """Writes the weights of a Keras file in Keras's order, for tools that need Keras 2."""
    import keras

    network = keras.models.load_model(source, compile=False)
    np.savez(out, **{f"{number:03}": array for number, array in enumerate(network.get_weights())})
    return {}
