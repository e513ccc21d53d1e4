"""Where the batch lies in one tensor of a graph that was lowered at a fixed batch.

The batch may move to any axis, and may be merged with other sizes: Swin's windows are counted by one axis, sample by
sample. So a place is an axis and the number of the axis's elements outside of the batch: the axis counts
``outside × batch × inside``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Place:
    """The axis that holds the batch, which counts ``outside × batch × inside``."""

    axis: int
    outside: int = 1


def relocated(shape: Sequence[int], place: Place, into: Sequence[int], batch: int) -> Place | None:
    """Returns the place of the batch after the elements of `shape` are read, in their order, as `into`.

    >>> relocated((2, 8, 49, 96), Place(0), (16, 49, 96), batch=2)
    Place(axis=0, outside=1)
    >>> relocated((49, 2, 96), Place(1), (98, 96), batch=2)
    Place(axis=0, outside=49)
    """
    before = math.prod(shape[: place.axis]) * place.outside
    passed, possible = 1, list[Place]()
    for axis, size in enumerate(into):
        if before % passed == 0 and size and size % (before // passed * batch) == 0:
            possible.append(Place(axis, before // passed))
        passed *= size or 1
    # One only, but at a batch of 1: then its own axis, an axis of size 1, the front of a larger one, the end of one.
    return min(
        possible,
        key=lambda p: (into[p.axis] != 1, into[p.axis] == 1 and p.axis != place.axis, p.outside != 1, p.axis),
        default=None,
    )


def one_of(array: np.ndarray, place: Place, batch: int) -> np.ndarray | None:
    """Returns a constant's part for one sample, or None where it differs from sample to sample."""
    front, size, back = array.shape[: place.axis], array.shape[place.axis], array.shape[place.axis + 1 :]
    split = array.reshape(*front, place.outside, batch, -1, *back)
    first = split[(slice(None),) * (len(front) + 1) + (slice(0, 1),)]
    return first.reshape(*front, size // batch, *back) if (split == first).all() else None
