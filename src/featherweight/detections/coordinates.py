"""Boxes relative to anchors, and boxes of any order as corners."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featherweight.detections.boxes import Boxes
from featherweight.errors import DataError, listed


def from_anchors(boxes: np.ndarray, about: Boxes, names: Sequence[str]) -> np.ndarray:
    """Returns centres and sizes (n, B, 4), in fractions, in the order of the numbers.

    Raises:
        DataError: if there are not as many anchors as boxes.
    """
    anchors = np.asarray(about.anchors, np.float64)
    if len(anchors) != boxes.shape[1]:
        raise DataError(
            f"map: there are {len(anchors)} anchors, and {boxes.shape[1]} boxes in {listed(names)}. Give one "
            "anchor for each box, in their order."
        )
    raw = boxes / np.asarray(about.anchor_scales)
    with np.errstate(all="ignore"):
        sizes = np.exp(raw[..., 2:]) if about.sizes == "exponential" else raw[..., 2:]
        return np.concatenate([raw[..., :2] * anchors[:, 2:] + anchors[:, :2], sizes * anchors[:, 2:]], axis=-1)


def corners(boxes: np.ndarray, order: str) -> np.ndarray:
    """Returns x0, y0, x1, y1 of boxes (..., 4) in another order.

    >>> corners(np.array([4.0, 2.0, 2.0, 4.0]), "cycxhw").tolist()
    [0.0, 3.0, 4.0, 5.0]
    """
    if order in ("yxyx", "cycxhw"):
        boxes = boxes[..., [1, 0, 3, 2]]
    first, second = boxes[..., :2], boxes[..., 2:]
    if order.startswith("c"):
        return np.concatenate([first - second / 2, first + second / 2], axis=-1)
    return np.concatenate([first, first + second], axis=-1) if order == "xywh" else boxes
