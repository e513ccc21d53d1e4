"""What weights are scaled by, computed for all nodes at once, is what each node would compute."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812

import featherweight as fw
from featherweight.training.integer.straight_through import joined, quotient, reciprocal


def trained(model: keras.Model, x: np.ndarray, target: str = "litert") -> keras.Model:
    return fw.quantize_aware(model, target=target, calibration=[x], progress=False)


@pytest.mark.parametrize("target", ["litert", "int8-per-tensor"])
def test_channels_of_all_nodes_are_those_of_each(target: str) -> None:
    shared, i = L.Dense(6, name="twice"), keras.Input((6,))
    model = keras.Model(i, L.Dense(3)(shared(keras.ops.relu(shared(L.Dense(6)(i))))))
    x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    qat = trained(model, x, target)
    graph, zero = qat.integer.main, np.float32(0)
    found = qat.scales.channels(zero)
    weighted = [node for node in graph.nodes if node.op == "FULLY_CONNECTED"]
    assert [node.name for node in weighted] == list(found)
    assert len(weighted) == 4
    for node in weighted:
        in_scale, scale, out_scale = (
            qat.scales.affine_now(graph.tensors[name])[0] for name in (*node.inputs[:2], node.outputs[0])
        )
        unit = joined(in_scale, scale)
        expected = reciprocal(scale, zero), reciprocal(unit, zero), quotient(unit, out_scale, zero)
        for got, right in zip(vars(found[node.name]).values(), expected, strict=True):
            np.testing.assert_array_equal(np.asarray(got), right)


def test_shapes_are_known_without_computing_the_integers() -> None:
    i = keras.Input((5, 5, 2))
    y = L.Conv2D(3, 3, activation="relu")(i)
    model = keras.Model(i, {"image": y, "scores": L.Dense(4)(L.Flatten()(y))})
    x = np.random.default_rng(0).normal(size=(8, 5, 5, 2)).astype(np.float32)
    qat = trained(model, x)
    asked = qat(keras.Input((5, 5, 2)))
    computed = qat(x)
    assert {name: value.shape for name, value in asked.items()} == {
        name: (None, *value.shape[1:]) for name, value in computed.items()
    }
