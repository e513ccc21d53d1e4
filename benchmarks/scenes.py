"""Drawn pictures with rectangles and ellipses on noise, which a detector finds and tells apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE, CLASSES = 64, 2
# No two centres are nearer than this, in one direction: cells of this size hold one object.
_NEAREST = 12.8


class Scene(NamedTuple):
    """A picture with the boxes (x0, y0, x1, y1) and classes of what is on it: rectangles and ellipses."""

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def scene(random: np.random.Generator) -> Scene:
    """Draws up to three objects on noise; no two are near each other."""
    light = np.linspace(random.uniform(0.5, 1), random.uniform(0.5, 1), SIDE)[np.newaxis, :, np.newaxis]
    image = random.normal(0.5, 0.08, (SIDE, SIDE, 3)) * light
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    boxes: list[tuple[float, float, float, float]] = []
    classes: list[int] = []
    for _ in range(random.integers(1, 4)):
        w, h = random.uniform(8, 30, 2)
        x, y = random.uniform(0, SIDE - w), random.uniform(0, SIDE - h)
        kind, colour = int(random.integers(0, CLASSES)), random.uniform(0, 1, 3)
        centre = np.array([x + w / 2, y + h / 2])
        if any(np.abs(centre - (np.array(b[:2]) + b[2:]) / 2).max() < _NEAREST for b in boxes):
            continue
        across, down = (columns - centre[0]) / (w / 2), (rows - centre[1]) / (h / 2)
        inside = (np.maximum(np.abs(across), np.abs(down)) if kind == 0 else across**2 + down**2) < 1
        image[inside] = image[inside] * 0.2 + colour * 0.8
        boxes.append((x, y, x + w, y + h))
        classes.append(kind)
    return Scene(image.astype(np.float32), np.array(boxes, np.float32), np.array(classes))


def scenes(count: int, seed: int) -> list[Scene]:
    """Returns scenes of a seed."""
    random = np.random.default_rng(seed)
    return [scene(random) for _ in range(count)]
