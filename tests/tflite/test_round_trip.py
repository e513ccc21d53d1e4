"""What `read` finds, `write` puts back: nothing of a file is lost, and LiteRT computes the same with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st
from tests.tflite import files
from tests.tflite.files import (
    assert_round_trip,
    dense_model,
    if_model,
    litert_outputs,
    packed_buffer,
    packed_code,
    packed_graph,
    packed_model,
    packed_operator,
    packed_tensor,
    plain,
    to_bytes,
    unpacked,
    while_model,
)

from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.tflite import read, write

FILES = files.every_file()


# ------------------------------------------------------------------------------------------------ whole files


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_lost(name: str) -> None:
    assert_round_trip(FILES[name])


@pytest.mark.parametrize("name", FILES)
def test_litert_computes_the_same(name: str) -> None:
    content = FILES[name]
    expected = litert_outputs(content)
    model = read(content)
    for limit in ({}, {"inline_limit_bytes": 0}):
        for one, other in zip(expected, litert_outputs(write(model, **limit)), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", FILES)
def test_the_schema_finds_what_was_in_the_file(name: str) -> None:
    # Independent of featherweight's reader: the schema's own objects, before and after.
    assert _comparable(unpacked(write(read(FILES[name])))) == _comparable(unpacked(FILES[name]))


def _comparable(packed: Any) -> Any:
    """A schema model as plain data: buffers and operator codes by content, absent and empty text and vectors alike."""
    buffers = [plain(b.data) if b.data is not None and len(b.data) else None for b in packed.buffers]
    codes = [(c.builtinCode or c.deprecatedBuiltinCode, c.version, c.customCode) for c in packed.operatorCodes or ()]
    metadata = [(m.name, buffers[m.buffer]) for m in packed.metadata or ()]
    graphs = []
    for graph in packed.subgraphs:
        tensors = []
        for tensor in graph.tensors:
            table = plain(tensor) | {"buffer": buffers[tensor.buffer], "name": tensor.name or b""}
            quantization = table["quantization"]
            if quantization is not None and not any(v for k, v in quantization.items() if k != "quantizedDimension"):
                table["quantization"] = None
            tensors.append(table)
        operators = [plain(o) | {"opcodeIndex": codes[o.opcodeIndex]} for o in graph.operators or ()]
        graphs.append([tensors, operators, plain(graph.inputs), plain(graph.outputs), graph.name or b""])
    return [graphs, metadata, plain(packed.signatureDefs), packed.description or b"", packed.version]


def test_bytes_are_deterministic() -> None:
    model = dense_model()
    assert write(model) == write(model) == write(read(write(model)))
    assert write(dense_model()) == write(model)


# ------------------------------------------------------------------------------------------------ subgraphs


@pytest.mark.parametrize(
    ("make", "expected"), [(while_model, ["main", "cond", "body"]), (if_model, ["main", "then", "else"])]
)
def test_several_subgraphs(make: Any, expected: list[str]) -> None:
    model = assert_round_trip(write(make()))
    assert [graph.name for graph in model.graphs] == expected
    assert model.main.nodes[0].op in {"WHILE", "IF"}


def test_names_are_unique_over_all_subgraphs_and_written_as_they_were() -> None:
    tensors = [packed_tensor("x", (1,)), packed_tensor("x", (1,)), packed_tensor("", (1,)), packed_tensor(None, (1,))]
    first = packed_graph(tensors, [packed_operator(0, [0], [1])], [0, 2, 3], [1])
    second = packed_graph([packed_tensor("x", (1,)), packed_tensor("tensor_2", (1,))], [], [0], [1], "other")
    model = assert_round_trip(to_bytes(packed_model([first, second], [packed_code("NEG")], [packed_buffer(None)])))
    found = [name for graph in model.graphs for name in graph.tensors]
    assert len(set(found)) == len(found) == 6
    assert all(found)
    assert found[0] == "x"
    assert model.main.nodes[0].outputs == (found[1],)
    written = unpacked(write(model))
    assert [t.name or b"" for g in written.subgraphs for t in g.tensors] == [b"x", b"x", b"", b"", b"x", b"tensor_2"]


def test_names_that_are_no_utf8_survive() -> None:
    graph = packed_graph([packed_tensor(b"conv\xff\xfe", (1,)), packed_tensor("größe/→", (1,))], [], [0], [1])
    model = assert_round_trip(to_bytes(packed_model([graph], [], [packed_buffer(None)])))
    assert [t.name for t in unpacked(write(model)).subgraphs[0].tensors] == [b"conv\xff\xfe", "größe/→".encode()]


def test_absent_inputs_and_outputs() -> None:
    tensors = [packed_tensor("x", (1,)), packed_tensor("y", (1,))]
    graph = packed_graph(tensors, [packed_operator(0, [0, -1], [1])], [0], [1])
    model = assert_round_trip(to_bytes(packed_model([graph], [packed_code("FULLY_CONNECTED")], [packed_buffer(None)])))
    assert model.main.nodes[0].inputs == ("x", "")


# ------------------------------------------------------------------------------------------------ model fields


def test_signatures() -> None:
    model = replace(
        dense_model(),
        signatures=(
            Signature("serve", (("in", "x"),), (("out", "y"), ("hidden", "h"))),
            Signature("", (), ()),
        ),
    )
    assert assert_round_trip(write(model)).signatures == model.signatures


def test_signatures_of_other_subgraphs() -> None:
    model = replace(while_model(), signatures=(Signature("step", (("x", "body_x"),), (("y", "next_x"),), graph=2),))
    assert assert_round_trip(write(model)).signatures == model.signatures


def test_metadata() -> None:
    content = {"min_runtime_version": b"1.14.0\0\0", "empty": b"", "binary": bytes(range(256))}
    model = assert_round_trip(write(replace(dense_model(), metadata=content)))
    assert {name: bytes(value) for name, value in model.metadata.items()} == content


def test_metadata_with_one_name_twice() -> None:
    def entry(buffer: int) -> Any:
        metadata = schema.MetadataT()
        metadata.name, metadata.buffer = "note", buffer
        return metadata

    graph = packed_graph([packed_tensor("x", (1,))], [], [0], [0])
    buffers = [packed_buffer(b) for b in (None, b"one", b"two")]
    packed = packed_model([graph], [], buffers, metadata=[entry(1), entry(2)], metadataBuffer=[1, 2])
    model = assert_round_trip(to_bytes(packed))
    assert [bytes(v) for v in model.metadata.values()] == [b"one", b"two"]
    again = unpacked(write(model))
    assert [m.name for m in again.metadata] == [b"note", b"note"]
    assert [bytes(again.buffers[i].data) for i in again.metadataBuffer] == [b"one", b"two"]


def test_numbers_of_metadata_buffers_that_are_gone_stand_for_nothing() -> None:
    graph = packed_graph([packed_tensor("x", (1,))], [], [0], [0])
    packed = packed_model([graph], [], [packed_buffer(b) for b in (None, b"one")], metadataBuffer=[1, 7, -1])
    again = unpacked(write(read(to_bytes(packed))))
    assert [bytes(again.buffers[i].data) for i in again.metadataBuffer] == [b"one"]


def test_metadata_that_is_taken_away_leaves_the_rest_under_its_names() -> None:
    model = read(write(replace(dense_model(), metadata={"a": b"1", "b": b"2", "c": b"3"})))
    kept = replace(model, metadata={name: value for name, value in model.metadata.items() if name != "a"})
    assert {n: bytes(v) for n, v in read(write(kept)).metadata.items()} == {"b": b"2", "c": b"3"}


def test_metadata_that_is_put_before_the_rest() -> None:
    model = read(write(replace(dense_model(), metadata={"a": b"1"})))
    added = replace(model, metadata={"first": b"0", **model.metadata})
    assert {n: bytes(v) for n, v in read(write(added)).metadata.items()} == {"first": b"0", "a": b"1"}


def test_description_and_version() -> None:
    assert assert_round_trip(write(dense_model())).description == "two dense layers"
    assert unpacked(write(dense_model())).version == 3


# ------------------------------------------------------------------------------------------------ generated graphs


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draws models with arbitrary tensors, constants, quantization, operators and names."""
    text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
    taken: set[str] = {""}
    graphs = []
    for _ in range(draw(st.integers(1, 2))):
        tensors: dict[str, Tensor] = {}
        for _ in range(draw(st.integers(1, 6))):
            name = draw(text.filter(lambda t: t not in taken))
            taken.add(name)
            shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
            dtype = draw(st.sampled_from(["float32", "int8", "int32", "int4", "bool"]))
            tensor = Tensor(name, shape, dtype, is_variable=draw(st.booleans()))
            if draw(st.booleans()) and tensor.elements:
                tensor = replace(constant(name, np.ones(shape, np.int8), dtype), is_variable=False)
            if dtype in {"int8", "int4"}:
                scale = draw(st.floats(2.0**-20, 2.0**20, width=32))
                tensor = replace(tensor, quant=QuantParams(dtype, (scale,), (draw(st.integers(-8, 7)),)))
            if draw(st.booleans()):
                tensor = replace(tensor, shape_signature=(-1,) * len(shape))
            tensors[name] = tensor
        names_ = st.lists(st.sampled_from(["", *tensors]), max_size=3).map(tuple)
        real = st.lists(st.sampled_from([*tensors]), max_size=3).map(tuple)
        nodes = []
        for _ in range(draw(st.integers(0, 4))):
            op = draw(st.sampled_from(["ADD", "CONV_2D", "CUSTOM", "GELU", "DYNAMIC_UPDATE_SLICE"]))
            custom_code = draw(text) if op == "CUSTOM" else None
            extras = {} if op == "CUSTOM" else {"options": ""}  # a table is read with values for all of its fields
            nodes.append(Node(op, draw(names_), draw(names_), {}, draw(st.integers(1, 9)), custom_code, extras))
        graphs.append(Graph(draw(text), draw(real), draw(real), tuple(nodes), tensors))
    metadata = draw(st.dictionaries(text.filter(bool), st.binary(max_size=9), max_size=3))
    return Model(tuple(graphs), (), metadata, draw(text))


@given(models(), st.sampled_from([0, 1 << 30]))
def test_generated_models_survive(model: Model, limit: int) -> None:
    content = write(model, inline_limit_bytes=limit)
    again = read(content)
    assert content == write(model, inline_limit_bytes=limit)
    assert plain(again.graphs) == plain(model.graphs)
    assert {k: bytes(v) for k, v in again.metadata.items()} == dict(model.metadata)
    assert again.description == model.description
    assert write(again, inline_limit_bytes=limit) == content
