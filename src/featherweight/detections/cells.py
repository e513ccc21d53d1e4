"""Boxes relative to the cells of levels: what YOLO's, FCOS's and BlazeFace's heads say before anything decodes them.

A level of stride s divides the image into cells of s × s pixels; cell (i, j) begins at (i·s, j·s). With raw numbers t
of a box, and σ for the logistic function, pixels are

========================== ======================== ==================
``sizes``                  centre                   size
========================== ======================== ==================
``exponential`` (YOLOX)    (i + t)·s                e^t · anchor
``yolov3``                 (i + σ(t))·s             e^t · anchor
``yolov5``                 (i − .5 + 2σ(t))·s       (2σ(t))² · anchor
``linear`` (BlazeFace)     (i + o)·s + t            t
========================== ======================== ==================

where an anchor's size is the stride if none is given, and o is the ``offset``, .5 for the middle of a cell. With
``order`` ltrb, t·s are the distances of the four sides from (i + o)·s (Tian et al., 1904.01355); of more than four
columns, each distance is the mean over the softmax of its bins (Li et al., 2006.04388).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from featherweight.detections.boxes import Boxes
from featherweight.errors import DataError, listed


class Cells(NamedTuple):
    """The cell of each box: its corner as column and row (B, 2), its stride (B, 1), and an anchor's size (B, 2)."""

    corners: np.ndarray
    strides: np.ndarray
    sizes: np.ndarray


def laid_out(
    outputs: Mapping[str, np.ndarray], names: Sequence[str], about: Boxes, size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Returns outputs (n, boxes, columns) of what levels have as maps: of channels last or first, or of anchors.

    Args:
        outputs: of a run.
        names: of those that hold boxes or scores.
        about: the strides.
        size: width and height of the model's image.

    Raises:
        DataError: if a map is that of no level.
    """
    found = dict(outputs)
    shapes = {_grid(size, stride) for stride in about.strides or ()}
    # One map can look like either: as many channels as rows. All of them are of one kind.
    maps = [outputs[name].shape for name in names if outputs[name].ndim == 4]
    is_first = any(s[1:3] not in shapes for s in maps) and all(s[2:4] in shapes for s in maps)
    for name in names:
        values = outputs[name]
        if values.ndim == 4:
            values = values.transpose(0, 2, 3, 1) if is_first else values
            if values.shape[1:3] not in shapes:
                raise _no_level(name, outputs[name], shapes)
        elif values.ndim == 5:  # anchors come first, as in YOLOv5's training head
            if values.shape[2:4] not in shapes:
                raise _no_level(name, outputs[name], shapes)
            values = values.transpose(0, 2, 3, 1, 4)
            values = values.reshape(*values.shape[:3], -1)
        if values.ndim == 4:
            level = [_grid(size, stride) for stride in about.strides or ()].index(values.shape[1:3])
            each = _per_cell(about)[level]
            if values.shape[3] % each:
                raise DataError(
                    f"map: output '{name}' has {values.shape[3]} columns for each cell, which {each} boxes do not "
                    "share evenly. Say per_cell, or the size of each anchor (anchor_sizes)."
                )
            values = values.reshape(len(values), -1, values.shape[3] // each)
        found[name] = values
    return found


def together(levels: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Returns outputs (n, boxes, columns) of several levels as one.

    Raises:
        DataError: if they differ in their columns.
    """
    if len({level.shape[-1] for level in levels}) > 1:
        raise DataError(f"map: the outputs {listed(names)} differ in the number of columns. Name one per level.")
    return np.concatenate(levels, axis=1)


def cells_of(about: Boxes, size: tuple[int, int], count: int, names: Sequence[str]) -> Cells:
    """Returns the cells of all boxes: level by level, row by row, the boxes of a cell one after the other.

    Raises:
        DataError: if there are not as many as boxes.
    """
    strides, each = about.strides or (), _per_cell(about)
    sizes = None if about.anchor_sizes is None else about.anchor_sizes.reshape(len(strides), -1, 2)
    parts: list[Cells] = []
    for level, stride in enumerate(strides):
        height, width = _grid(size, stride)
        rows, columns = (axis.repeat(each[level]) for axis in np.mgrid[:height, :width].reshape(2, -1))
        own = np.full((1, 2), stride) if sizes is None else sizes[level]
        corners = np.stack([columns, rows], axis=1).astype(np.float64)
        parts.append(
            Cells(corners, np.full((len(rows), 1), float(stride)), np.resize(own, (len(rows), 2)).astype(np.float64))
        )
    found = Cells(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    if len(found.corners) != count:
        raise DataError(
            f"map: strides {listed(f'{s:g}' for s in strides)} on an image of {size[0]} × {size[1]} make "
            f"{len(found.corners)} boxes ({listed(map(str, each))} per cell), and there are {count} in "
            f"{listed(names)}. Say other strides, or how many boxes a cell has on each level (per_cell)."
        )
    return found


def in_pixels(raw: np.ndarray, about: Boxes, order: str, cells: Cells) -> np.ndarray:
    """Returns centres and sizes, or corners for ltrb, float64 (n, B, 4) in pixels, in the order of the numbers."""
    corners, sizes = cells.corners, cells.sizes
    if order == "cycxhw":
        corners, sizes = corners[:, ::-1], sizes[:, ::-1]
    with np.errstate(all="ignore"):
        if order == "ltrb":
            distances, points = _distances(raw) * cells.strides, (corners + about.offset) * cells.strides
            return np.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)
        raw = raw[..., :4] / np.asarray(about.anchor_scales)
        first, second = raw[..., :2], raw[..., 2:]
        if about.sizes == "yolov5":
            centres, spans = (
                (corners - 0.5 + 2 * _logistic(first)) * cells.strides,
                (2 * _logistic(second)) ** 2 * sizes,
            )
        elif about.sizes == "linear":
            centres, spans = (corners + about.offset) * cells.strides + first, second
        else:
            shifts = _logistic(first) if about.sizes == "yolov3" else first
            centres, spans = (corners + shifts) * cells.strides, np.exp(second) * sizes
    return np.concatenate([centres, spans], axis=-1)


def _distances(raw: np.ndarray) -> np.ndarray:
    """Returns distances (n, B, 4); of several bins each, the means over their softmax."""
    if raw.shape[-1] == 4:
        return raw
    bins = raw.reshape(*raw.shape[:-1], 4, -1)
    powers = np.exp(bins - bins.max(axis=-1, keepdims=True))
    return (powers @ np.arange(bins.shape[-1])) / powers.sum(axis=-1)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _grid(size: tuple[int, int], stride: float) -> tuple[int, int]:
    """Returns rows and columns of a level."""
    return int(np.ceil(size[1] / stride)), int(np.ceil(size[0] / stride))


def _per_cell(about: Boxes) -> tuple[int, ...]:
    """Returns how many boxes a cell has on each level."""
    levels = len(about.strides or ())
    if about.anchor_sizes is not None:
        return (about.anchor_sizes.size // 2 // levels,) * levels
    return about.per_cell if len(about.per_cell) == levels else about.per_cell * levels


def _no_level(name: str, values: np.ndarray, shapes: set[tuple[int, int]]) -> DataError:
    return DataError(
        f"map: output '{name}' has the shape {list(values.shape)}, and the strides make levels of "
        f"{listed(f'{rows} × {columns}' for rows, columns in sorted(shapes, reverse=True))} cells. Say other strides, "
        "or name other outputs."
    )
