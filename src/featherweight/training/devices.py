"""Reading and assigning variables that have a copy on each of several devices."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from featherweight.training.graph.registry import ops


def values_of(variables: Sequence[Any]) -> list[tuple[Any, np.ndarray]]:
    """Returns each variable with its value."""
    return [(variable, ops.convert_to_numpy(variable.value)) for variable in variables]


def assign(values: Sequence[tuple[Any, Any]]) -> None:
    """Assigns values to Keras variables, in a replica of TensorFlow's strategies to all of their copies."""
    replica = _replica()
    if replica is None:
        for variable, value in values:
            variable.assign(value)
        return
    variables = [variable.value for variable, _ in values]

    def update(strategy: Any, arrays: Sequence[Any]) -> None:
        for variable, array in zip(variables, arrays, strict=True):
            strategy.extended.update(variable, lambda v, x: v.assign(x), args=(array,), group=False)

    replica.merge_call(update, args=([array for _, array in values],))


def extremes_of_all(least: Any, largest: Any) -> tuple[Any, Any]:
    """Returns the extremes of the whole batch, of which a replica of TensorFlow's strategies sees a part.

    (On JAX, arrays over several devices are whole.)
    """
    replica = _replica()
    if replica is None:
        return least, largest
    gathered = [replica.all_gather(ops.expand_dims(part, 0), axis=0) for part in (least, largest)]
    return ops.min(gathered[0], axis=0), ops.max(gathered[1], axis=0)


@contextmanager
def outside_of_graphs() -> Generator[None, None, None]:
    """Makes variables at once where TensorFlow traces a function: one that makes them itself is traced twice."""
    if keras.backend.backend() != "tensorflow" or _replica() is not None:
        yield
        return
    import tensorflow as tf

    def make(next_creator: Any, **options: Any) -> Any:
        return next_creator(**{**options, "experimental_enable_variable_lifting": False})

    with tf.init_scope(), tf.variable_creator_scope(make):
        yield


def _replica() -> Any:
    """Returns the replica of TensorFlow's strategies in which this runs, or None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    is_inside = tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
    return tf.distribute.get_replica_context() if is_inside else None
