"""The warning that training leads away from what it is to reach."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np

_log = logging.getLogger("featherweight")

# What an epoch's loss may be of the first steps' or of the best epoch's; what it may be of the very first step's, which
# is one batch's; and what the later half of all epochs may be of the earlier one.
_AT_ONCE, _OF_ONE_BATCH, _IN_THE_END = 2.0, 8.0, 1.1
_FIRST_STEPS = 10
_LEAST_EPOCHS = 4


class WarnOfRisingLoss(keras.callbacks.Callback):
    """Warns once where a loss rises: at once, against the first steps', or in the end.

    For the first step no weight has moved, but its loss is one batch's, and batches differ: the mean of some steps says
    more where the loss rises slowly.

    Losses that change for another reason (integers that begin after a delay, ranges that are narrowed) are left alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first: float | None = None
        self.start: float | None = None
        self.losses: list[float] = []
        self.has_warned = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Begins anew."""
        ranges = self._trained.blueprint.ranges
        self.first, self.start, self.losses, self.has_warned = None, None, [], bool(ranges.delay or ranges.narrowing)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Takes note of the first batch's loss, and of the mean of the first steps', which the logs carry."""
        if self.first is None:
            self.first = _loss(logs)
        if batch < _FIRST_STEPS and not self.losses:
            self.start = _loss(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compares an epoch's loss with the lowest before."""
        loss, best = _loss(logs), min(self.losses, default=np.inf)
        self.losses.append(loss)
        if self.start is not None and loss > _AT_ONCE * self.start > 0:
            self._warn(self.start, "in the first steps", loss, f"in epoch {epoch + 1}")
        elif self.first is not None and loss > _OF_ONE_BATCH * self.first > 0:
            self._warn(self.first, "in the first step", loss, f"in epoch {epoch + 1}")
        elif loss > _AT_ONCE * best > 0:
            self._warn(best, "in the best epoch before", loss, f"in epoch {epoch + 1}")

    def on_train_end(self, logs: Any = None) -> None:
        """Compares the later epochs with the earlier ones."""
        half = len(self.losses) // 2
        if len(self.losses) >= _LEAST_EPOCHS:
            earlier, later = float(np.mean(self.losses[:half])), float(np.mean(self.losses[-half:]))
            if later > _IN_THE_END * earlier > 0:
                self._warn(earlier, "in the first half of all epochs", later, "in the second")

    @property
    def _trained(self) -> Any:
        return self.model

    def _warn(self, before: float, then: str, loss: float, now: str) -> None:
        if self.has_warned or not np.isfinite(loss):
            return
        self.has_warned = True
        _log.warning(
            "The loss of '%s' rises: %.3g %s, %.3g %s. A quantized model starts next to its optimum, and the learning "
            "rate leads away from it. Begin again from the untrained model with a tenth of the rate; "
            "fw.try_learning_rates (train --learning-rate auto) finds one on held-out samples.",
            self._trained.name,
            before,
            then,
            loss,
            now,
        )


def _loss(logs: Any) -> float:
    value = (logs or {}).get("loss")
    return float("nan") if value is None else float(value)
