"""Jobs of files for flash: pruned, clustered and coarse weights, encoded for TFLite Micro and compressed by Vela."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def train_for_flash(out: str, seed: int) -> dict[str, Any]:
    """Trains the demo's network, and prunes 75 % of its pointwise convolutions; writes both as Keras files."""
    from featherweight.demo import dataset, training

    data = dataset.load()
    network = training.train(data, seed, progress=False)
    network.save(Path(out, f"flash_{seed}.keras"))
    pruned = training.prune(network, data, seed, steps=training.STEPS // 2, progress=False)
    pruned.save(Path(out, f"flash_{seed}_pruned.keras"))
    return {}


def flash_sizes(folder: str, seed: int) -> dict[str, Any]:
    """Quantizes, encodes and compiles both networks; returns name → bytes, accuracy, Vela's flash and cycles."""
    import keras

    import featherweight as fw
    from featherweight.demo import dataset
    from featherweight.device_code.vela import npu_figures

    data = dataset.load()
    samples = data.x_train[:: len(data.x_train) // 200][:200, np.newaxis]
    plain, pruned = (
        keras.models.load_model(Path(folder, f"flash_{seed}{kind}.keras"), compile=False) for kind in ("", "_pruned")
    )
    settings = {"calibration": samples, "io": "float32", "progress": False, "verify": False}
    rows: dict[str, Any] = {}

    def measured(name: str, source: Any, recipe: str = "int8", store: str = "decode") -> None:
        made = fw.quantize(source, recipe, target="tflm", store=store, **settings)
        npu = npu_figures(fw.quantize(source, recipe, target="ethos-u55", **settings).model, "ethos-u55-128")
        right = np.argmax(fw.run(made.model, data.x_test), axis=1) == data.y_test
        rows[name] = {
            "bytes": made.report.after.file_bytes,
            "accuracy": float(right.mean()),
            "is_equal": made.encoded is None or not made.encoded.unverified,
            "flash_bytes": npu.flash_bytes,
            "cycles": npu.cycles,
        }

    measured("int8", plain, store="dense")
    measured("75 % pruned", pruned)
    measured("16 clusters", fw.cluster(plain, 16, calibration=samples, progress=False))
    measured("75 % pruned, 16 clusters", fw.cluster(pruned, 16, calibration=samples, progress=False))
    measured("4-bit grid", plain, "grid4")
    return rows
