"""An optimizer around another one: what it passes through, and what becomes of loss scales."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from featherweight import keras_internals
from featherweight.errors import RecipeError, listed
from featherweight.training.devices import outside_of_graphs
from featherweight.training.graph.registry import ops


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


class ConstrainingOptimizer(WrappingOptimizer):
    """Holds weights, after every step of the wrapped optimizer, where they are to be.

    It works in `compile`, in custom loops, in replicas of TensorFlow and without a state (JAX), inside and around a
    `LossScaleOptimizer`. A subclass builds, and says what it does before and after a step.
    """

    def before_step(self, gradients: Sequence[Any], variables: Sequence[Any] | None) -> tuple[Any, Sequence[Any]]:
        """Returns what `after_step` is to know, and the gradients for the wrapped optimizer.

        Args:
            gradients: of the variables.
            variables: what is trained; None for all that the optimizer was built with.
        """
        raise NotImplementedError

    def after_step(self, noted: Any) -> None:
        """Changes what the wrapped optimizer has made of the weights."""
        raise NotImplementedError

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """Updates the weights with the wrapped optimizer, and holds them where they are to be."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                with outside_of_graphs(), keras.name_scope(self.name, caller=self):
                    self.build(trainable_variables)
        if not self.built:
            self.inner_optimizer.apply(grads)  # says what is missing
        noted, gradients = self.before_step(grads, trainable_variables)
        self.inner_optimizer.apply(gradients, trainable_variables)
        self.after_step(noted)

    def stateless_apply(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """Does what `apply` does, to values instead of variables."""
        if keras.backend.backend() == "tensorflow" or not self.built:
            return super().stateless_apply(optimizer_variables, grads, trainable_variables)
        variables, weights = self.variables, keras_internals.own_trainable_variables(self)
        if len(weights) != len(trainable_variables):
            raise RecipeError(
                f"{type(self).__name__}: it was built with {len(weights)} variables, and {len(trainable_variables)} "
                "are trained now: layers were frozen, or are not any more. Compile with a new optimizer."
            )
        mapping = [*zip(variables, optimizer_variables, strict=True), *zip(weights, trainable_variables, strict=True)]
        inner = self.inner_optimizer
        with keras.StatelessScope(mapping) as scope:
            noted, gradients = self.before_step(grads, None)
            # A LossScaleOptimizer can be applied without a state only, hence not through `apply`.
            state = list(optimizer_variables)[len(variables) - len(inner.variables) :]
            new_weights, new_state = inner.stateless_apply(state, gradients, trainable_variables)
            for variable, value in zip([*weights, *inner.variables], [*new_weights, *new_state], strict=True):
                variable.assign(value)
            self.after_step(noted)
        return [scope.get_current_value(v) for v in weights], [scope.get_current_value(v) for v in variables]

    def is_left_out(self, what: str) -> bool:
        """Warns if there is nothing that stored state could be put into, as Keras's own optimizers do; True then."""
        if not self.built:
            warnings.warn(
                f"{type(self).__name__} is not built yet, so that its stored {what} are left out: training begins with "
                "the weights as they are. Load the whole model (keras.models.load_model), or call build(variables).",
                stacklevel=3,
            )
        return not self.built

    def _updates(self) -> Any:
        """Returns the number of finished updates as a tensor that later updates don't change."""
        return ops.cast(self.iterations, "int32") + 0


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
