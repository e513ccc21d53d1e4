"""Compares integers: those we write with the TensorFlow converter's, and the reference kernels' with LiteRT's; jobs."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

import featherweight as fw
from featherweight import tflite
from featherweight.calibration import Stats, TensorStats, measurable
from featherweight.errors import FeatherweightError
from featherweight.graph import Graph, Model, Node, io_names, producers
from featherweight.graph.numerics import QuantParams
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite

# LiteRT's kernels by profile, and from how many classes on its int8 reference softmax may abort the process.
_RESOLVERS = {"xnnpack": "auto", "tflite_opt": "no_delegate", "tflite_ref": "reference"}
_SOFTMAX_CLASSES = 512


def compare_integers(model: str, converted: str) -> dict[str, Any]:
    """Counts the weights, biases and scales that differ, when the converter's ranges are given.

    `model` is the converter's float file, `converted` its int8 file of the same network.
    """
    source, theirs = tflite.read(model), tflite.read(converted)
    their_nodes, nodes = _computing(theirs.main), source.main.nodes
    if [node.op for node in their_nodes] != [node.op for node in nodes]:
        raise SystemExit(f"The converter's int8 file computes other operators than its float file: {model}")
    given: dict[str, QuantParams] = {}
    for their_node, node in zip(their_nodes, nodes, strict=True):
        for their_name, name in _edges(their_node, node):
            quant = theirs.main.tensors[their_name].quant
            if quant is not None and not source.main.tensors[name].is_constant:
                given.setdefault(name, replace(quant, axis=None))
    # Every range is given, so that none has to be measured.
    stats = Stats(1, {name: TensorStats(1, -1.0, 1.0) for name in measurable(source)})
    made = plan(source, stats, "int8", given=given)
    ours = rewrite(source, made)
    counts = {"weights": [0, 0], "biases": [0, 0], "scales": [0, 0]}
    for their_node, node in zip(their_nodes, _computing(ours.main), strict=True):
        for their_name, name in zip(their_node.inputs, node.inputs, strict=True):
            their, own = theirs.main.tensors.get(their_name), ours.main.tensors.get(name)
            if their is None or not their.is_constant or their.quant is None:
                continue
            kind = "weights" if their.dtype == "int8" else "biases"
            _count(counts[kind], their.array, own.array if own else None)
            scales = own.quant.scale if own and own.quant else ()
            _count(counts["scales"], np.array(their.quant.scale), np.array(scales))
    ignored = sum(made.params.get(name) != quant for name, quant in given.items())
    return {kind: {"differing": a, "of": b} for kind, (a, b) in counts.items()} | {
        "given": len(given),
        "ignored": ignored,
    }


def _computing(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op not in ("QUANTIZE", "DEQUANTIZE")]


def _edges(first: Node, second: Node) -> list[tuple[str, str]]:
    pairs = [*zip(first.inputs, second.inputs, strict=True), *zip(first.outputs, second.outputs, strict=True)]
    return [(a, b) for a, b in pairs if a and b]


def _count(counts: list[int], theirs: np.ndarray | None, ours: np.ndarray | None) -> None:
    """Adds (differing, all) elements; all of them differ where the shapes do."""
    if theirs is None or ours is None or theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        size = 0 if theirs is None else theirs.size
        differing = max(size, 1)
    else:
        size, differing = theirs.size, int((theirs != ours).sum())
    counts[0] += differing
    counts[1] += size


def compare_kernels(network: str, recipe: str, model: str | None = None, examples: int = 2) -> dict[str, Any]:
    """Counts, by profile, the values of all computed tensors that the reference kernels and LiteRT disagree about.

    `model` is a file that can be loaded; without one, `network` is one of the tests' own.
    """
    source = _without_large_softmax(fw.load(model)) if model else _test_network(network)
    samples = [_random_sample(source, seed) for seed in range(examples + 8)]
    quantized = fw.quantize(source, recipe, calibration=samples[examples:], progress=False).model
    writers = producers(quantized.main)
    counts: dict[str, Any] = {}
    for profile, resolver in _RESOLVERS.items():
        elements, differing, first = 0, 0, ""
        for sample in samples[:examples]:
            try:
                found: Any = fw.run(quantized, sample, runtime="reference", profile=profile, tensors="all")
                expected: Any = fw.run(quantized, sample, resolver=resolver, tensors="all", threads=1)
            except FeatherweightError as error:
                raise SystemExit(f"{network}, {recipe}, {profile}: {error}") from error
            for name, array in expected.items():
                wrong = int((found[name] != array).sum())
                elements, differing = elements + array.size, differing + wrong
                if wrong and not first:
                    first = f"first {wrong} of {array.size} {array.dtype} of {writers[name].op} '{name}'"
        counts[profile] = {"elements": elements, "differing": differing, "first": first, "tensors": len(writers)}
    return counts


def time_kernels(model: str, images: int, repetitions: int = 3) -> dict[str, Any]:
    """Returns images per second, the best of some repetitions, by profile: ours and, as ``litert …``, LiteRT's."""
    source = fw.load(model)
    quantized = fw.quantize(
        source, calibration=[_random_sample(source, seed) for seed in range(8)], progress=False
    ).model
    x = np.concatenate([next(iter(_random_sample(source, seed).values())) for seed in range(images)])
    best: dict[str, float] = {}
    for _ in range(repetitions):
        for profile, resolver in _RESOLVERS.items():
            for name, arguments in (
                (profile, {"runtime": "reference", "profile": profile}),
                (f"litert {profile}", {"resolver": resolver}),
            ):
                start = time.perf_counter()
                fw.run(quantized, x, **arguments)
                best[name] = max(best.get(name, 0.0), images / (time.perf_counter() - start))
    return best


def _test_network(name: str) -> Model:
    from tests import models
    from tests.operators import networks

    own = {"style": networks.style, "detector": networks.detector}
    return own[name](96) if name in own else models.lowered(name, name in models.RECURRENT)


def _without_large_softmax(model: Model) -> Model:
    """Returns the model with logits for outputs where LiteRT's reference kernel could abort at their softmax."""
    *nodes, last = model.main.nodes
    if last.op != "SOFTMAX" or model.main.tensors[last.outputs[0]].shape[-1] < _SOFTMAX_CLASSES:
        return model
    graph = replace(model.main, nodes=tuple(nodes), outputs=(last.inputs[0],))
    return replace(model, graphs=(graph,), signatures=())


def _random_sample(model: Model, seed: int) -> dict[str, np.ndarray]:
    """Returns one example: patches with noise for images, else normal numbers, or small integers."""
    random, sample = np.random.default_rng(seed), {}
    for name, tensor_name in io_names(model)[0].items():
        tensor = model.main.tensors[tensor_name]
        shape = (1, *tensor.shape[1:])
        if tensor.dtype == "int32":
            sample[name] = random.integers(0, 50, shape, np.int32)
            continue
        values = random.normal(0, 1, shape)
        if len(shape) == 4:
            rows, columns = (np.arange(size) * 6 // size for size in shape[1:3])
            values = 0.1 * values + random.uniform(-1, 1, (1, 6, 6, shape[3]))[:, rows][:, :, columns]
        sample[name] = values.astype(np.float32)
    return sample
