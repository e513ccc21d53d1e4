"""Files and scores of the row of detectors; run as jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scenes import scenes

_TEST_SEED, _CALIBRATION_SEED = 99, 700


def train_detector(family: str, out: str, steps: int, factor: float | None = None) -> dict[str, Any]:
    """Trains a detector of a family; writes it as ``.keras`` and, lowered, as ``.tflite``.

    With a factor the trained one beside `out`, ``pixels``, is taken, and gives boxes so many times as large.
    """
    import keras

    import featherweight as fw
    from benchmarks.detectors import FAMILIES, enlarged, trained

    if factor is None:
        model = trained(FAMILIES[family], steps)
    else:
        model = enlarged(keras.models.load_model(Path(out).with_name("detector_pixels.keras"), compile=False), factor)
    model.save(Path(out).with_suffix(".keras"))
    fw.save(fw.load(model), out)
    return {}


def rescaled_detector(model: str, out: str) -> dict[str, Any]:
    """Writes a detector whose channels are scaled by 2^[-3, 3], function kept."""
    import featherweight as fw
    from featherweight.repair.factors.commuting import freedom
    from featherweight.repair.factors.scaling import scaled

    whole = fw.load(model)
    free = freedom(whole.main)
    factors = np.where(free.is_free, 2.0 ** np.random.default_rng(0).uniform(-3, 3, free.count), 1.0)
    fw.save(scaled(whole, free, factors), out)
    return {}


def detector_scenes(out: str, draws: int, calibration: int) -> dict[str, Any]:
    """Writes pictures to calibrate with, of other seeds than those of training and test, float32 (n, 1, 64, 64, 3)."""
    for draw in range(draws):
        made = scenes(calibration, _CALIBRATION_SEED + draw)
        np.save(Path(out) / f"detector_calibration_{draw}.npy", np.stack([s.image for s in made])[:, np.newaxis])
    return {}


def quantize_detector(model: str, out: str, samples: str, **wishes: Any) -> dict[str, Any]:
    """Quantizes a detector to int8; returns the seconds, and the notes on repairs."""
    import featherweight as fw

    start = time.perf_counter()
    fed = list(np.load(samples))
    made = fw.quantize(model, "int8", calibration=fed, io="float32", verify=False, progress=False, **wishes)
    seconds = time.perf_counter() - start
    made.save(out)
    return {"seconds": seconds, "notes": [note for note in made.plan.notes if note.startswith("improve")]}


def detector_scores(files: dict[str, str], family: str, factor: float, count: int) -> dict[str, Any]:
    """Returns mean average precision of each file on test scenes, and its difference from ``float``, paired."""
    import featherweight as fw
    from benchmarks.detectors import FAMILIES

    made = scenes(count, _TEST_SEED)
    images = [s.image for s in made]
    truth = [{"boxes": s.boxes * factor, "classes": s.classes} for s in made]
    about = fw.Boxes(most_overlap=0.5, least_score=0.05, unit="auto" if family == "anchors" else "pixels",
                     **FAMILIES[family].about())  # fmt: skip
    found = {name: fw.evaluate(file, (images, truth), about, progress=False) for name, file in files.items()}
    rows: dict[str, Any] = {}
    for name, one in found.items():
        lost = fw.paired_difference(one, found["float"])
        rows[name] = {
            "map": one.value,
            "error": one.standard_error,
            "lost": lost.value,
            "lost_error": lost.standard_error,
        }
    return rows
