"""Small Keras models that are pruned while they train, and what is asked of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers as L  # noqa: N812

from featherweight.training.optimizers.variable_owners import find_kernels, find_layers, references

STEPS, BATCH = 8, 16


@keras.saving.register_keras_serializable("tests")
class Custom(L.Layer):
    """A layer with kernels of its own, and vectors and biases of rank 2 that are none."""

    def build(self, shape: Any) -> None:
        self.mixing = self.add_weight(shape=(shape[-1], 12), name="mixing")
        self.row_bias = self.add_weight(shape=(1, 12), name="row_bias")
        self.inside = L.Dense(8, name="inside")
        self.inside.build((None, 12))

    def call(self, x: Any) -> Any:
        return self.inside(keras.ops.matmul(x, self.mixing) + self.row_bias)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = L.Dense(16), [L.Dense(24), L.Dense(10)]

    def call(self, x: Any) -> Any:
        x = keras.ops.relu(self.stem(x))
        return self.blocks[1](keras.ops.relu(self.blocks[0](x)))


def dense_net(features: int = 12, **options: Any) -> Any:
    keras.utils.set_random_seed(0)
    hidden = [L.Dense(16, activation="relu", name="a", **options), L.Dense(24, activation="relu", name="b", **options)]
    return keras.Sequential([L.Input((features,)), *hidden, L.Dense(10, name="c")], name="net")


def conv_net() -> Any:
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(8, 3, activation="relu", name="stem"), L.Conv2D(16, 3, activation="relu", name="body")]
    return keras.Sequential([L.Input((8, 8, 3)), *layers, L.Flatten(), L.Dense(10, name="head")], name="net")


def several_kinds_net() -> Any:
    keras.utils.set_random_seed(0)
    layers = [
        L.Conv2D(16, 3, padding="same", name="stem"),
        L.DepthwiseConv2D(3, name="depthwise_1"),
        L.Conv2D(32, 3, name="body_1"),
        L.DepthwiseConv2D(3, name="depthwise_2"),
        L.Conv2D(64, 3, name="body_2"),
    ]
    return keras.Sequential(
        [L.Input((12, 12, 3)), *layers, L.GlobalAveragePooling2D(), L.Dense(10, name="head")], name="net"
    )


def data(model: Any, steps: int = STEPS) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps * BATCH, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(0, model.output_shape[-1], len(x))


def trained(model: Any, optimizer: Any, steps: int = STEPS, **options: Any) -> Any:
    if not hasattr(model, "optimizer") or model.optimizer is not optimizer:
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    model.fit(*data(model, steps), batch_size=BATCH, shuffle=False, verbose=0)
    return model


def kernel_of(model: Any, path: str) -> np.ndarray:
    return next(keras.ops.convert_to_numpy(v) for v in model.trainable_variables if v.path.removeprefix("net/") == path)


def zeros(model: Any, path: str) -> int:
    return int(np.count_nonzero(kernel_of(model, path) == 0))


def values(model: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(v) for v in (*model.weights, *model.optimizer.variables)]


def kernels_of(model: Any) -> list[Any]:
    """Returns the kernels that an optimizer finds among the variables of a model or layer."""
    layers = find_layers(model.trainable_variables, references(model), "test", is_unstructured=True)
    return find_kernels(model.trainable_variables, layers)
