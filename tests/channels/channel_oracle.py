"""What removed channels must amount to: the whole graph with a mask of zeros on every tensor that carries them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.channels.labeling import label
from featherweight.graph import Model, Node, constant, replace_graph
from featherweight.runtime import run


def outputs(model: Model, sample: object) -> list[np.ndarray]:
    """All outputs for one sample, in order."""
    result = run(model, sample)
    return [result] if isinstance(result, np.ndarray) else list(result.values())


def masked(model: Model, removed: set[int]) -> Model:
    """The model whose computed tensors are multiplied by 0 where a removed channel is, on any axis."""
    graph, labels = model.main, label(model.main)
    tensors, nodes = dict(graph.tensors), []
    for node in graph.nodes:
        names, behind = [], []
        for name in node.outputs:
            mask = np.ones(graph.tensors[name].shape, np.float32)
            for axis, values in enumerate(labels.tensors[name]):
                np.moveaxis(mask, axis, 0)[np.isin(values, list(removed))] = 0
            if mask.all():
                names.append(name)
                continue
            assert name not in graph.outputs
            raw, factor = f"{name}/raw", f"{name}/mask"
            tensors[raw] = replace(tensors[name], name=raw)
            tensors[factor] = constant(factor, mask)
            names.append(raw)
            behind.append(Node("MUL", (raw, factor), (name,), {"fused_activation_function": "NONE"}))
        nodes += [replace(node, outputs=tuple(names)), *behind]
    return replace_graph(model, 0, replace(graph, nodes=tuple(nodes), tensors=tensors))


def removed_labels(model: Model, smaller: Model) -> int:
    """How many indices of computed tensors are gone."""
    before, after = model.main.tensors, smaller.main.tensors
    return sum(sum(t.shape) - sum(after[n].shape) for n, t in before.items() if not t.is_constant)
