"""Composites become the operators that they stand for, wherever they are called, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.ptq.nets import operators, samples
from tests.tflite.files import while_model

import featherweight as fw
from featherweight.graph import Graph, Model, Node, Tensor
from featherweight.passes.composites import COMPOSITE, composites, written_out
from featherweight.passes.legalization import prepare
from featherweight.runtime import run
from featherweight.tflite import read, write

SHAPE = (2, 3)


def body(name: str, *nodes: tuple[str, str, str]) -> Graph:
    """Returns a graph of operators of one operand, from `<name>_in` to `<name>_out`."""
    found = tuple(Node(op, (f"{name}_{x}",), (f"{name}_{y}",)) for op, x, y in nodes)
    tensors = {n: Tensor(n, SHAPE, "float32") for node in found for n in (*node.inputs, *node.outputs)}
    return Graph(name, (f"{name}_in",), (f"{name}_out",), found, tensors)


def composite(x: str, y: str, graph: int, name: bytes = b"test.twice") -> Node:
    attrs = {
        "name": name,
        "decomposition_subgraph_index": graph,
        "version": 1,
        "composite_attributes": b"\x00\x00\x01\x00\x00$\x01",
    }
    return Node(COMPOSITE, (x,), (y,), attrs, extras={"options": "StableHLOCompositeOptions"})


def nested() -> Model:
    """Returns a graph that calls a composite twice, which calls another; with a loop, whose graphs come between."""
    loop = while_model()
    tensors = {name: Tensor(name, SHAPE, "float32") for name in ("p", "q", "r")}
    main = loop.main
    calls = (composite("p", "q", 3), composite("q", "r", 3))
    main = replace(
        main,
        inputs=(*main.inputs, "p"),
        outputs=(*main.outputs, "r"),
        nodes=(*main.nodes, *calls),
        tensors={**main.tensors, **tensors},
    )
    outer = body("outer", ("ABS", "in", "half"), ("EXP", "half", "out"))
    inner = body("inner", ("NEG", "in", "out"))
    outer = replace(outer, nodes=(composite("outer_in", "outer_half", 4, b"test.inner"), outer.nodes[1]))
    return Model((main, *loop.graphs[1:], outer, inner))


def test_composites_within_composites_are_written_out() -> None:
    model = nested()
    assert composites(model) == ("test.twice", "test.inner")
    flat = written_out(model)
    assert composites(flat) == ()
    assert len(flat.graphs) == 3
    assert (operators(flat)["NEG"], operators(flat)["EXP"]) == (2, 2)
    assert len(set(flat.tensors)) == sum(len(graph.tensors) for graph in flat.graphs)
    (feed,) = samples(model, 1)
    for name, value in run(model, feed).items():
        np.testing.assert_array_equal(run(read(write(flat)), feed)[name], value)
    assert written_out(flat) is flat


def test_a_model_without_composites_is_the_same() -> None:
    model = while_model()
    assert written_out(model) is model


@pytest.mark.parametrize("outputs", [("hands_in",), ("hands_out", "hands_out")])
def test_bodies_that_hand_on_what_they_are_given_stay(outputs: tuple[str, ...]) -> None:
    graph = replace(body("hands", ("NEG", "in", "out")), outputs=outputs)
    names = ("y", "z")[: len(outputs)]
    tensors = {name: Tensor(name, SHAPE, "float32") for name in ("x", *names)}
    node = replace(composite("x", "y", 1), outputs=names)
    model = Model((Graph("main", ("x",), names, (node,), tensors), graph))
    assert written_out(model) is model


def test_integers_reach_into_composites_and_notes_say_so() -> None:
    tensors = {name: Tensor(name, SHAPE, "float32") for name in ("x", "y")}
    graph = body("soft", ("LOGISTIC", "in", "half"), ("TANH", "half", "out"))
    model = Model((Graph("main", ("x",), ("y",), (composite("x", "y", 1),), tensors), graph))
    found = fw.quantize(model, "int8", calibration=samples(model), progress=False)
    assert operators(found.model) == {"QUANTIZE": 1, "LOGISTIC": 1, "TANH": 1, "DEQUANTIZE": 1}
    assert "Composites were written out in plain operators: test.twice" in found.plan.notes[0]
    assert composites(prepare(model)) == ()
