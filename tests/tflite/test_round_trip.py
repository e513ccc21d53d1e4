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
    sharing,
    to_bytes,
    unpacked,
    while_model,
)

from featherweight.errors import FormatError
from featherweight.graph import Graph, Model, Node, Signature, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.tflite import names, read, write

FILES = files.every_file()


def assert_round_trip(content: bytes) -> Model:
    """Reads and writes a file (both placements of its constants) and returns the model; all must be equal."""
    model = read(content)
    for limit in ({}, {"inline_limit_bytes": 0}):
        again = read(write(model, **limit))
        assert plain(again) == plain(model)
        assert sharing(again) == sharing(model)
    return model


def one_operator(options: Any = None, *, op: str = "NEG", **more: Any) -> bytes:
    tensors = [packed_tensor("x", (2, 3)), packed_tensor("y", (2, 3))]
    graph = packed_graph(tensors, [packed_operator(0, [0], [1], options, **more)], [0], [1])
    return to_bytes(packed_model([graph], [packed_code(op)], [packed_buffer(None)]))


def one_constant(data: np.ndarray, dtype: str = "FLOAT32", *, extra: tuple[Any, ...] = (), **more: Any) -> bytes:
    """A file whose first tensor is a constant with the given fields; `extra` are further tensors."""
    tensors = [packed_tensor("w", more.pop("shape", data.shape), dtype, 1, **more), *extra]
    graph = packed_graph(tensors, [], [], [0])
    return to_bytes(packed_model([graph], [], [packed_buffer(None), packed_buffer(data)]))


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


# ------------------------------------------------------------------------------------------------ operators


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


# ------------------------------------------------------------------------------------------------ tensors


def test_shape_signatures_ranks_and_scalars() -> None:
    tensors = [
        packed_tensor("free", (1, 3), shapeSignature=[-1, 3], hasRank=True),
        packed_tensor("scalar", (), hasRank=True),
        packed_tensor("unranked", ()),
    ]
    graph = packed_graph(tensors, [], [0, 1, 2], [0])
    model = assert_round_trip(to_bytes(packed_model([graph], [], [packed_buffer(None)])))
    assert [t.shape_signature for t in model.main.tensors.values()] == [(-1, 3), None, None]
    assert [t.hasRank for t in unpacked(write(model)).subgraphs[0].tensors] == [True, True, False]


@pytest.mark.parametrize("dtype", sorted(set(names.DTYPE_CODES)))
def test_every_type_survives(dtype: str) -> None:
    model = assert_round_trip(one_constant(np.arange(32, dtype=np.uint8), dtype.upper(), shape=(2,)))
    assert model.main.tensors["w"].dtype == dtype


def test_sparse_tensors() -> None:
    def vector(kind: str, values: list[int]) -> tuple[int, Any]:
        table = getattr(schema, f"{kind}T")()
        table.values = values
        return getattr(schema.SparseIndexVector, kind), table

    dense, compressed = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    dense.format, dense.denseSize = schema.DimensionType.DENSE, 2
    compressed.format = schema.DimensionType.SPARSE_CSR
    compressed.arraySegmentsType, compressed.arraySegments = vector("Uint8Vector", [0, 1, 3])
    compressed.arrayIndicesType, compressed.arrayIndices = vector("Uint16Vector", [3, 0, 2])
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.blockMap, sparsity.dimMetadata = [0, 1], [], [dense, compressed]
    content = one_constant(np.array([1, 2, 3], np.float32), shape=(2, 4), sparsity=sparsity)
    model = assert_round_trip(content)
    with pytest.raises(FormatError, match="is stored sparsely"):
        _ = model.main.tensors["w"].array
    before, after = (unpacked(c).subgraphs[0].tensors[0].sparsity for c in (content, write(model)))
    assert plain(after) == plain(before)
    assert list(after.dimMetadata[1].arrayIndices.values) == [3, 0, 2]


def test_sparse_weights_run() -> None:
    # 0.5 in one place of each row, for DENSIFY.
    def vector(values: list[int]) -> Any:
        table = schema.Int32VectorT()
        table.values = values
        return table

    rows, columns = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    rows.denseSize = 2
    columns.format = schema.DimensionType.SPARSE_CSR
    columns.arraySegmentsType = columns.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    columns.arraySegments, columns.arrayIndices = vector([0, 1, 2]), vector([3, 1])
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder, sparsity.dimMetadata = [0, 1], [rows, columns]
    tensors = [packed_tensor("w", (2, 4), "FLOAT32", 1, sparsity=sparsity), packed_tensor("dense", (2, 4))]
    operators = [
        packed_operator(0, [0], [1], schema.DensifyOptionsT()),
        packed_operator(1, [1], [2], schema.NegOptionsT()),
    ]
    tensors.append(packed_tensor("y", (2, 4)))
    buffers = [packed_buffer(None), packed_buffer(np.array([0.5, 0.5], np.float32))]
    packed = packed_model(
        [packed_graph(tensors, operators, [], [2])], [packed_code("DENSIFY"), packed_code("NEG")], buffers
    )
    content = write(assert_round_trip(to_bytes(packed)))
    assert litert_outputs(content)[0].tolist() == [[0, 0, 0, -0.5], [0, -0.5, 0, 0]]


def quantization(**fields: Any) -> Any:
    table = schema.QuantizationParametersT()
    for key, value in fields.items():
        setattr(table, key, value)
    return table


