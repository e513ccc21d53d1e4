"""Jobs that prune: in training, without it, and what sparse files of dense layers cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import featherweight as fw
from benchmarks import fashion, networks
from featherweight.graph import Graph, Model, Node, Tensor, constant

_UNITS, _LAYERS = 1024, 6


def prune_in_training(
    source: str, out: str, seed: int, steps: int, learning_rate: float, sparsities: list[float], pattern: str
) -> dict[str, Any]:
    """Prunes the pointwise convolutions of the net for Fashion-MNIST; a float file for each sparsity.

    Also returns the fractions of zeros that were reached, and writes what one-shot magnitude pruning gives.
    """
    import keras

    from featherweight.demo.training import quick_depthwise

    data, reached = fashion.data(), {}
    weights = keras.models.load_model(source).get_weights()
    for sparsity in sparsities:
        trained = networks.fashion(quick_depthwise(keras))
        trained.set_weights(weights)
        schedule = fw.schedules.polynomial_decay(0.0, sparsity, begin=0, end=6 * steps // 10)
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        optimizer = fw.SparseOptimizer(keras.optimizers.Adam(rate), schedule, pattern, frequency=10)
        trained.compile(optimizer, loss="sparse_categorical_crossentropy")
        trained.fit(fashion.batches(data, steps, seed), steps_per_epoch=steps, verbose=0)
        kernels = [layer.kernel for layer in trained.layers if getattr(layer, "kernel_size", None) == (1, 1)]
        counts = [(int((np.asarray(kernel) == 0).sum()), int(np.prod(kernel.shape))) for kernel in kernels]
        reached[str(sparsity)] = [[zeros, round(sparsity * size)] for zeros, size in counts]
        network = networks.fashion()
        network.set_weights(trained.get_weights())
        fw.save(fw.load(network), f"{out}_{sparsity}.tflite")
        graph = fw.load(source)
        fw.prune(graph, sparsity, pattern=pattern, keep=("last", "depthwise"), progress=False).save(
            f"{out}_{sparsity}_oneshot.tflite"
        )
    return {"reached": reached}


def prune_quantize(
    source: str,
    out: str,
    seed: int,
    steps: int,
    learning_rates: tuple[float, float],
    sparsity: float,
    clusters: int | None = None,
) -> dict[str, Any]:
    """Prunes all kernels of a net for Fashion-MNIST, then trains it in integers with its zeros kept; the int8 file.

    With `clusters`, kernels get so many values in the same training, behind the schedule of pruning, and keep them.
    """
    import keras

    data, network = fashion.data(), keras.models.load_model(source)

    def fit(model: Any, optimizer: Any) -> None:
        model.compile(optimizer, loss="sparse_categorical_crossentropy")
        model.fit(fashion.batches(data, steps, seed), steps_per_epoch=steps, verbose=0)

    rates = [keras.optimizers.schedules.CosineDecay(rate, steps) for rate in learning_rates]
    pruned = 6 * steps // 10
    optimizer: Any = keras.optimizers.Adam(rates[0])
    if sparsity:
        schedule = fw.schedules.polynomial_decay(0.0, sparsity, begin=0, end=pruned)
        optimizer = fw.SparseOptimizer(optimizer, schedule, frequency=10, keep=())
    if clusters is not None:
        optimizer = fw.ClusterOptimizer(optimizer, clusters, begin=pruned + 1, keep=())
    fit(network, optimizer)
    model = fw.quantize_aware(network, calibration=fashion.calibration(data, seed), progress=False)
    fit(model, keras.optimizers.Adam(rates[1]))
    fw.finalize(model).save(out)
    return {}


def prune_once(
    model: str, out: str, calibration: str, samples: int, sparsity: float, pattern: str, methods: list[str]
) -> dict[str, Any]:
    """Writes a model pruned without training by each method, ``OUT_METHOD.tflite``."""
    source, drawn = fw.load(model), np.load(calibration)
    for method in methods:
        given = None if method == "magnitude" else list(drawn[:samples])
        fw.prune(source, sparsity, pattern=pattern, method=method, calibration=given, progress=False).save(
            f"{out}_{method}.tflite"
        )
    return {}


def kernel_zeros(model: str) -> dict[str, Any]:
    """Returns the fraction of zeros in the int8 weights of convolutions and dense layers."""
    graph = fw.read(Path(model)).main
    weights = [
        graph.tensors[node.inputs[1]].array
        for node in graph.nodes
        if node.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    ]
    zeros = [int((weight == 0).sum()) for weight in weights if weight is not None]
    return {"fraction": sum(zeros) / sum(weight.size for weight in weights if weight is not None)}


def sparse_stack_files(out: str, sparsity: float) -> dict[str, Any]:
    """Writes dense and sparse files of a stack of dense layers: float with 1x4, hybrid and int8 with 1x16."""
    sizes: dict[str, Any] = {}
    for kind, pattern in (("float", "1x4"), ("hybrid", "1x16"), ("int8", "1x16")):
        model = fw.prune(_stack(), sparsity, pattern=pattern, keep=(), progress=False).model
        samples = [np.random.default_rng(seed).normal(size=(1, _UNITS)).astype(np.float32) for seed in range(8)]
        if kind != "float":
            recipe = "dynamic" if kind == "hybrid" else "int8"
            given = samples if recipe == "int8" else None
            model = fw.quantize(model, recipe, calibration=given, progress=False).model
        stored = fw.store_sparse(model)
        for name, made in ((f"{kind}_dense", model), (f"{kind}_sparse", stored.model)):
            path = Path(f"{out}_{name}.tflite")
            sizes[name] = [fw.save(made, path), fw.inspect(path).compressed_bytes]
        sizes[f"{kind}_kept_dense"] = [row.reason for row in stored.tensors if not row.block]
    return sizes


def _stack() -> Model:
    random, tensors, nodes, last = np.random.default_rng(0), dict[str, Tensor](), list[Node](), "x"
    tensors["x"] = Tensor("x", (1, _UNITS), "float32")
    for number in range(_LAYERS):
        weight = random.normal(0, 3 / np.sqrt(_UNITS), (_UNITS, _UNITS)).astype(np.float32)
        names = last, f"w{number}", f"b{number}"
        tensors |= {names[1]: constant(names[1], weight), names[2]: constant(names[2], np.zeros(_UNITS, np.float32))}
        last = f"y{number}"
        tensors[last] = Tensor(last, (1, _UNITS), "float32")
        attrs = {"fused_activation_function": "RELU"}
        nodes.append(Node("FULLY_CONNECTED", names, (last,), attrs))
    return Model((Graph("main", ("x",), (last,), tuple(nodes), tensors),))
