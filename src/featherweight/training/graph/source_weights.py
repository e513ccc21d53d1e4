"""The weights of a live model, as its framework names them, and which of them its user has frozen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from featherweight import keras_internals


@dataclass(frozen=True, eq=False)
class SourceWeight:
    """One weight that a source could train.

    Attributes:
        path: its layer and its name, ``backbone/dense/kernel``.
        value: its value, in the framework's layout.
        is_frozen: the user took it from what is trained (``trainable=False``, ``requires_grad=False``).
    """

    path: str
    value: np.ndarray
    is_frozen: bool

    @property
    def layer(self) -> str:
        """The path of its layer."""
        return self.path.rpartition("/")[0]


def source_weights(source: Any) -> tuple[SourceWeight, ...]:
    """Returns the weights of a built Keras model or a torch module that could be trained; none of anything else."""
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(source, keras.Model):
        return tuple(_of_keras(source))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module):
        return tuple(_of_torch(source))
    return ()


def _of_keras(model: Any) -> Iterator[SourceWeight]:
    import keras

    trained = {id(variable) for variable in model.trainable_variables}
    for layer in keras_internals.layers_of(model):
        for variable in keras_internals.own_trainable_variables(layer):
            value = np.asarray(keras.ops.convert_to_numpy(variable), np.float32)
            yield SourceWeight(variable.path, value, id(variable) not in trained)


def _of_torch(module: Any) -> Iterator[SourceWeight]:
    for name, parameter in module.named_parameters():
        value = parameter.detach().cpu().float().numpy()
        yield SourceWeight(name.replace(".", "/"), value, not parameter.requires_grad)
