"""Clusters that training keeps: all weights of one value move together, in units of their channels' scales.

A weight of a cluster is the mean of its members, each by its own scale, times its scale; gradients of all members so
reach all of them, and integers of members are equal in every step. (The means are the centroids of Han et al.,
1510.00149, section 3.2, in units of scales.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from featherweight.training.graph.registry import Array, ops

# Means so near to the middle of two integers are moved out of it: members must round alike.
_NEAR, _STEP = np.float32(1e-3), np.float32(2e-3)


@dataclass(frozen=True, eq=False)
class Tied:
    """The clusters of one weight.

    Attributes:
        members: of each element, its cluster's number; in the weight's shape, int32.
        counts: of each cluster, how many members it has, float32.
    """

    members: keras.Variable
    counts: keras.Variable

    def held(self, value: Array, scale: Array) -> Array:
        """Returns the weight with the mean of its cluster for each element; the scale broadcasts."""
        members, counts = ops.convert_to_tensor(self.members), ops.convert_to_tensor(self.counts)
        scale = ops.stop_gradient(ops.convert_to_tensor(scale))
        units = ops.reshape(value / scale, (-1,))
        means = ops.segment_sum(units, ops.reshape(members, (-1,)), num_segments=counts.shape[0]) / counts
        fixed = ops.stop_gradient(means)
        is_between = ops.abs(fixed - ops.floor(fixed) - 0.5) < _NEAR
        means = means + ops.where(is_between, _STEP, np.float32(0))
        return ops.take(means, members, axis=0) * scale


def made_tied(number: int, members: np.ndarray, count: int, make: Callable[..., keras.Variable]) -> Tied:
    """Makes the variables of one weight's clusters; `make` makes one from (name, value, trainable)."""
    counts = np.bincount(members.ravel(), minlength=count).astype(np.float32)
    return Tied(make(f"clusters_{number}", members, False), make(f"cluster_sizes_{number}", counts, False))
