"""Jobs of clusters in training: the demo's net and the one of keyword spotting, on few values, encoded for TFLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import featherweight as fw
from benchmarks import fashion, networks


def train_for_clusters(network: str, out: str, seed: int, steps: int) -> dict[str, Any]:
    """Trains a network on Fashion-MNIST and writes it as a Keras file; ``ds_cnn`` sees images of 49 x 10."""
    import keras

    from featherweight.demo import training

    keras.utils.set_random_seed(seed)
    data = fashion.data()
    if network == "demo":
        training.train(data, seed, steps=steps, progress=False).save(out)
        return {}
    trained, stock = networks.ds_cnn(_quick_depthwise(keras)), networks.ds_cnn()
    for norm in trained.layers:
        if isinstance(norm, keras.layers.BatchNormalization):
            norm.momentum = 0.9  # of few steps: averages of a hundred would still hold where they began
    schedule = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    trained.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-3), "sparse_categorical_crossentropy")
    trained.fit(_batches(trained, data, steps, seed), steps_per_epoch=steps, verbose=0)
    stock.set_weights(trained.get_weights())
    stock.save(out)
    return {}


def cluster_in_training(
    network: str,
    source: str,
    seed: int,
    steps: int,
    learning_rate: float,
    clusters: int,
    keep: tuple[str, ...],
    rules: dict[str, int],
) -> dict[str, Any]:
    """Trains on with few values; returns bytes and accuracy of the plain int8 file and of the encoded one."""
    import keras

    from featherweight.demo import training

    data = fashion.data()
    plain = keras.models.load_model(source, compile=False)
    build = training.build_network if network == "demo" else networks.ds_cnn
    quick = training.quick_depthwise(keras) if network == "demo" else _quick_depthwise(keras)
    trained, clustered = build(quick), build()
    trained.set_weights(plain.get_weights())
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = fw.ClusterOptimizer(keras.optimizers.Adam(schedule), clusters, keep=keep, rules=rules)
    trained.compile(optimizer, "sparse_categorical_crossentropy")
    trained.fit(_batches(trained, data, steps, seed), steps_per_epoch=steps, verbose=0)
    clustered.set_weights(trained.get_weights())
    samples = fashion.drawn(fashion.calibration(data, seed)[:, 0], plain.input_shape[1:])[:, np.newaxis]
    x_test = fashion.drawn(data.x_test, plain.input_shape[1:])
    rows: dict[str, Any] = {"clusters": optimizer.clusters()}
    for name, made, store in (("int8", plain, "dense"), ("clustered", clustered, "decode")):
        result = fw.quantize(
            made, calibration=samples, target="tflm", store=store, io="float32", progress=False, verify=False
        )
        right = np.argmax(fw.run(result.model, x_test), axis=1) == data.y_test
        rows[name] = {
            "bytes": result.report.after.file_bytes,
            "accuracy": float(right.mean()),
            "is_equal": result.encoded is None or not result.encoded.unverified,
        }
    return rows


def _batches(network: Any, data: Any, steps: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for images, labels in fashion.mirrored(fashion.batches(data, steps, seed), seed):
        yield fashion.drawn(images, network.input_shape[1:]), labels


def _quick_depthwise(keras: Any) -> Any:
    """Returns a 3 x 3 depthwise convolution of stride 1 whose gradient is quick on CPUs: nine shifted products."""

    class Quick(keras.layers.DepthwiseConv2D):
        def call(self, inputs: Any, training: bool = False) -> Any:
            if not training:
                return super().call(inputs)
            padded = keras.ops.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
            tall, wide = inputs.shape[1:3]
            parts = [
                padded[:, i : i + tall, j : j + wide] * self.kernel[i, j, :, 0] for i in range(3) for j in range(3)
            ]
            return sum(parts) + self.bias

    return Quick
