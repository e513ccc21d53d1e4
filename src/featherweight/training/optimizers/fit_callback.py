"""What an optimizer can learn of the training that it is part of: `fit` tells its callbacks, and they the model."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def is_trained_by(layer: Any, optimizer: Any) -> bool:
    """True for a model that is compiled with an optimizer, or with one that wraps it."""
    found = getattr(layer, "optimizer", None)
    while found is not None and found is not optimizer:
        found = getattr(found, "inner_optimizer", None)
    return found is optimizer


def steps_of_training(model: Any) -> int | None:
    """Returns how many steps the `fit` that has just begun will train; None in custom loops, or if nobody knows.

    The history is a callback of every `fit`. It has no epochs until the first one ends, so that a history of an earlier
    `fit` is told from this one's. With an `initial_epoch`, the epochs before it are counted too.
    """
    history = getattr(model, "history", None)
    told = getattr(history, "params", None) or {}
    if getattr(history, "epoch", None) or not told.get("steps") or not told.get("epochs"):
        return None
    return int(told["steps"]) * int(told["epochs"])


@dataclass(frozen=True)
class Training:
    """The models that are compiled with an optimizer, as weak references."""

    models: tuple[weakref.ref[Any], ...]

    @classmethod
    def of(cls, layers: Sequence[Any], optimizer: Any) -> Training:
        """Finds the models among layers."""
        return cls(tuple(weakref.ref(layer) for layer in layers if is_trained_by(layer, optimizer)))

    def warn_if_too_short(self, end: int, start: int, optimizer: Any, lost: str) -> None:
        """Warns if the `fit` that has just begun will end too early.

        Args:
            end: the step that is to be reached.
            start: the number of updates before this training.
            optimizer: makes the updates, perhaps of several batches each.
            lost: sentence with places for ``end`` and ``last``, the steps.
        """
        accumulated = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        models = [model for model in (reference() for reference in self.models) if model is not None]
        for steps in filter(None, map(steps_of_training, models)):
            last = start + steps // accumulated
            if last < end:
                warnings.warn(lost.format(end=end, last=last), stacklevel=3)
