"""Jobs of TensorFlow's Model Optimization Toolkit 0.8 (Keras 2), in an environment of their own."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def _keras() -> Any:
    """Returns Keras 2, which modules that import ``keras`` then get too."""
    import tf_keras

    sys.modules["keras"] = tf_keras
    return tf_keras


def _network(name: str) -> Any:
    _keras()
    from benchmarks import networks

    return networks.build(name)


def trained(name: str, weights: str) -> Any:
    """Returns a network with the weights of a file."""
    _keras()
    from benchmarks import networks

    return networks.with_weights(name, weights)


def fit(model: Any, seed: int, steps: int, learning_rate: float, callbacks: list[Any] | None = None) -> None:
    """Trains on the benchmark's batches, with Adam and a cosine."""
    from benchmarks import fashion

    keras = _keras()
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule), loss="sparse_categorical_crossentropy")
    batches = fashion.batches(fashion.data(), steps, seed)
    model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=callbacks)


def save(model: Any, out: str, *, is_quantized: bool = False) -> None:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if is_quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    Path(out).write_bytes(converter.convert())


def tfmot_step(network: str, batch: int = 16, steps: int = 8, rounds: int = 9) -> dict[str, Any]:
    """Returns milliseconds of a step, in turns, of the float network, the toolkit's quantized and its pruned form."""
    import tensorflow_model_optimization as tfmot

    keras, source = _keras(), _network(network)
    found: dict[str, Any] = {}
    models, callbacks = {"float": source}, dict[str, list[Any]]()
    start = time.perf_counter()
    models["quantized"] = tfmot.quantization.keras.quantize_model(keras.models.clone_model(source))
    found["make"] = time.perf_counter() - start
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, 0, 10_000)
    models["pruned"] = tfmot.sparsity.keras.prune_low_magnitude(keras.models.clone_model(source), schedule)
    callbacks["pruned"] = [tfmot.sparsity.keras.UpdatePruningStep()]
    random = np.random.default_rng(3)
    x = random.normal(0, 1, (batch * steps, *source.input_shape[1:])).astype(np.float32)
    y = random.random((batch * steps, *source.output_shape[1:])).astype(np.float32)
    for name, model in models.items():
        model.compile(keras.optimizers.SGD(1e-4), loss="mse")
        start = time.perf_counter()
        model.fit(x[:batch], y[:batch], batch, verbose=0, callbacks=callbacks.get(name))
        found[f"{name} first"] = time.perf_counter() - start
        model.fit(x, y, batch, verbose=0, shuffle=False, callbacks=callbacks.get(name))
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(x, y, batch, verbose=0, shuffle=False, callbacks=callbacks.get(name))
            times[name].append(1000 * (time.perf_counter() - start) / steps)
    return found | times | {f"{name} median": statistics.median(values) for name, values in times.items()}


def tfmot_train_quantized(weights: str, out: str, seed: int, steps: int, learning_rate: float) -> dict[str, Any]:
    """Trains the benchmark's net for Fashion-MNIST with the toolkit, from float weights, and writes its int8 file."""
    import tensorflow_model_optimization as tfmot

    model = tfmot.quantization.keras.quantize_model(trained("fashion", weights))
    fit(model, seed, steps, learning_rate)
    save(model, out, is_quantized=True)
    return {}


def tfmot_prune(
    weights: str, out: str, seed: int, steps: int, learning_rate: float, sparsities: list[float]
) -> dict[str, Any]:
    """Prunes the pointwise convolutions of the benchmark's net from float weights; a float file for each sparsity."""
    import tensorflow_model_optimization as tfmot

    keras, pruning = _keras(), tfmot.sparsity.keras
    for sparsity in sparsities:
        network = trained("fashion", weights)
        schedule = pruning.PolynomialDecay(0.0, sparsity, 0, 6 * steps // 10, frequency=10)

        def wrapped(layer: Any, schedule: Any = schedule) -> Any:
            is_pointwise = type(layer).__name__ == "Conv2D" and layer.kernel_size == (1, 1)
            return pruning.prune_low_magnitude(layer, schedule) if is_pointwise else layer

        model = keras.models.clone_model(network, clone_function=wrapped)
        for layer, source in zip(model.layers, network.layers, strict=True):
            inner = getattr(layer, "layer", layer)
            inner.set_weights(source.get_weights())
        fit(model, seed, steps, learning_rate, [pruning.UpdatePruningStep()])
        save(pruning.strip_pruning(model), f"{out}_{sparsity}.tflite")
    return {}


def tfmot_prune_quantize(
    weights: str, out: str, seed: int, steps: int, learning_rates: tuple[float, float], sparsity: float
) -> dict[str, Any]:
    """Prunes all kernels of the CNN from float weights, then trains it quantized with its zeros kept (PQAT)."""
    import tensorflow_model_optimization as tfmot

    pruning, quantization = tfmot.sparsity.keras, tfmot.quantization.keras
    schedule = pruning.PolynomialDecay(0.0, sparsity, 0, 6 * steps // 10, frequency=10)
    model = pruning.prune_low_magnitude(trained("fashion_cnn", weights), schedule)
    fit(model, seed, steps, learning_rates[0], [pruning.UpdatePruningStep()])
    annotated = quantization.quantize_annotate_model(pruning.strip_pruning(model))
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    model = quantization.quantize_apply(annotated, scheme)
    fit(model, seed, steps, learning_rates[1])
    save(model, out, is_quantized=True)
    return {}


def tfmot_cluster_quantize(
    weights: str, out: str, seed: int, steps: int, learning_rates: tuple[float, float], sparsity: float, clusters: int
) -> dict[str, Any]:
    """Prunes and clusters all kernels of the CNN in as many steps, then trains it quantized with both kept (PCQAT)."""
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    pruning, quantization = tfmot.sparsity.keras, tfmot.quantization.keras
    pruned = 6 * steps // 10
    schedule = pruning.PolynomialDecay(0.0, sparsity, 0, pruned, frequency=10)
    model = pruning.prune_low_magnitude(trained("fashion_cnn", weights), schedule)
    fit(model, seed, pruned, learning_rates[0], [pruning.UpdatePruningStep()])
    initial = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    settings = {"number_of_clusters": clusters, "cluster_centroids_init": initial, "preserve_sparsity": True}
    model = cluster.cluster_weights(pruning.strip_pruning(model), **settings)
    fit(model, seed + 1, steps - pruned, learning_rates[0] / 2)
    model = tfmot.clustering.keras.strip_clustering(model)
    scheme = tfmot.experimental.combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
    model = quantization.quantize_apply(quantization.quantize_annotate_model(model), scheme)
    fit(model, seed, steps, learning_rates[1])
    save(model, out, is_quantized=True)
    return {}


def main(name: str, arguments: str, taken: str) -> None:
    """Runs one job and writes its result."""
    Path(taken).write_text(json.dumps(globals()[name](**json.loads(arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:])
