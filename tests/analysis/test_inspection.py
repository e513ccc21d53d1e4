from __future__ import annotations

import json
import zlib
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.analysis.small_models import classifier, features

from featherweight import tflite
from featherweight.analysis import inspect
from featherweight.analysis.inspection import arithmetic, quantization_text, zero_count
from featherweight.errors import FormatError
from featherweight.graph import Graph, Node, Tensor, constant
from featherweight.graph.numerics import QuantParams
from featherweight.runtime.sizes import sizes_bytes
from featherweight.tasks import quantize as pipeline


def test_a_float_model():
    found = inspect(classifier())
    assert found.nodes == {"float": 2}
    assert [(row.op, row.count, dict(row.arithmetic)) for row in found.operators] == [
        ("FULLY_CONNECTED", 2, {"float": 2})
    ]
    assert found.float_nodes == (("FULLY_CONNECTED", "hidden"), ("FULLY_CONNECTED", "logits"))
    assert not found.is_integer
    assert found.macs == 8 * 16 + 16 * 6
    assert found.constant_bytes == {"float32": 4 * (8 * 16 + 16 + 16 * 6 + 6)}
    assert [(p.name, p.shape, p.dtype) for p in found.inputs] == [("features", (-1, 8), "float32")]
    assert [(p.name, p.shape, p.dtype) for p in found.outputs] == [("scores", (-1, 6), "float32")]
    roles = {row.name: row.role for row in found.tensors}
    assert roles == {
        "x": "input",
        "hidden": "activation",
        "logits": "output",
        "one/kernel": "constant",
        "one/bias": "constant",
        "two/kernel": "constant",
        "two/bias": "constant",
    }


@pytest.mark.parametrize(
    ("recipe", "io", "nodes", "is_integer"),
    [
        ("int8", "int8", {"integer": 2}, True),
        ("int8", "float32", {"integer": 2, "conversion": 2}, True),
        ("dynamic", None, {"hybrid": 2}, False),
        ("float16", None, {"float": 2, "conversion": 2}, False),
    ],
)
def test_which_operators_compute_in_integers(recipe, io, nodes, is_integer):
    model = pipeline.quantize(classifier(), recipe, calibration=features(), io=io, progress=False).model
    found = inspect(model)
    assert (found.nodes, found.is_integer) == (nodes, is_integer)


def test_quantization_per_tensor_and_per_channel():
    model = pipeline.quantize(classifier(), "int8", calibration=features(), progress=False).model
    texts = {row.name: row.quantization for row in inspect(model).tensors}
    assert texts["one/kernel"].startswith("per channel (axis 0), 16 scales 0.0")
    assert texts["hidden"].endswith("zero point -128")
    assert texts["x"] is None or "scale" in texts["x"]
    assert quantization_text(QuantParams("int4", (), (), 1, 32, "s")) == "blocks of 32 along axis 1"


def test_sparsity_counts_zeros_of_kernels_only():
    model = classifier()
    graph = model.main
    kernel = graph.tensors["one/kernel"].array.copy()
    kernel[:, ::2] = 0
    tensors = dict(graph.tensors) | {
        "one/kernel": constant("one/kernel", kernel),
        "one/bias": constant("one/bias", np.zeros(16, np.float32)),
    }
    found = inspect(replace(model, graphs=(replace(graph, tensors=tensors),)))
    assert found.sparsity == pytest.approx(64 / (128 + 96))
    rows = {row.name: row.sparsity for row in found.tensors}
    assert (rows["one/kernel"], rows["one/bias"], rows["hidden"]) == (0.5, None, None)


@pytest.mark.parametrize(
    ("tensor", "zeros"),
    [
        (constant("w", np.array([[0, 3], [3, 5]], np.uint8), quant=QuantParams("uint8", (1.0,), (3,))), 2),
        (constant("w", np.array([[0, 3], [3, 5]], np.int8), quant=QuantParams("int8", (1.0, 1.0), (0, 3), 0)), 2),
        (constant("w", np.array([[0, 2], [0, -3]], ml_dtypes.int4), "int4", QuantParams("int4", (1.0,), (0,))), 2),
        (constant("w", np.array([[0, 2], [0, -3]], np.float16)), 2),
    ],
)
def test_zeros_are_where_the_zero_point_is(tensor, zeros):
    assert zero_count(tensor) == zeros


def test_arithmetic_of_single_nodes():
    quant = QuantParams("int8", (1.0,), (0,))
    tensors = {
        "f": Tensor("f", (1,), "float32"),
        "h": Tensor("h", (1,), "float16"),
        "q": Tensor("q", (1,), "int8", quant=quant),
        "i": Tensor("i", (1,), "int32"),
    }
    graph = Graph("g", (), (), (), tensors)
    for read, written, expected in [
        (("f", "f"), "f", "float"),
        (("q", "q"), "q", "integer"),
        (("q",), "q", "integer"),
        (("f",), "q", "conversion"),
        (("q",), "f", "conversion"),
        (("h",), "f", "conversion"),
        (("f", "q", ""), "f", "hybrid"),
        (("q", "i"), "f", "hybrid"),
        (("i",), "i", "plain"),
    ]:
        assert arithmetic(Node("ANY", read, (written,)), graph) == expected
    assert arithmetic(Node("WHILE", ("f",), ("f",)), graph) == "control"


def test_sizes_are_those_of_the_file(tmp_path):
    path = tmp_path / "model.tflite"
    size = tflite.save(classifier(), path)
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    expected = len(compressor.compress(path.read_bytes()) + compressor.flush())
    assert sizes_bytes(path) == sizes_bytes(path.read_bytes()) == sizes_bytes(classifier()) == (size, expected)
    assert sizes_bytes(path, compress=False) == (size, None)
    with pytest.raises(FormatError, match=r"'.*nothing\.tflite' can't be read"):
        sizes_bytes(tmp_path / "nothing.tflite")


def test_json_is_plain():
    model = pipeline.quantize(classifier(), "int8", calibration=features(), progress=False).model
    table = json.loads(json.dumps(inspect(model).to_json(), allow_nan=False))
    assert table["is_integer"] is True
    assert {row["op"] for row in table["operators"]} == {"FULLY_CONNECTED", "QUANTIZE", "DEQUANTIZE"}


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "garbage.tflite"
    path.write_bytes(b"x" * 100)
    with pytest.raises(FormatError, match=r"is not a \.tflite model"):
        inspect(path)
