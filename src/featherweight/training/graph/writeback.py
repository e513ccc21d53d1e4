"""Puts what was trained back into the graph."""

from __future__ import annotations

from featherweight.graph import Model
from featherweight.graph.editor import with_constants
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
    tensors, current = model.graph.tensors, model.current_values()
    return with_constants(model.graph, {name: value.reshape(tensors[name].shape) for name, value in current.items()})
