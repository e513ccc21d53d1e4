"""Operators of a quantized model and its float one are matched by names, or by their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.analysis.small_models import classifier, features
from tests.diagnosis.planted import Parts, pictures

from featherweight.analysis.places import Pair
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.graph.editor import with_constants
from featherweight.operators.layers import layer_names
from featherweight.tasks.diagnose import diagnose
from featherweight.tasks.quantize import quantize


def with_other_names(model: Model) -> Model:
    """The model with tensors called t0, t1 …, as another tool might."""
    graph = model.main
    names = {name: f"t{index}" for index, name in enumerate(graph.tensors)} | {"": ""}

    def of(these: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names[name] for name in these)

    tensors = {names[n]: replace(t, name=names[n], file_name=None) for n, t in graph.tensors.items()}
    nodes = tuple(replace(node, inputs=of(node.inputs), outputs=of(node.outputs)) for node in graph.nodes)
    return Model((Graph("main", of(graph.inputs), of(graph.outputs), nodes, tensors),))


@pytest.mark.parametrize("recipe", ["int8", "dynamic"])
def test_operators_are_found_by_their_order_where_names_are_others(recipe: str) -> None:
    model = Parts().model()
    made = quantize(model, recipe, calibration=pictures(8), verify=False, progress=False).model
    by_name, by_order = Pair(model, made), Pair(model, with_other_names(made))
    kinds = [[(place.kind, place.tensor) for place in pair.places] for pair in (by_name, by_order)]
    assert kinds[0] == kinds[1]
    levels = [diagnose(model, each, pictures(8), progress=False).own_db for each in (made, with_other_names(made))]
    assert levels[0] == levels[1]


def test_operators_with_other_weights_are_not_matched_by_order() -> None:
    made = with_other_names(quantize(classifier(), calibration=features(), verify=False, progress=False).model)
    assert len(Pair(classifier(), made).matches) == 2
    weight = classifier().main.tensors["one/kernel"].array
    other = with_constants(classifier(), {"one/kernel": np.ascontiguousarray(np.asarray(weight)[::-1])})
    assert set(Pair(other, made).matches) <= {"logits"}


def test_layers_are_read_off_names() -> None:
    paths = (
        "model/activation/Relu;model/bn/FusedBatchNormV3;model/conv/BiasAdd/ReadVariableOp/resource1",
        "model/conv_1/Conv2D1",
        "model/head/MatMul",
    )
    tensors = {name: Tensor(name, (1,), "float32") for name in ("x", *paths)}
    nodes = tuple(Node("ABS", ("x",), (path,)) for path in paths)
    found = layer_names(Graph("main", ("x",), paths, nodes, tensors))
    assert list(found.values()) == ["conv", "conv_1", "head"]
