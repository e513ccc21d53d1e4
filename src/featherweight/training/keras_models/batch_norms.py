"""Statistics of batch norms, estimated anew before a model is lowered and they are folded away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import keras
import numpy as np

from featherweight import keras_internals
from featherweight.arguments import checked, instance, shown, stream
from featherweight.errors import DataError, RecipeError
from featherweight.operators.call import Array
from featherweight.training.graph.registry import ops


@checked(model=instance(keras.Model, way="Pass the live Keras model."), batches=stream)
def reestimate_batch_norm(model: keras.Model, batches: Iterable[Any]) -> list[str]:
    """Sets moving mean and variance of all batch norms to those of whole batches of training data, without training.

    With the weights as they are, every batch is computed once, each batch norm normalizing by the batch, and the
    statistics of the batches are pooled: ``mean = E[mean_B]``, ``variance = E[mean_B**2 + variance_B] - mean**2``
    (PreciseBN: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2105.07576, section 3), weighted by how many values a
    batch has. All else computes as in predictions, dropout for one: what it adds to a variance would not be there in
    the deployed model (Li et al., 1801.05134). Frozen batch norms are estimated as well.

    Args:
        model: any Keras model; its batch norms are changed in place.
        batches: what the model takes, one batch after another (arrays, lists of several inputs, or dicts by input
            name), without labels. Large batches estimate best; 1,000 to 10,000 examples are enough.

    Returns:
        The paths of the batch norms, less those that no batch reached, whose statistics stay.

    Raises:
        RecipeError: if the model has no batch norm.
        DataError: if there is no batch, or a statistic is not finite. The model is then as it was.

    >>> import keras, numpy as np
    >>> norm = keras.layers.BatchNormalization(name="norm")
    >>> model = keras.Sequential([keras.Input((1,)), norm], name="net")
    >>> reestimate_batch_norm(model, [np.float32([[1], [3]]), np.float32([[5], [7]])])
    ['net/norm']
    >>> float(norm.moving_mean[0]), float(norm.moving_variance[0])
    (4.0, 5.0)
    """
    layers = _batch_norms(model)
    if not layers:
        raise RecipeError(
            f"The model '{model.name}' has no batch norm whose statistics could be estimated. Use it as it is."
        )
    if isinstance(batches, Mapping) or hasattr(batches, "shape"):
        raise DataError(
            f"reestimate_batch_norm takes an iterable of batches, not one {type(batches).__name__}. Cut it into "
            "batches, or pass a list of it."
        )
    pools = {layer: _Pool() for layer in layers}
    _observe(model, (keras.tree.map_structure(np.asarray, batch) for batch in batches), pools)
    reached = {layer: pool.statistics() for layer, pool in pools.items() if pool.values}
    if not reached:
        raise DataError("There is no batch to estimate the statistics of batch norms from. Give one at least.")
    for layer, statistics in reached.items():
        if not np.isfinite(statistics).all():
            raise DataError(f"Batch norm '{layer.path}' gets statistics that are not finite. Look at its inputs.")
    for layer, statistics in reached.items():
        _assign(layer, *statistics)
    return [layer.path for layer in reached]


@dataclass(frozen=True, eq=False)
class FirstNorm:
    """What the first batch norm of a model reads of some data, and what it was trained on.

    Attributes:
        path: the layer's.
        mean, variance: of what it reads, per channel.
        expected_mean, expected_variance: its moving statistics.
        outputs: of the model as it is, flat.
        normalized: of the model if these data had the statistics that were expected, flat.
    """

    path: str
    mean: np.ndarray
    variance: np.ndarray
    expected_mean: np.ndarray
    expected_variance: np.ndarray
    outputs: np.ndarray
    normalized: np.ndarray


def first_norm(model: keras.Model, batch: Any, *, whole: bool = True) -> FirstNorm | None:
    """Returns what the first batch norm reads of a batch; None without one that was trained.

    Args:
        model: any Keras model; it stays as it is.
        batch: what it takes.
        whole: run the whole model; else only what leads to the batch norm, where it is a layer of the model itself:
            without outputs then, which are empty. None where it is not.
    """
    layers = _batch_norms(model)
    if not layers or not layers[0].built:
        return None
    expected = _statistics(layers[0])
    if not expected[0].any() and (expected[1] == 1).all():
        return None
    pools = {layers[0]: _Pool()}
    if not whole:
        try:
            read: Any = keras.Model(model.inputs[0], layers[0].input)(batch, training=False)
        except (AttributeError, ValueError):  # it is part of another layer, or called several times
            return None
        pools[layers[0]].add(read, None, layers[0].axis)
        return FirstNorm(layers[0].path, *pools[layers[0]].statistics(), *expected, np.zeros(0), np.zeros(0))
    outputs: Any = model(batch, training=False)
    try:
        normalized: Any = keras_internals.twin(model, partial(_normalize_by_batch, pools))(batch, training=False)
    finally:
        _assign(layers[0], *expected)
    if not pools[layers[0]].values:
        return None
    return FirstNorm(layers[0].path, *pools[layers[0]].statistics(), *expected, _flat(outputs), _flat(normalized))


def _flat(outputs: Any) -> np.ndarray:
    parts = [np.asarray(ops.convert_to_numpy(each), np.float64).reshape(-1) for each in keras.tree.flatten(outputs)]
    return np.concatenate(parts)


def _batch_norms(model: Any) -> list[Any]:
    return [layer for layer in keras_internals.layers_of(model) if isinstance(layer, keras.layers.BatchNormalization)]


@dataclass
class _Pool:
    """What the batches of one layer add up to: values per channel, their sum and that of their squares."""

    values: float = 0.0
    total: np.ndarray | float = 0.0
    squares: np.ndarray | float = 0.0

    def add(self, x: Array, mask: Array | None, axis: int) -> tuple[np.ndarray, np.ndarray]:
        """Adds one batch; returns its mean and variance, float32."""
        real = np.moveaxis(np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")), np.float64), axis, -1)
        if mask is None:
            rows = real.reshape(-1, real.shape[-1])
        else:
            kept = np.broadcast_to(np.asarray(ops.convert_to_numpy(mask), bool)[..., None], x.shape)
            rows = real[np.moveaxis(kept, axis, -1)[..., 0]]
        mean, variance = rows.mean(axis=0), rows.var(axis=0)
        self.values += len(rows)
        self.total = self.total + len(rows) * mean
        self.squares = self.squares + len(rows) * (mean**2 + variance)
        return mean.astype(np.float32), variance.astype(np.float32)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variance of all batches."""
        mean = np.asarray(self.total / self.values)
        return mean, np.maximum(np.asarray(self.squares / self.values) - mean**2, 0.0)