def test_parameters_per_tensor_and_per_channel() -> None:
    data = np.arange(6, dtype=np.int8).reshape(2, 3)
    one = quantization(scale=[0.1], zeroPoint=[-3])
    tensor = assert_round_trip(one_constant(data, "INT8", quantization=one)).main.tensors["w"]
    assert tensor.quant == QuantParams("int8", (float(np.float32(0.1)),), (-3,))
    many = quantization(scale=[0.5, 0.25, 0.1], zeroPoint=[0, 0, 0], quantizedDimension=1)
    tensor = assert_round_trip(one_constant(data, "INT8", quantization=many)).main.tensors["w"]
    assert tensor.quant == QuantParams("int8", (0.5, 0.25, float(np.float32(0.1))), (0, 0, 0), 1)


def test_smallest_and_largest_values_in_the_file() -> None:
    table = quantization(min=[-1.5], max=[2.5])
    content = one_constant(np.zeros(2, np.float32), quantization=table)
    after = unpacked(write(assert_round_trip(content))).subgraphs[0].tensors[0].quantization
    assert (list(after.min), list(after.max)) == ([-1.5], [2.5])
    table = quantization(min=[-1.5], max=[2.5], scale=[0.1], zeroPoint=[4])
    content = one_constant(np.zeros(2, np.int8), "INT8", quantization=table)
    after = unpacked(write(assert_round_trip(content))).subgraphs[0].tensors[0].quantization
    assert (list(after.min), list(after.max), list(after.zeroPoint)) == ([-1.5], [2.5], [4])


def test_custom_quantization_details() -> None:
    details = schema.CustomQuantizationT()
    details.custom = np.arange(7, dtype=np.uint8)
    table = quantization(details=details, detailsType=schema.QuantizationDetails.CustomQuantization)
    content = one_constant(np.zeros(2, np.float32), quantization=table)
    after = unpacked(write(assert_round_trip(content))).subgraphs[0].tensors[0].quantization
    assert bytes(after.details.custom) == bytes(range(7))


def test_parameters_per_block() -> None:
    details = schema.BlockwiseQuantizationT()
    details.scales, details.zeroPoints, details.blockSize, details.blockShape = 1, 2, 32, [1, 32]
    table = quantization(details=details, detailsType=schema.QuantizationDetails.BlockwiseQuantization)
    extra = (packed_tensor("scales", (2, 1), "FLOAT16", 1), packed_tensor("zero_points", (2, 1), "INT8", 1))
    content = one_constant(np.zeros(32, np.uint8), "INT4", shape=(2, 32), quantization=table, extra=extra)
    tensor = assert_round_trip(content).main.tensors["w"]
    assert tensor.quant is not None
    assert (tensor.quant.block_size, tensor.quant.scale_tensor) == (32, "scales")
    after = unpacked(write(read(content))).subgraphs[0].tensors[0].quantization.details
    assert (after.scales, after.zeroPoints, after.blockSize, list(after.blockShape)) == (1, 2, 32, [1, 32])


# ------------------------------------------------------------------------------------------------ buffers


def test_shared_buffers_stay_shared() -> None:
    tensors = [packed_tensor(name, (2,), "FLOAT32", number) for name, number in (("a", 1), ("b", 1), ("c", 2))]
    buffers = [packed_buffer(None), packed_buffer(np.ones(2, np.float32)), packed_buffer(np.ones(2, np.float32))]
    model = assert_round_trip(to_bytes(packed_model([packed_graph(tensors, [], [], [0, 1, 2])], [], buffers)))
    assert sharing(model) == [["a", "b"], ["c"]]


def test_buffers_shared_over_subgraphs_stay_shared() -> None:
    buffers = [packed_buffer(None), packed_buffer(np.ones(2, np.float32))]
    graphs = [packed_graph([packed_tensor(n, (2,), "FLOAT32", 1)], [], [], [0], n) for n in ("a", "b")]
    assert sharing(assert_round_trip(to_bytes(packed_model(graphs, [], buffers)))) == [["a", "b"]]


def test_constants_without_elements() -> None:
    content = one_constant(np.zeros((0, 3), np.int32), "INT32")
    array = assert_round_trip(content).main.tensors["w"].array
    assert array is not None
    assert array.shape == (0, 3)


def test_constants_are_aligned() -> None:
    random = np.random.default_rng(0)
    constants = {n: constant(n, random.normal(size=s).astype(np.float32)) for n, s in (("a", 1), ("b", 3), ("c", 5))}
    constants["d"] = constant("d", np.arange(3, dtype=np.int8))
    model = Model((Graph("main", (), ("a",), (), constants),))
    for limit in ({}, {"inline_limit_bytes": 0}):
        content = write(model, **limit)
        start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
        for tensor in read(content).main.tensors.values():
            assert tensor.data is not None
            assert (tensor.data.__array_interface__["data"][0] - start) % 16 == 0


def test_buffers_after_the_flatbuffer() -> None:
    model = dense_model(64, 64)
    inside, outside = write(model), write(model, inline_limit_bytes=0)
    packed = unpacked(outside)
    placed = [(b.offset, b.size) for b in packed.buffers if b.offset > 1]
    assert len(placed) == 4  # three weights and the metadata
    assert all(b.data is None for b in packed.buffers)
    assert all(offset % 16 == 0 and offset + size <= len(outside) for offset, size in placed)
    assert plain(read(outside)) == plain(read(inside))
    np.testing.assert_array_equal(litert_outputs(outside)[0], litert_outputs(inside)[0])


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
