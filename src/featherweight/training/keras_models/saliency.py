"""What the loss would lose with each weight, to first order: weight × gradient, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from featherweight.errors import DataError
from featherweight.graph import Model
from featherweight.training.graph.graph_model import graph_model
from featherweight.training.graph.registry import ops


class _GradientsAsWeights(keras.optimizers.Optimizer):
    """Puts gradients in the place of weights, from where they are read: that way is the same on every backend."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Assigns the gradient."""
        # TensorFlow's gradient of a table names the rows that were looked up; the sum has them all.
        self.assign(variable, ops.add(ops.zeros(variable.shape, variable.dtype), gradient))


def contributions(model: Model, data: Any, loss: Any, batch_size: int = 32) -> Iterator[dict[str, np.ndarray]]:
    """Yields, for each batch of ``data = (inputs, labels)``, constant → weight × gradient of the loss.

    Args:
        model: a float graph.
        data: inputs, an array or a dict by public name, and labels.
        loss: a Keras loss, or its name.
        batch_size: examples in a batch.

    Raises:
        DataError: if the data are no pair, or differ in length.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise DataError(f"Data must be a pair (inputs, labels), not {type(data).__name__}.")
    inputs, labels = data[0], np.asarray(data[1])
    parts = {k: np.asarray(v) for k, v in inputs.items()} if isinstance(inputs, dict) else {"": np.asarray(inputs)}
    if len(lengths := {len(labels), *(len(part) for part in parts.values())}) > 1 or not len(labels):
        raise DataError(f"Inputs and labels have lengths of {sorted(lengths)}; they must be equal, and not 0.")
    graph = graph_model(model)
    weights = graph.current_values()
    graph.compile(_GradientsAsWeights(learning_rate=1.0, name="gradients"), loss)
    for start in range(0, len(labels), batch_size):
        batch = {name: part[start : start + batch_size] for name, part in parts.items()}
        for name, variable in graph.variables_by_tensor.items():
            variable.assign(weights[name])
        graph.train_on_batch(batch if isinstance(inputs, dict) else batch[""], labels[start : start + batch_size])
        yield {
            name: (weights[name] * value).reshape(model.main.tensors[name].shape)
            for name, value in graph.current_values().items()
            if name in model.main.tensors
        }
