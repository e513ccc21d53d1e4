"""Puts what was trained back into the graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featherweight.graph import Graph, Model, constant
from featherweight.training.graph.graph_model import GraphModel


def float_graph(model: GraphModel) -> Model:
    """Returns the float graph with the model's current weights; its nodes and tensors are those of `model.graph`.

    >>> import featherweight as fw, numpy as np
    >>> trained = fw.graph_model(fw.load(lambda x: np.float32([2, 3]) * x, samples=[np.ones((1, 2), np.float32)]))
    >>> trained.trainable_variables[0].assign_add([1.0, 1.0]) is None
    False
    >>> fw.run(float_graph(trained), np.ones((1, 2), np.float32)).tolist()
    [[3.0, 4.0]]
    """
    values = model.current_values()
    return replace(model.graph, graphs=tuple(_with_values(graph, values) for graph in model.graph.graphs))


def _with_values(graph: Graph, values: dict[str, np.ndarray]) -> Graph:
    tensors = {
        name: replace(tensor, data=constant(name, values[name].reshape(tensor.shape)).data)
        if name in values
        else tensor
        for name, tensor in graph.tensors.items()
    }
    return replace(graph, tensors=tensors)
