"""Trains a pruned copy of a Keras model: what a point of the sparsity curve needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from featherweight.errors import RecipeError
from featherweight.training.pruning.optimizer import SparseOptimizer
from featherweight.training.schedules import polynomial_decay

# The share of the steps in which the sparsity rises; the weights that are left have the others to make up for it.
_RISING = 0.6


def retrained(
    model: keras.Model,
    sparsity: float,
    pattern: str,
    data: tuple[Any, Any],
    *,
    epochs: int,
    batch: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> keras.Model:
    """Returns a copy of a model, pruned by its optimizer (Adam, cosine) while it trains on (x, labels).

    The loss is the model's own where it is compiled, else by the labels: cross-entropy for integers, squared error for
    others. The model that is given is not touched.

    Raises:
        RecipeError: if there is nothing to train for.
    """
    x, y = data
    count = len(next(iter(x.values())) if isinstance(x, dict) else x)
    steps = epochs * -(-count // batch)
    if epochs < 1 or not count:
        raise RecipeError(f"retraining: {epochs} epochs over {count} examples leave nothing to train.")
    keras.utils.set_random_seed(seed)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    rate: Any = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    schedule = polynomial_decay(0.0, sparsity, begin=0, end=max(int(_RISING * steps), 1))
    optimizer: Any = keras.optimizers.Adam(rate)
    if sparsity:
        optimizer = SparseOptimizer(optimizer, schedule, pattern, frequency=max(steps // 50, 1))
    copy.compile(optimizer, loss=_loss(model, np.asarray(y)))
    copy.fit(x, y, batch_size=batch, epochs=epochs, verbose=0)  # pyright: ignore[reportArgumentType]
    return copy


def _loss(model: Any, labels: np.ndarray) -> Any:
    if getattr(model, "compiled", False) and model.loss is not None:
        return model.loss
    return "sparse_categorical_crossentropy" if labels.dtype.kind in "iu" else "mse"


def opened(path: str | Path) -> Any:
    """Returns a Keras model from its file.

    Raises:
        RecipeError: if the file holds no Keras model.
    """
    if Path(path).suffix.lower() not in (".keras", ".h5"):
        raise RecipeError(f"retraining: '{path}' holds no Keras model (allowed: .keras, .h5).")
    return keras.saving.load_model(path)