def _observe(model: keras.Model, batches: Iterator[Any], pools: Mapping[Any, _Pool]) -> None:
    """Adds what the batch norms read of batches to their pools; each normalizes by the batch meanwhile."""
    for first in batches:
        try:
            model(first, training=False)  # builds what is not built
        except (ValueError, TypeError) as error:
            said = " ".join(str(error).split())[:300]
            raise DataError(
                f"reestimate_batch_norm: batches hold {shown(first)}, which the model does not take ({said}). Pass "
                "batches of inputs, without labels."
            ) from error
        before = {layer: _statistics(layer) for layer in pools if layer.built}
        try:
            observed: Any = keras_internals.twin(model, partial(_normalize_by_batch, pools))
            for batch in chain([first], batches):
                observed(batch, training=False)
        finally:
            for layer, statistics in before.items():
                _assign(layer, *statistics)


def _normalize_by_batch(pools: Mapping[Any, _Pool], twin: Any, layer: Any) -> None:
    """Lets the twin of a layer that has a pool add what it reads to it, and normalize by that."""
    computes = twin.call

    def call(inputs: Array, training: bool | None = None, mask: Array | None = None) -> Array:
        _assign(layer, *pools[layer].add(inputs, mask, layer.axis))
        return computes(inputs, training=False, mask=mask)

    if layer in pools:
        twin.call = call


def _statistics(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    return ops.convert_to_numpy(layer.moving_mean), ops.convert_to_numpy(layer.moving_variance)


def _assign(layer: Any, mean: np.ndarray, variance: np.ndarray) -> None:
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
