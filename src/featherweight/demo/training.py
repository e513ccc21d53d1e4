"""The demo's models: a small convnet that Keras trains in about a minute, pruned, and trained on in integers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from featherweight.demo.dataset import CLASS_NAMES, Dataset
from featherweight.errors import FeatherweightError
from featherweight.runtime.progress import track

if TYPE_CHECKING:
    import keras

# Filters and stride of the first convolution, then of every depthwise-separable block (Howard et al., 2017).
STEM = (24, 2)
BLOCKS = ((48, 2), (96, 1), (128, 2), (256, 1))

BATCH = 64
STEPS = 2500
PEAK_LEARNING_RATE = 4e-3
SPARSITY = 0.75


def train(dataset: Dataset, seed: int, *, steps: int = STEPS, progress: bool = True) -> keras.Model:
    """Trains the convnet: input float32 (n, 28, 28, 1) in 0..1, output the softmax probabilities (n, 10).

    `steps` batches of 64 images, mirrored and shifted by chance, with AdamW and a cosine schedule. The model
    returned is made of stock Keras layers only; the same seed gives the same model on the same machine.

    Raises:
        FeatherweightError: Keras is not installed.
    """
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    trained = build_network(quick_depthwise(keras))
    schedule = keras.optimizers.schedules.CosineDecay(PEAK_LEARNING_RATE, steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=1e-3)
    _fit(trained, optimizer, dataset, "Training", steps, seed, progress=progress)
    return _stock(trained)


def prune(network: keras.Model, dataset: Dataset, seed: int, *, steps: int, progress: bool = True) -> keras.Model:
    """Returns the network with `SPARSITY` of the weights of its pointwise convolutions 0, trained for so many steps.

    The sparsity rises over the first 60 % of the steps; the weights that are left have the others to make up for it.
    """
    from featherweight.training.pruning.optimizer import SparseOptimizer
    from featherweight.training.schedules import polynomial_decay

    keras = import_keras()
    trained = build_network(quick_depthwise(keras))
    trained.set_weights(network.get_weights())
    schedule = keras.optimizers.schedules.CosineDecay(PEAK_LEARNING_RATE / 2, steps)
    optimizer = SparseOptimizer(
        keras.optimizers.AdamW(schedule, weight_decay=1e-3),
        polynomial_decay(0.0, SPARSITY, begin=0, end=max(6 * steps // 10, 1)),
        frequency=25,
    )
    _fit(trained, optimizer, dataset, "Pruning", steps, seed, progress=progress)
    return _stock(trained)


def train_on(model: keras.Model, dataset: Dataset, seed: int, *, steps: int, progress: bool = True) -> None:
    """Trains a model of `quantize_aware` that has a teacher for so many steps; Adam with a cosine schedule."""
    keras = import_keras()
    schedule = keras.optimizers.schedules.CosineDecay(PEAK_LEARNING_RATE / 20, steps)
    label = "Training in integers"
    _fit(model, keras.optimizers.Adam(schedule), dataset, label, steps, seed, loss=None, progress=progress)


def _fit(
    model: Any,
    optimizer: Any,
    dataset: Dataset,
    label: str,
    steps: int,
    seed: int,
    *,
    loss: str | None = "sparse_categorical_crossentropy",
    progress: bool,
) -> None:
    model.compile(optimizer=optimizer, loss=loss)
    batches = track(_batches(dataset, steps, seed), label, total=steps, enabled=progress)
    model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)


def _stock(trained: keras.Model) -> keras.Model:
    """Returns the network with the weights of a trained one, and stock layers only."""
    network = build_network()
    network.set_weights(trained.get_weights())
    return network


def build_network(depthwise: type[keras.layers.DepthwiseConv2D] | None = None) -> keras.Model:
    """Returns the untrained network; `depthwise` is the class of its depthwise convolutions."""
    keras = import_keras()
    layers = keras.layers
    depthwise_layer: Any = depthwise or layers.DepthwiseConv2D

    def activated(x: Any, name: str) -> Any:
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x)

    inputs = keras.Input((28, 28, 1), name="image")
    filters, strides = STEM
    x = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name="stem")(inputs)
    x = activated(x, "stem")
    for number, (filters, strides) in enumerate(BLOCKS, start=1):
        name = f"block_{number}"
        x = activated(
            depthwise_layer(3, strides, padding="same", use_bias=False, name=f"{name}_depthwise")(x),
            f"{name}_a",
        )
        x = activated(layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_pointwise")(x), f"{name}_b")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    outputs = layers.Dense(len(CLASS_NAMES), activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="fashion_convnet")


def import_keras() -> Any:
    """Returns Keras, on the JAX backend unless KERAS_BACKEND says otherwise.

    Raises:
        FeatherweightError: Keras or its backend is not installed.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError as error:
        raise FeatherweightError(
            f"The demo trains its model with Keras, which can't be imported: {error}. "
            "Install it with: pip install 'featherweight[keras]'."
        ) from error
    return keras


def quick_depthwise(keras: Any) -> Any:
    """Returns a depthwise convolution that trains quickly: nine shifted products, which compilers fuse.

    The gradient of a grouped convolution is about ten times slower on CPUs (XLA has no fast kernel for it).
    At inference the layer is the one it derives from.
    """

    class QuickDepthwiseConv2D(keras.layers.DepthwiseConv2D):
        def call(self, inputs: Any, training: bool = False) -> Any:
            if not training:
                return super().call(inputs)
            size, stride = inputs.shape[1], self.strides[0]
            steps = -(-size // stride)
            total = max((steps - 1) * stride + 3 - size, 0)
            before, span = total // 2, (steps - 1) * stride + 1
            sides = (before, total - before)
            padded = keras.ops.pad(inputs, ((0, 0), sides, sides, (0, 0)))
            return sum(
                padded[:, i : i + span : stride, j : j + span : stride] * self.kernel[i, j, :, 0]
                for i in range(3)
                for j in range(3)
            )

    return QuickDepthwiseConv2D


def _batches(dataset: Dataset, steps: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `steps` batches, every epoch in a new order, mirrored by chance and shifted by up to a pixel."""
    random = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = random.permutation(len(dataset.x_train))
        chosen, order = order[:BATCH], order[BATCH:]
        images = dataset.x_train[chosen]
        mirrored = random.random(len(chosen)) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
        shift = random.integers(-1, 2, 2)
        yield np.roll(images, tuple(shift), (1, 2)), dataset.y_train[chosen]
