"""An optimizer around another one: what it passes through, and what becomes of loss scales."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import keras
import numpy as np

from featherweight import keras_internals
from featherweight.errors import RecipeError, listed


def path_of(variable: Any) -> str:
    """Returns the path of a variable, of Keras or of TensorFlow."""
    return getattr(variable, "path", None) or str(variable.name)


class WrappingOptimizer(keras.optimizers.Optimizer):
    """Leaves counting, learning rate and loss scale to the optimizer that it wraps, and adds variables of its own."""

    inner_optimizer: Any

    @property
    def variables(self) -> list[Any]:
        """Its own variables, then those of the wrapped optimizer."""
        return super().variables + self.inner_optimizer.variables

    @property
    def iterations(self) -> Any:
        """The number of finished updates, counted by the wrapped optimizer."""
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        """The learning rate of the wrapped optimizer."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def loss_scale_factor(self) -> float | None:
        """The fixed loss scale of the wrapped optimizer."""
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor: float | None) -> None:
        """Called by a `LossScaleOptimizer` that is put around: one inside would scale a second time, and is dropped."""
        inner = getattr(self, "inner_optimizer", None)
        if isinstance(inner, keras.optimizers.LossScaleOptimizer):
            if self.built:
                raise RecipeError(
                    f"{type(self).__name__}: a second LossScaleOptimizer is put around one that is already in use. "
                    "Compile with auto_scale_loss=False."
                )
            _warn_of_lost(inner, type(self).__name__)
            self.inner_optimizer = inner.inner_optimizer
        elif inner is not None:
            inner.loss_scale_factor = factor

    def add_variable_like(self, variable: Any, name: str, value: bool | float) -> Any:
        """Adds a variable of the shape of another, on the same devices, named after it, with one value everywhere.

        (That NumPy makes: the backend would compile a function for each shape.)
        """
        initializer: Any = partial(np.full, fill_value=value)
        return self.add_variable(
            variable.shape,
            initializer,
            "bool" if isinstance(value, bool) else "float32",
            layout=keras_internals.sharding_of(variable),
            name=f"{path_of(variable).replace('/', '_')}_{name}",
        )

    def scale_loss(self, loss: Any) -> Any:
        """Scales a loss as the wrapped optimizer does."""
        return self.inner_optimizer.scale_loss(loss)


def _warn_of_lost(dropped: Any, wrapper: str) -> None:
    """Warns of the settings that a dropped `LossScaleOptimizer` had and one without arguments has not."""
    usual = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    names = ("initial_scale", "dynamic_growth_steps")
    if lost := [
        f"{name}={getattr(dropped, name):g}" for name in names if getattr(dropped, name) != getattr(usual, name)
    ]:
        warnings.warn(
            f"{wrapper}: the LossScaleOptimizer inside is dropped, since another one is put around, and with it "
            f"{listed(lost)}. Put the one with these settings around it, or compile with "
            "auto_scale_loss=False.",
            stacklevel=4,
        )
