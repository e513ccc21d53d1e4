"""Masks in the files of Keras: one bit for each weight, with the shapes that tell one model from another."""

from __future__ import annotations

from typing import Any

import numpy as np

from featherweight.errors import DataError, listed
from featherweight.training.devices import values_of
from featherweight.training.pruning.mask_updates import Masking


def save(masking: Masking, store: Any) -> None:
    """Puts masks and movements into a store."""
    for i, (mask, value) in enumerate(values_of(masking.masks)):
        store[f"mask_{i}"] = np.packbits(value)
        store[f"shape_{i}"] = np.asarray(tuple(mask.shape))
    for i, (_, value) in enumerate(values_of(masking.movements)):
        store[f"movement_{i}"] = value


def load(masking: Masking, store: Any) -> None:
    """Takes masks and movements out of a store.

    Raises:
        DataError: if they belong to another model.
    """
    keys = list(store.keys())
    masks, movements = (sum(key.startswith(what) for key in keys) for what in ("mask_", "movement_"))
    shapes = [tuple(int(size) for size in np.asarray(store[f"shape_{i}"])) for i in range(masks)]
    expected = [tuple(mask.shape) for mask in masking.masks]
    if shapes != expected or movements != len(masking.movements):
        raise DataError(
            "SparseOptimizer: the stored masks belong to another model or another choice of kernels: they have the "
            f"shapes {listed(shapes)} and {movements} movements, this model's pruned kernels {listed(expected)} and "
            f"{len(masking.movements)}. Restore them onto the model that they were saved with."
        )
    for i, mask in enumerate(masking.masks):
        bits = np.unpackbits(np.asarray(store[f"mask_{i}"]), count=int(np.prod(mask.shape)))
        mask.assign(bits.reshape(tuple(mask.shape)).astype(bool))
    for i, movement in enumerate(masking.movements):
        movement.assign(np.asarray(store[f"movement_{i}"]))
