"""Data and scores of the accuracy row; run as jobs."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

_SIDE = 224


def demo_data(out: str, draws: int, samples: int) -> dict[str, Any]:
    """Trains the demo's network; writes it, its test set and `draws` calibration sets from the training set."""
    from featherweight import tflite
    from featherweight.demo import dataset, training
    from featherweight.tasks import load as loading

    data = dataset.load()
    folder = Path(out)
    network = training.train(data, 0, progress=False)
    network.save(folder / "demo.keras")
    tflite.save(loading.load(network), folder / "demo.tflite")
    np.savez(folder / "demo_test.npz", x=data.x_test, y=data.y_test)
    for draw in range(draws):
        chosen = np.random.default_rng(draw).choice(len(data.x_train), samples, replace=False)
        np.save(folder / f"demo_calibration_{draw}.npy", data.x_train[chosen][:, np.newaxis])
    return {"source": data.source}


def image_data(out: str, draws: int, calibration: int, crops: int) -> dict[str, Any]:
    """Writes calibration and test crops of foolbox's 20 labelled images, no image in both sets of a draw."""
    images = foolbox_images()
    for draw in range(draws):
        random = np.random.default_rng(draw)
        order = random.permutation(len(images))
        half = len(images) // 2
        seen, unseen = order[:half], order[half:]
        fed = [crop(images[seen[i % half]][0], random) for i in range(calibration)]
        tested = [(crop(images[i][0], random), images[i][1], int(i)) for i in unseen for _ in range(crops)]
        x, y, group = zip(*tested, strict=True)
        folder = Path(out)
        np.save(folder / f"images_calibration_{draw}.npy", np.stack(fed)[:, np.newaxis])
        np.savez(folder / f"images_test_{draw}.npz", x=np.stack(x), y=np.array(y), group=np.array(group))
    return {"images": len(images)}


def foolbox_images() -> list[tuple[np.ndarray, int]]:
    """Returns the package's ImageNet-like images, uint8 (height, width, 3), with their labels."""
    from PIL import Image

    found = [f for f in importlib.metadata.files("foolbox") or () if f.name.startswith("imagenet_")]
    images = []
    for file in sorted(found, key=lambda f: f.name):
        with Image.open(Path(str(file.locate()))) as image:
            images.append((np.asarray(image.convert("RGB")), int(file.stem.rsplit("_", 1)[1])))
    return images


def crop(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns a random crop of 60 to 100 % of the area, mirrored and brightened by chance, as the network takes it."""
    from PIL import Image

    height, width = image.shape[:2]
    scale = np.sqrt(random.uniform(0.6, 1))
    h, w = int(height * scale), int(width * scale)
    top, left = random.integers(0, height - h + 1), random.integers(0, width - w + 1)
    cut = Image.fromarray(image[top : top + h, left : left + w]).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(cut, np.float32) * np.float32(random.uniform(0.8, 1.2))
    pixels = pixels[:, ::-1] if random.random() < 0.5 else pixels
    return normalized(np.clip(pixels, 0, 255))


def normalized(pixels: np.ndarray) -> np.ndarray:
    """Returns 0..255 RGB as the checkpoint was trained on it (TensorFlow's preprocessing for the Lite models)."""
    return ((pixels - 127) / 128).astype(np.float32)


def scores(files: dict[str, str], test: str) -> dict[str, Any]:
    """Returns per file and example: whether the largest output is the label's, and the float's; KL; SQNR in dB.

    The first file is the float one.
    """
    from featherweight import tflite
    from featherweight.analysis.evaluation import predict

    with np.load(test) as arrays:
        x, y = arrays["x"], arrays["y"]
        group = arrays["group"] if "group" in arrays else np.arange(len(y))
    outputs = {name: next(iter(predict(tflite.read(f), x).values())) for name, f in files.items()}
    reference = next(iter(outputs.values()))
    result: dict[str, Any] = {"group": group.tolist()}
    for name, values in outputs.items():
        error = float(np.square(values - reference).sum())
        result[name] = {
            "correct": (values.argmax(1) == y).tolist(),
            "agrees": (values.argmax(1) == reference.argmax(1)).tolist(),
            "kl": _divergence(reference, values).tolist(),
            "sqnr_db": 10 * np.log10(float(np.square(reference).sum()) / error) if error else None,
        }
    return result


def _divergence(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the Kullback-Leibler divergence per example, in nats, of logits or of probabilities."""

    def log_probabilities(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        if (x >= 0).all() and np.allclose(x.sum(1), 1, atol=0.05):
            return np.log(np.maximum(x, 1e-3))
        x = x - x.max(1, keepdims=True)
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    p, q = log_probabilities(reference), log_probabilities(values)
    return (np.exp(p) * (p - q)).sum(1)
