"""Activation ranges by each method, judged at the output on images that calibration has not seen; run as jobs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


def range_methods(model: str, fed: str, test: str, methods: list[str], side: int, scale: float) -> dict[str, Any]:
    """Quantizes to int8 by each method; returns per method the SQNR in dB over all test outputs, seconds, and notes.

    Args:
        model: a float model, as a path.
        fed: the calibration crops that `image_data` wrote.
        test: its test crops.
        methods: range methods.
        side: the model's images are so large; 224 takes the crops as they are.
        scale: of pixels from 0 to 255 (side 224: as the crops are).
    """
    import featherweight as fw
    from featherweight.analysis.evaluation import predict

    with np.load(test) as arrays:
        unseen = resized(arrays["x"], side, scale)
    samples = [x[np.newaxis] for x in resized(np.load(fed)[:, 0], side, scale)]
    source = fw.load(model)
    wanted = next(iter(predict(source, unseen).values()))
    found: dict[str, Any] = {}
    for method in methods:
        start = time.perf_counter()
        made = fw.quantize(source, "int8", calibration=samples, ranges=method, progress=False)
        seconds = time.perf_counter() - start
        error = float(np.square(next(iter(predict(made.model, unseen).values())) - wanted).sum())
        level = 10 * np.log10(float(np.square(wanted).sum()) / error) if error else None
        notes = [note for note in made.plan.notes if note.startswith(("ranges", "improve: ranges"))]
        found[method] = {"sqnr_db": level, "seconds": seconds, "notes": notes}
    return found


def resized(crops: np.ndarray, side: int, scale: float) -> np.ndarray:
    """Returns crops as a network of another size takes them."""
    from PIL import Image

    if crops.shape[1] == side:
        return crops
    pixels = np.clip(np.rint(crops * 128 + 127), 0, 255).astype(np.uint8)
    small = [Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC) for x in pixels]
    return np.stack([np.asarray(x, np.float32) * np.float32(scale) for x in small])
