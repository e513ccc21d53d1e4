"""Small models for the whole test-suite: every family of network, in Keras, with weights like trained ones.

Each builder returns the same model every time: weights and batch-norm statistics are drawn from a seed.
`build(name)` caches them, `lowered(name)` their float graphs, the latter for all processes of a run; a test must not
change a model (`keras.models.clone_model` gives one that may be).
`samples(name, count)` are inputs of the kind the model expects, by input name.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

IMAGE = 24
STEPS = 10
FEATURES = 8
VOCABULARY = 50
RUN_FOLDER = "FEATHERWEIGHT_TEST_RUN"  # the variable that names the folder which all processes of a run share


def import_keras() -> Any:
    """Keras on the JAX backend (or the one that KERAS_BACKEND names)."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    return keras


def convnet() -> Any:
    """Residual blocks as in ResNet-8: convolutions, batch norms, additions, a strided shortcut, a softmax."""
    keras = import_keras()
    layers = keras.layers

    def block(x: Any, filters: int, strides: int, name: str) -> Any:
        y = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=f"{name}_conv_a")(x)
        y = layers.ReLU(name=f"{name}_relu_a")(layers.BatchNormalization(name=f"{name}_norm_a")(y))
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_conv_b")(y)
        y = layers.BatchNormalization(name=f"{name}_norm_b")(y)
        if strides > 1 or x.shape[-1] != filters:
            x = layers.Conv2D(filters, 1, strides, padding="same", name=f"{name}_shortcut")(x)
        return layers.ReLU(name=f"{name}_relu_b")(layers.Add(name=f"{name}_add")([x, y]))

    inputs = keras.Input((IMAGE, IMAGE, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    x = layers.MaxPooling2D(name="stem_pool")(x)
    x = block(x, 8, 1, "block_1")
    x = block(x, 16, 2, "block_2")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(10, activation="softmax", name="probabilities")(x)
    return _seeded(keras.Model(inputs, outputs, name="convnet"), 1)


def depthwise() -> Any:
    """Inverted residuals as in MobileNetV2: expansion, depthwise, projection, ReLU6, explicit padding."""
    keras = import_keras()
    layers = keras.layers

    def activated(x: Any, name: str) -> Any:
        return layers.ReLU(6.0, name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))

    def block(x: Any, filters: int, strides: int, name: str) -> Any:
        channels = x.shape[-1]
        y = layers.Conv2D(4 * channels, 1, use_bias=False, name=f"{name}_expand")(x)
        y = activated(y, f"{name}_expand")
        if strides == 2:
            y = layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(y)
        padding = "valid" if strides == 2 else "same"
        y = layers.DepthwiseConv2D(3, strides, padding=padding, use_bias=False, name=f"{name}_depthwise")(y)
        y = activated(y, f"{name}_depthwise")
        y = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project")(y)
        y = layers.BatchNormalization(name=f"{name}_project_norm")(y)
        return layers.Add(name=f"{name}_add")([x, y]) if strides == 1 and channels == filters else y

    inputs = keras.Input((IMAGE, IMAGE, 3), name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem")(inputs)
    x = activated(x, "stem")
    x = block(x, 8, 1, "block_1")
    x = block(x, 12, 2, "block_2")
    x = block(x, 12, 1, "block_3")
    x = activated(layers.Conv2D(32, 1, use_bias=False, name="head")(x), "head")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(10, name="logits")(x)
    return _seeded(keras.Model(inputs, outputs, name="depthwise"), 2)


def dense() -> Any:
    """An autoencoder of dense layers and batch norms, as MLPerf Tiny's anomaly detection."""
    keras = import_keras()
    layers = keras.layers
    inputs = keras.Input((64,), name="frame")
    x = inputs
    for number, units in enumerate((48, 48, 8, 48), start=1):
        x = layers.Dense(units, name=f"dense_{number}")(x)
        x = layers.ReLU(name=f"relu_{number}")(layers.BatchNormalization(name=f"norm_{number}")(x))
    outputs = layers.Dense(64, name="reconstruction")(x)
    return _seeded(keras.Model(inputs, outputs, name="dense"), 3)


def lstm() -> Any:
    """An LSTM over a sequence of features, with a classifier on its last output."""
    return _recurrent("lstm", "LSTM", 4)


def gru() -> Any:
    """A GRU (Keras's own form, reset after) over a sequence, with a classifier on its last output."""
    return _recurrent("gru", "GRU", 5)


def transformer() -> Any:
    """Embedding, position embedding, attention, layer norms, a GELU feed-forward part, mean over time."""
    keras = import_keras()
    layers, ops = keras.layers, keras.ops
    width = 16
    tokens = keras.Input((STEPS,), dtype="int32", name="tokens")
    x = layers.Embedding(VOCABULARY, width, name="embedding")(tokens)
    positions = layers.Embedding(STEPS, width, name="positions")(ops.arange(STEPS))
    x = layers.Add(name="embedded")([x, ops.expand_dims(positions, 0)])
    y = layers.LayerNormalization(name="attention_norm")(x)
    y = layers.MultiHeadAttention(2, width // 2, name="attention")(y, y)
    x = layers.Add(name="attention_add")([x, y])
    y = layers.LayerNormalization(name="feed_forward_norm")(x)
    y = layers.Dense(4 * width, name="feed_forward_in")(y)
    y = layers.Activation(lambda v: ops.gelu(v, approximate=True), name="feed_forward_gelu")(y)
    y = layers.Dense(width, name="feed_forward_out")(y)
    x = layers.Add(name="feed_forward_add")([x, y])
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    outputs = layers.Dense(4, name="logits")(x)
    return _seeded(keras.Model(tokens, outputs, name="transformer"), 6)


def multi_input() -> Any:
    """An image and a vector of very different ranges: inputs `image` and `context`."""
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((IMAGE // 2, IMAGE // 2, 3), name="image")
    context = keras.Input((6,), name="context")
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="conv")(image)
    x = layers.AveragePooling2D(2, name="mean_pool")(x)
    gate = layers.Dense(8, activation="sigmoid", name="gate")(context)
    x = layers.Multiply(name="gated")([x, layers.Reshape((1, 1, 8), name="gate_shape")(gate)])
    x = layers.Flatten(name="flat")(x)
    x = layers.Concatenate(name="joined")([x, layers.Dense(8, activation="tanh", name="direct")(context)])
    outputs = layers.Dense(5, name="logits")(x)
    return _seeded(keras.Model([image, context], outputs, name="multi_input"), 7)


def multi_output() -> Any:
    """One trunk with three outputs: `label` (softmax), `box` (linear) and `mask` (sigmoid, upsampled)."""
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((IMAGE // 2, IMAGE // 2, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_1")(image)
    x = layers.Conv2D(12, 3, 2, padding="same", activation="relu", name="conv_2")(x)
    pooled = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = {
        "label": layers.Dense(4, activation="softmax", name="label")(pooled),
        "box": layers.Dense(4, name="box")(pooled),
        "mask": layers.Conv2D(1, 1, activation="sigmoid", name="mask")(layers.UpSampling2D(2, name="up")(x)),
    }
    return _seeded(keras.Model(image, outputs, name="multi_output"), 8)


def upsampling() -> Any:
    """A style network: strided encoder, upsampling, transposed convolution, hard_swish, LeakyReLU, tanh."""
    keras = import_keras()
    layers = keras.layers
    image = keras.Input((IMAGE, IMAGE, 3), name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="down_1")(image)
    x = layers.Conv2D(12, 3, 2, padding="same", name="down_2")(x)
    x = layers.Activation("hard_swish", name="down_2_swish")(x)
    x = layers.UpSampling2D(2, interpolation="nearest", name="up_nearest")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="smooth")(x)
    x = layers.Concatenate(name="skip")([x, layers.AveragePooling2D(2, name="skip_pool")(image)])
    x = layers.UpSampling2D(2, interpolation="bilinear", name="up_bilinear")(x)
    x = layers.LeakyReLU(negative_slope=0.1, name="leaky")(layers.Conv2D(8, 3, padding="same", name="refine")(x))
    x = layers.Conv2DTranspose(6, 2, 2, padding="same", activation="relu", name="up_transposed")(x)
    outputs = layers.Conv2D(3, 1, activation="tanh", name="picture")(x)
    return _seeded(keras.Model(image, outputs, name="upsampling"), 9)


BUILDERS: dict[str, Callable[[], Any]] = {
    builder.__name__: builder
    for builder in (
        convnet,
        depthwise,
        dense,
        lstm,
        gru,
        transformer,
        multi_input,
        multi_output,
        upsampling,
    )
}
RECURRENT = ("lstm", "gru")


def _view(entries: dict[str, Any]) -> Any:
    """A mapping that can't be changed: what nodes hold their attributes in."""
    return MappingProxyType(entries)


copyreg.pickle(MappingProxyType, lambda view: (_view, (dict(view),)))


@functools.cache
def build(name: str) -> Any:
    """The model of that name, built once in a process."""
    return BUILDERS[name]()


@functools.cache
def lowered(name: str, unroll: bool = False, fuse: bool = False) -> Any:
    """The float graph of that model, lowered once in a run of tests; `unroll` and `fuse` as in `featherweight.load`."""
    from featherweight.tasks.load import load

    return once_in_a_run(f"{name}-{unroll:d}{fuse:d}", lambda: load(build(name), unroll=unroll, fuse=fuse))


@functools.cache
def input_shapes(name: str) -> dict[str, tuple[int | None, ...]]:
    """The shapes of that model's inputs, by name."""
    return once_in_a_run(f"{name}-inputs", lambda: {tensor.name: tensor.shape for tensor in build(name).inputs})


def once_in_a_run(key: str, make: Callable[[], Any]) -> Any:
    """Returns what is made, by the first process of a run of tests that asks for it on its backend of Keras."""
    if RUN_FOLDER not in os.environ:
        return make()
    path = Path(os.environ[RUN_FOLDER], f"{os.environ['KERAS_BACKEND']}-{key}.pickle")
    with contextlib.suppress(FileNotFoundError):
        return pickle.loads(path.read_bytes())
    made = make()
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(pickle.dumps(made))
    partial.replace(path)
    return made


def samples(name: str, count: int = 16, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """`count` single examples (batch dimension 1) of its inputs, by input name; float32 or int32."""
    random = np.random.default_rng(seed)
    return [{key: _sample(random, key, shape[1:]) for key, shape in input_shapes(name).items()} for _ in range(count)]


def batch(name: str, count: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """The same examples as `samples`, stacked to one batch."""
    examples = samples(name, count, seed)
    return {key: np.concatenate([example[key] for example in examples]) for key in examples[0]}


def _recurrent(name: str, layer: str, seed: int) -> Any:
    keras = import_keras()
    inputs = keras.Input((STEPS, FEATURES), name="sequence")
    x = getattr(keras.layers, layer)(16, name=name)(inputs)
    outputs = keras.layers.Dense(4, name="logits")(x)
    return _seeded(keras.Model(inputs, outputs, name=name), seed)


def _seeded(model: Any, seed: int) -> Any:
    """Draw every weight: kernels of unit gain, small biases, batch norms as after training."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        if np.dtype(variable.dtype).kind == "f":
            variable.assign(_drawn(random, variable.path.split("/")[-1], tuple(variable.shape)))
    return model


def _drawn(random: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    if kind in ("moving_variance", "gamma"):
        value = random.uniform(0.6, 1.6, shape)
    elif kind in ("beta", "moving_mean", "bias"):
        value = random.normal(0.0, 0.1, shape)
    else:
        # Depthwise kernels reach a single channel: (height, width, channels, 1).
        fan_in = shape[0] * shape[1] if shape[-1] == 1 and len(shape) == 4 else int(np.prod(shape[:-1]))
        gain = 1.0 if kind == "recurrent_kernel" else np.sqrt(2.0)
        # Channels of different size, as in trained networks: what tells per-channel from per-tensor scales.
        value = random.normal(0.0, gain / np.sqrt(max(fan_in, 1)), shape) * random.uniform(0.5, 1.5, shape[-1:])
    return value.astype(np.float32)


def _sample(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name == "tokens":
        return random.integers(0, VOCABULARY, (1, *shape), np.int32)
    if name == "image":
        # Smooth pictures in 0..1: a coarse pattern, enlarged, with a little noise.
        coarse = random.uniform(0.0, 1.0, (1, 4, 4, shape[-1]))
        large = coarse.repeat(-(-shape[0] // 4), axis=1).repeat(-(-shape[1] // 4), axis=2)[:, : shape[0], : shape[1]]
        return np.clip(large + random.normal(0.0, 0.05, large.shape), 0.0, 1.0).astype(np.float32)
    spread = 10.0 if name == "context" else 1.0
    return random.normal(0.0, spread, (1, *shape)).astype(np.float32)
