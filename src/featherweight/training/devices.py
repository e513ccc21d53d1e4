"""Reading and assigning variables that have a copy on each of several devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from featherweight.training.registry import ops


def values_of(variables: Sequence[Any]) -> list[tuple[Any, np.ndarray]]:
    """Returns each variable with its value."""
    return [(variable, ops.convert_to_numpy(variable.value)) for variable in variables]


def assign(values: Sequence[tuple[Any, Any]]) -> None:
    """Assigns values to Keras variables, in a replica of TensorFlow's strategies to all of their copies."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context():
            variables = [variable.value for variable, _ in values]

            def update(strategy: Any, arrays: Sequence[Any]) -> None:
                for variable, array in zip(variables, arrays, strict=True):
                    strategy.extended.update(variable, lambda v, x: v.assign(x), args=(array,), group=False)

            tf.distribute.get_replica_context().merge_call(update, args=([array for _, array in values],))
            return
    for variable, value in values:
        variable.assign(value)
