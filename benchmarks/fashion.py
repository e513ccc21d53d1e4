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
