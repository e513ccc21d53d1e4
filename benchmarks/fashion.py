"""Fashion-MNIST for the benchmarks of training: the same batches in the same order for every tool."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from featherweight.demo import dataset

BATCH = 64
_CALIBRATION = 200


def data() -> dataset.Dataset:
    """Returns the full set where it is installed, else the subset that the package carries."""
    return dataset.load()


def batches(images: dataset.Dataset, steps: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `steps` batches, every epoch in an order of its own."""
    random, order = np.random.default_rng(seed), np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = random.permutation(len(images.x_train))
        chosen, order = order[:BATCH], order[BATCH:]
        yield images.x_train[chosen], images.y_train[chosen]


def calibration(images: dataset.Dataset, seed: int) -> np.ndarray:
    """Returns training images to calibrate with, one by one: (200, 1, 28, 28, 1)."""
    step = len(images.x_train) // _CALIBRATION
    return images.x_train[seed % step :: step][:_CALIBRATION, np.newaxis]


def mirrored(given: Iterator[tuple[np.ndarray, np.ndarray]], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches in which every second image, by chance, is mirrored."""
    random = np.random.default_rng(seed)
    for images, labels in given:
        is_turned = random.random(len(images)) < 0.5
        yield np.where(is_turned[:, None, None, None], images[:, :, ::-1], images), labels


def drawn(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns images as a network of other inputs takes them: drawn by lines between pixels, channels alike."""
    if images.shape[1:] == shape:
        return images
    down, across = (_resampling(images.shape[axis], shape[axis - 1]) for axis in (1, 2))
    made = np.einsum("ai,nijc,bj->nabc", down, images, across, optimize=True)
    return np.repeat(made, shape[2], axis=3).astype(np.float32)


def _resampling(size: int, wanted: int) -> np.ndarray:
    at = np.linspace(0, size - 1, wanted)
    return np.stack([np.interp(at, np.arange(size), row) for row in np.eye(size)], axis=1)
