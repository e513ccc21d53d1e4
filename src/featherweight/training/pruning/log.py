"""Sparsity among the metrics of a training: in the history, in TensorBoard, in CSV logs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from featherweight.errors import RecipeError
from featherweight.training.pruning.optimizer import SparseOptimizer


class SparsityLog(keras.callbacks.Callback):
    """Adds ``sparsity`` and ``sparsity/PATH`` for each pruned kernel to what an epoch logs.

    Other callbacks see them if they come later in the list: ``callbacks=[fw.SparsityLog(), keras.callbacks.TensorBoard(
    "logs")]``. Pruning works without it.

    Raises:
        RecipeError: when training begins, if the model is not compiled with a `SparseOptimizer`.
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the optimizer."""
        model: Any = self.model
        optimizer = model.optimizer
        while optimizer is not None and not isinstance(optimizer, SparseOptimizer):
            optimizer = getattr(optimizer, "inner_optimizer", None)
        if optimizer is None:
            raise RecipeError("SparsityLog: the model is not compiled with a SparseOptimizer. Leave it out.")
        self.optimizer = optimizer

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the sparsities."""
        if logs is None:
            return
        sparsities = self.optimizer.sparsities()
        sizes = [int(np.prod(kernel.shape)) for kernel in self.optimizer.kernels]
        logs["sparsity"] = float(np.average(list(sparsities.values()), weights=sizes))
        logs.update({f"sparsity/{path}": sparsity for path, sparsity in sparsities.items()})
