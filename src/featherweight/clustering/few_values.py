"""Weights that have few values: which elements have the same, in units of scales."""

from __future__ import annotations

import numpy as np

from featherweight.clustering.levels import LARGEST
from featherweight.graph import Model
from featherweight.pruning.criteria import as_rows
from featherweight.pruning.prunable import GraphKernel, find_kernels
from featherweight.tflite import release_pages

# Files hold at most so many values for a kernel, and each at least so many weights.
_MOST, _LEAST_MEMBERS = 128, 8
# Elements that are looked at before all of them.
_FEW = 4096
# How far from each other, in integers, the values of a cluster may be: float32 rounds them.
_OFF = 1e-2


def clusters_of(value: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """Returns each element's cluster of a float weight that has few values; None for others.

    Elements of one integer are a cluster where they are one number in units of the scale, too.

    Args:
        value: the weight.
        scale: of its int8 integers, which broadcasts.
    """
    few = np.unravel_index(np.arange(0, value.size, max(1, value.size // _FEW)), value.shape)
    if _grouped(value[few], np.broadcast_to(scale, value.shape)[few]) is None:  # which says no for nearly all weights
        return None
    found = _grouped(value, scale)
    if found is None or not (len(found[0]) > 1 and value.size >= _LEAST_MEMBERS * len(found[0])):
        return None
    return found[1].reshape(value.shape).astype(np.int32)


def _grouped(value: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the integers of elements that have few values, and which each has; None for others."""
    with np.errstate(divide="ignore", invalid="ignore"):
        units = value.astype(np.float64) / scale
    if not np.isfinite(units).all():
        return None
    found, members = np.unique(np.rint(units), return_inverse=True)
    members = members.reshape(-1)
    if len(found) > _MOST:
        return None
    least, largest = np.full(len(found), np.inf), np.full(len(found), -np.inf)
    np.minimum.at(least, members, units.ravel())
    np.maximum.at(largest, members, units.ravel())
    return (found, members) if (largest - least).max(initial=0.0) <= _OFF else None


def in_channels(rows: np.ndarray) -> np.ndarray | None:
    """Returns each element's cluster of a weight that has few values in units of each row's largest; None for others.

    Args:
        rows: (channels, depth).
    """
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return clusters_of(rows, np.where(largest > 0, largest, 1.0) / LARGEST)


def dissolved(before: Model, after: Model) -> tuple[str, ...]:
    """Returns a sentence for each kernel that has few values before, and many afterwards; kernels go by name."""
    now = {kernel.name: kernel for kernel in find_kernels(after)}
    said = list[str]()
    for kernel in find_kernels(before):
        rows = _rows(before, kernel)
        found = in_channels(rows)
        if found is not None and kernel.name in now:
            others = _rows(after, now[kernel.name])
            if others.shape == rows.shape and in_channels(others) is None:
                said.append(f"the {int(found.max()) + 1} values of '{kernel.name}' are many now")
        release_pages(before.graphs[kernel.graph].tensors[kernel.name].data)
    return tuple(said)


def _rows(model: Model, kernel: GraphKernel) -> np.ndarray:
    array = model.graphs[kernel.graph].tensors[kernel.name].array
    assert array is not None
    return as_rows(array, kernel.kernel.layout)
