"""Operators, their codes and their options survive reading and writing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.tflite.files import (
    assert_round_trip,
    dense_model,
    one_operator,
    packed_buffer,
    packed_code,
    packed_graph,
    packed_model,
    packed_operator,
    packed_tensor,
    plain,
    to_bytes,
    unpacked,
)

from featherweight.errors import FormatError
from featherweight.graph import Graph, Model, Node, Signature, Tensor
from featherweight.tflite import names, read, write


def test_operator_versions_and_codes_beyond_127() -> None:
    tensors = [packed_tensor("x", (1,)), packed_tensor("y", (1,)), packed_tensor("z", (1,))]
    operators = [packed_operator(0, [0], [1]), packed_operator(1, [1], [2])]
    packed = packed_model(
        [packed_graph(tensors, operators, [0], [2])],
        [packed_code("CONV_2D", 7), packed_code("GELU", 2)],
        [packed_buffer(None)],
    )
    model = assert_round_trip(to_bytes(packed))
    assert [(node.op, node.version) for node in model.main.nodes] == [("CONV_2D", 7), ("GELU", 2)]
    codes = unpacked(write(model)).operatorCodes
    assert [(c.deprecatedBuiltinCode, c.builtinCode) for c in codes] == [(3, 3), (127, 150)]


def test_files_of_before_the_new_operator_codes() -> None:
    packed = unpacked(one_operator())
    packed.operatorCodes[0].deprecatedBuiltinCode, packed.operatorCodes[0].builtinCode = 59, 0
    assert read(to_bytes(packed)).main.nodes[0].op == "NEG"


def test_one_operator_code_for_all_uses_of_an_operator() -> None:
    assert len(unpacked(write(dense_model())).operatorCodes) == 1


def test_custom_operators_and_their_options() -> None:
    tensors = [packed_tensor("x", (1,)), packed_tensor("y", (1,)), packed_tensor("z", (1,))]
    operators = [
        packed_operator(0, [0], [1], customOptions=np.frombuffer(b"\x00flex\xff", np.uint8)),
        packed_operator(1, [1], [2]),
    ]
    codes = [packed_code("CUSTOM", 3, "FlexErf"), packed_code("CUSTOM", 1, "TFLite_Detection")]
    model = assert_round_trip(
        to_bytes(packed_model([packed_graph(tensors, operators, [0], [2])], codes, [packed_buffer(None)]))
    )
    first, second = model.main.nodes
    assert (first.op, first.custom_code, first.version) == ("CUSTOM", "FlexErf", 3)
    assert second.custom_code == "TFLite_Detection"
    assert bytes(unpacked(write(model)).subgraphs[0].operators[0].customOptions) == b"\x00flex\xff"


def test_custom_options_after_the_flatbuffer() -> None:
    content = one_operator(op="CUSTOM", largeCustomOptionsOffset=2, largeCustomOptionsSize=2)
    padded = content + bytes(-len(content) % 16)
    payload = b"large options"
    packed = unpacked(content)
    operator = packed.subgraphs[0].operators[0]
    operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize = len(padded), len(payload)
    rebuilt = to_bytes(packed)
    assert len(rebuilt) == len(content)
    model = read(rebuilt + bytes(len(padded) - len(rebuilt)) + payload)
    assert bytes(model.main.nodes[0].extras["custom_options"]) == payload
    assert plain(read(write(model))) == plain(model)


def test_options_by_name() -> None:
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, 2, 3
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU6
    node = assert_round_trip(one_operator(options, op="CONV_2D")).main.nodes[0]
    assert node.attrs["padding"] == "VALID"
    assert (node.attrs["stride_h"], node.attrs["stride_w"]) == (2, 3)
    assert node.attrs["fused_activation_function"] == "RELU6"


def test_options_with_vectors() -> None:
    options = schema.ReshapeOptionsT()
    options.newShape = [3, 2]
    assert assert_round_trip(one_operator(options, op="RESHAPE")).main.nodes[0].attrs["new_shape"] == (3, 2)


def test_options_of_the_second_union() -> None:
    options = schema.StableHLOCompositeOptionsT()
    options.name, options.decompositionSubgraphIndex = "odml.rms_norm", 0
    options.compositeAttributes, options.version = np.arange(5, dtype=np.uint8), 2
    kind = schema.BuiltinOptions2.StableHLOCompositeOptions
    content = one_operator(op="STABLEHLO_COMPOSITE", builtinOptions2=options, builtinOptions2Type=kind)
    node = assert_round_trip(content).main.nodes[0]
    assert node.attrs["composite_attributes"] == bytes(range(5))
    written = unpacked(write(read(content))).subgraphs[0].operators[0]
    assert (written.builtinOptions2Type, written.builtinOptions2.name) == (kind, b"odml.rms_norm")


@pytest.mark.parametrize("kind", sorted(set(names.OPTIONS) | set(names.OPTIONS_2)))
def test_every_options_table_survives(kind: str) -> None:
    is_second = kind in names.OPTIONS_2
    options = getattr(schema, f"{kind}T")()
    for number, (field, value) in enumerate(vars(options).items()):
        if isinstance(value, bool):
            setattr(options, field, True)
        elif isinstance(value, int) and field.lower() not in {
            "padding",
            "fusedactivationfunction",
            "mode",
            "weightsformat",
        }:
            setattr(options, field, number + 1)
        elif isinstance(value, float):
            setattr(options, field, number + 0.5)
    fields: dict[str, Any] = {"options": options}
    if is_second:
        fields = {"builtinOptions2": options, "builtinOptions2Type": names.OPTIONS_2[kind]}
    content = one_operator(**fields)
    assert_round_trip(content)
    before, after = (unpacked(c).subgraphs[0].operators[0] for c in (content, write(read(content))))
    assert plain(after) == plain(before)


def test_intermediates_and_variables() -> None:
    tensors = [
        packed_tensor("x", (1, 4)),
        packed_tensor("state", (1, 4), isVariable=True),
        packed_tensor("gate", (1, 4)),
        packed_tensor("y", (1, 4)),
    ]
    operator = packed_operator(0, [0, 1], [3], intermediates=[2, -1], mutatingVariableInputs=[False, True])
    packed = packed_model([packed_graph(tensors, [operator], [0], [3])], [packed_code("LSTM")], [packed_buffer(None)])
    model = assert_round_trip(to_bytes(packed))
    assert model.main.nodes[0].extras["intermediates"] == ("gate", "")
    assert model.main.nodes[0].extras["mutating_variable_inputs"] == (False, True)
    assert [t.is_variable for t in model.main.tensors.values()] == [False, True, False, False]


def test_unknown_operators_types_and_options_are_refused() -> None:
    packed = unpacked(one_operator())
    packed.operatorCodes[0].builtinCode = 9999
    with pytest.raises(FormatError, match=r"^the given bytes: operator code 9999 is unknown\. Update featherweight"):
        read(to_bytes(packed))
    packed = unpacked(one_operator())
    packed.subgraphs[0].tensors[1].type = 99
    with pytest.raises(
        FormatError, match=r"^the given bytes: tensor 'y' has the unknown type 99\. Update featherweight"
    ):
        read(to_bytes(packed))


def test_attributes_without_a_table_are_not_left_out_silently() -> None:
    node = Node("RELU", ("x",), ("y",), {"beta": 1.0})
    model = Model((Graph("main", ("x",), ("y",), (node,), {n: Tensor(n, (1,), "float32") for n in "xy"}),))
    with pytest.raises(FormatError, match=r"RELU 'y' has attributes \(beta\), but no table of the file format"):
        write(model)


def test_a_node_that_refers_to_a_missing_tensor_can_not_be_written() -> None:
    graph = Graph("main", (), (), (Node("NEG", ("x",), ("y",)),), {"y": Tensor("y", (1,), "float32")})
    with pytest.raises(FormatError, match=r"^NEG 'y' refers to the tensor 'x', which its graph lacks\."):
        write(Model((graph,)))


@pytest.mark.parametrize("part", ["inputs", "outputs", "signature"])
def test_a_border_that_refers_to_a_missing_tensor_can_not_be_written(part: str) -> None:
    model = dense_model()
    if part == "signature":
        broken = replace(model, signatures=(Signature("serve", (("frame", "gone"),), ()),))
    else:
        broken = replace(model, graphs=(replace(model.main, **{part: ("gone",)}),))
    with pytest.raises(FormatError, match="'gone'"):
        write(broken)
