"""A file's plan of its tensors' places is kept for the tensors and operators that it was made for, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests import building, clients

import featherweight as fw
from featherweight.tflite.memory_plan import PLAN

NAMES = ("x", "w", "a", "b", "y")


def net() -> fw.Model:
    """Returns a net of two branches, whose tensors all have their numbers."""
    layers = [
        building.layer("FULLY_CONNECTED", ("x", "w"), {"a": (1, 16)}),
        building.unary("TANH", "x", "b", (1, 16)),
        building.add("a", "b", "y", (1, 16)),
    ]
    return building.net({"x": (1, 16)}, {"w": building.weights(16, 16)}, layers, ("y",))


def planned(offsets: dict[str, int]) -> fw.Model:
    """Returns it as it is read from a file with a plan."""
    rows = [1, 0, len(NAMES), *(offsets.get(name, -1) for name in NAMES)]
    model = net()
    assert tuple(model.main.tensors) == NAMES
    return fw.read(fw.write(replace(model, metadata={PLAN: np.int32(rows).tobytes()})))


def test_the_file_keeps_its_plan():
    model = planned({"x": 0, "a": 64, "b": 128, "y": 0})
    again = fw.read(fw.write(model))
    assert bytes(again.metadata[PLAN]) == bytes(model.metadata[PLAN])


@pytest.mark.parametrize("change", ["order", "type", "names"])
def test_other_tensors_and_operators_are_written_without_it(change):
    model = planned({"x": 0})
    graph = model.main
    if change == "order":
        graph = replace(graph, nodes=(graph.nodes[1], graph.nodes[0], graph.nodes[2]))
    elif change == "type":
        graph = replace(graph, tensors={**graph.tensors, "a": replace(graph.tensors["a"], dtype="int8")})
    else:
        graph = replace(graph, tensors=dict(reversed(graph.tensors.items())))
    assert PLAN not in fw.read(fw.write(replace(model, graphs=(graph,)))).metadata


def test_the_interpreter_computes_the_right_integers_of_what_is_made_of_a_planned_file(tmp_path):
    """With the places of the float file's tensors, integers overwrite each other."""
    model = planned(dict.fromkeys(NAMES, 0) | {"w": -1})
    samples = [building.weights(1, 16, seed=seed) for seed in range(4)]
    made = fw.quantize(model, calibration=samples, target="tflm", io="int8", progress=False, verify=False).model
    fw.save(made, tmp_path / "model.tflite")
    x = np.random.default_rng(0).integers(-128, 128, (1, 16), np.int8)
    found = clients.tflm_run(tmp_path / "model.tflite", x)[0]
    np.testing.assert_array_equal(found, fw.run(made, x, runtime="reference", profile="tflm"))
    assert PLAN not in fw.read(tmp_path / "model.tflite").metadata
