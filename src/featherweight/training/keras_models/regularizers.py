"""Regularizers that make a float network easy to quantize, for targets that are not known when it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import keras

from featherweight.arguments import checked, instance, number
from featherweight.errors import RecipeError
from featherweight.operators.call import Array
from featherweight.training.graph.registry import ops

# Kurtosis of the uniform distribution: 9/5.
UNIFORM = 1.8
# A kernel whose weights are all equal has no kurtosis; far below any variance that weights have.
_LEAST_VARIANCE = 1e-12


@keras.saving.register_keras_serializable(package="featherweight")
class KurtosisRegularizer(keras.regularizers.Regularizer):
    """Draws the distribution of a kernel's weights to that of a given kurtosis (Shkolnik et al., 2002.07686).

    The loss is ``strength * (kurtosis(weights) - target)**2``, kurtosis being the mean of the fourth power of the
    standardized weights: 3 for a normal distribution, 1.8 for a uniform one, which no rounding or clipping hurts much.

    Raises:
        RecipeError: if `strength` is negative or `target` below 1, which no distribution has.
    """

    def __init__(self, strength: float, target: float = UNIFORM) -> None:
        self.strength = number(0)(strength, "kurtosis: strength")
        self.target = number(1, way="1.8 is that of a uniform distribution, 3 of a normal one.")(
            target, "kurtosis: target"
        )

    def __call__(self, x: Array) -> Array:
        """Returns the loss of one kernel, float32 or the kernel's own type."""
        return self.strength * ops.square(kurtosis(x) - self.target)

    def get_config(self) -> dict[str, float]:
        """Returns the arguments."""
        return {"strength": self.strength, "target": self.target}


@checked()
def kurtosis_regularizer(strength: float, target: float = UNIFORM) -> KurtosisRegularizer:
    """Returns a regularizer for `kernel_regularizer=` of any Keras layer (see `KurtosisRegularizer`).

    >>> import numpy as np
    >>> round(float(kurtosis_regularizer(1.0)(np.float32([-1, -1, 1, 1]))), 4)  # kurtosis 1
    0.64
    """
    return KurtosisRegularizer(strength, target)


@checked(model=instance(keras.Model, way="Pass the live Keras model."), strength=number(0), target=number(1))
def add_kurtosis(model: keras.Model, strength: float, target: float = UNIFORM) -> list[str]:
    """Regularizes the kernels of a whole model by ``strength * mean over kernels of (kurtosis - target)**2``.

    Works for any Keras model and for what `graph_model` and `quantize_aware` return; a regularizer that a kernel had is
    kept beside. Call it once, before the first `fit`, which adds the loss. A saved model does not remember it: call it
    again after `load_model`.

    Returns:
        The paths of the regularized kernels: trained weights of that name with two or more dimensions.

    Raises:
        RecipeError: if the model has no kernels, or the numbers are out of range.
    """
    kernels = list(_kernels(model))
    if not kernels:
        raise RecipeError(f"The model '{model.name}' has no trained kernels. Build it first, or unfreeze its layers.")
    one = KurtosisRegularizer(strength / len(kernels), target)
    for variable in kernels:
        variable.regularizer = one if variable.regularizer is None else _Sum(variable.regularizer, one)
    return [variable.path for variable in kernels]


def kurtosis(x: Array) -> Array:
    """Returns the kurtosis of all elements: 3 for a normal distribution."""
    centred = ops.subtract(x, ops.mean(x))
    variance = ops.maximum(ops.mean(ops.square(centred)), _LEAST_VARIANCE)
    return ops.mean(ops.square(ops.square(centred) / variance))


def _kernels(model: keras.Model) -> Iterator[keras.Variable]:
    """Yields each trained kernel once."""
    for variable in model.trainable_variables:
        if variable.name.endswith("kernel") and len(variable.shape) >= 2:
            yield variable


class _Sum(keras.regularizers.Regularizer):
    """Two regularizers of one variable."""

    def __init__(self, *parts: Callable[[Array], Array]) -> None:
        self.parts = parts

    def __call__(self, x: Array) -> Array:
        return sum(part(x) for part in self.parts)
