"""Compares the integers that we write with those of TensorFlow's converter, given its ranges; run as a job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from featherweight import tflite
from featherweight.calibration import Stats, TensorStats, measurable
from featherweight.graph import Graph, Node
from featherweight.numerics import QuantParams
from featherweight.ptq.planning import plan
from featherweight.ptq.rewrite import rewrite


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
