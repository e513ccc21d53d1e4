"""What stops a training whose numbers are worth nothing: losses, weights and ranges that are not finite."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from featherweight.errors import DataError
from featherweight.training.graph.registry import ops


class StopAtNonFinite(keras.callbacks.Callback):
    """Raises where a loss is no longer finite, and names the weight or range that is not, if there is one."""

    _EVERY = 100

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Looks at the loss now and then: to read it, one has to wait for it."""
        if batch % self._EVERY == self._EVERY - 1:
            self._check(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Looks at the loss of the epoch."""
        self._check(logs)

    def _check(self, logs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or np.isfinite(float(loss)):
            return
        model: Any = self.model
        what = _not_finite(model) or (
            "all weights and ranges are finite, so look for NaN in the data, or a loss that overflows"
        )
        raise DataError(
            f"The loss of '{model.name}' is {float(loss)}: {what}. Lower the learning rate, or repair the data; "
            "training went no further."
        )


def require_finite(model: keras.Model) -> None:
    """Raises where a weight or range is not finite, as it may be after steps that `fit` did not take.

    Raises:
        DataError: naming it.
    """
    if what := _not_finite(model):
        raise DataError(
            f"'{model.name}' can't be finalized: {what}. Train again with a lower learning rate, and look for NaN in "
            "the data."
        )


def _not_finite(model: Any) -> str | None:
    """Returns the first weight or range that is not finite, in words."""
    for variable in (*model.trainable_variables, *model.non_trainable_variables):
        values = np.asarray(ops.convert_to_numpy(variable))
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"'{variable.path}' holds NaN or infinite values"
    return None
