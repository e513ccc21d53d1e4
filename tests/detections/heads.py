"""Detectors whose outputs are functions of their input: what they find is known."""

from __future__ import annotations

import numpy as np

from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant


def passing(op="ADD", /, **shapes):
    """A model that returns its float inputs (or their logarithms) beside an 8 × 16 image; shapes are without batch."""
    tensors = {"image": Tensor("image", (1, 8, 16, 3), "float32")}
    nodes, inputs, outputs = [], ["image"], []
    for name, shape in shapes.items():
        tensors[f"{name}_in"] = Tensor(f"{name}_in", (1, *shape), "float32")
        tensors[name] = Tensor(name, (1, *shape), "float32")
        nodes.append(Node(op, (f"{name}_in", "zero")[: 2 if op == "ADD" else 1], (name,)))
        inputs.append(f"{name}_in")
        outputs.append(name)
    tensors["zero"] = constant("zero", np.zeros(1, np.float32))
    graph = Graph("main", tuple(inputs), tuple(outputs), tuple(nodes), tensors)
    signature = Signature("serving_default", tuple((n, n) for n in inputs), tuple((n, n) for n in outputs))
    return Model((graph,), signatures=(signature,))


def samples(**arrays):
    """Samples for `passing`: arrays of outputs, with the images along their first axis."""
    count = len(next(iter(arrays.values())))
    image = np.zeros((8, 16, 3), np.float32)
    return [
        {"image": image, **{f"{name}_in": np.asarray(array[i], np.float32) for name, array in arrays.items()}}
        for i in range(count)
    ]
