"""Tensors, their parameters and their buffers survive reading and writing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tests.tflite.files import (
    assert_round_trip,
    dense_model,
    litert_outputs,
    one_constant,
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
)

from featherweight.errors import FormatError
from featherweight.graph import Graph, Model, constant
from featherweight.graph.numerics import QuantParams
from featherweight.tflite import names, read, write

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
    buffers = [packed_buffer(None), packed_buffer(np.ones(2, np.float32)), packed_buffer(np.zeros(2, np.float32))]
    model = assert_round_trip(to_bytes(packed_model([packed_graph(tensors, [], [], [0, 1, 2])], [], buffers)))
    assert sharing(model) == [["a", "b"], ["c"]]


def test_equal_constants_share_a_buffer_in_all_graphs_but_variables_keep_their_own() -> None:
    ones = np.ones(4, np.float32)
    one = {name: constant(name, ones.copy()) for name in ("a", "b")} | {"other": constant("other", 2 * ones)}
    one["state"] = replace(constant("state", ones.copy()), is_variable=True)
    two = {"c": constant("c", ones.copy()), "zeros": constant("zeros", np.zeros((2, 2), np.float32))}
    two["bits"] = constant("bits", ones.view(np.int32).reshape(2, 2))
    model = Model((Graph("one", (), tuple(one), (), one), Graph("two", (), tuple(two), (), two)))
    for limit in ({}, {"inline_limit_bytes": 0}):
        written = read(write(model, **limit))
        assert sharing(written) == [["a", "b", "c", "bits"], ["other"], ["state"], ["zeros"]]
        assert all(np.array_equal(t.array, written.tensors[n].array) for n, t in (one | two).items())
        assert write(written, **limit) == write(model, **limit)


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
