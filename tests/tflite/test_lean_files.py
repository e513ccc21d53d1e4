"""Files without what is stored twice, and without what a runtime never reads: the same integers come out."""

from __future__ import annotations

from dataclasses import replace

import flatbuffers
import numpy as np
import pytest
from tests import clients, models

import featherweight as fw
from featherweight.graph import constant
from featherweight.tflite.lean import UNREAD
from featherweight.tflite.names import schema
from featherweight.tflite.sharing import Shared, SharingBuilder

DENSE = np.random.default_rng(4).integers(-128, 128, (1, 16)).astype(np.int8)
INTEGERS = np.random.default_rng(3).integers(-128, 128, (1, 24, 24, 3)).astype(np.int8)


@pytest.fixture(scope="module")
def for_tflm():
    return fw.quantize(
        models.lowered("convnet"), calibration=models.samples("convnet"), target="tflm", progress=False, keep_names=True
    )


def _packed(content):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def test_equal_vectors_strings_and_tables_are_written_once():
    def built(builder):
        tables = []
        for _ in range(3):
            table = schema.QuantizationParametersT()
            table.scale, table.zeroPoint = np.ones(100, np.float32), np.zeros(100, np.int64)
            tables.append(Shared(table).Pack(builder) if isinstance(builder, SharingBuilder) else table.Pack(builder))
        return tables, builder.Offset()

    once, size = built(SharingBuilder(64))
    apart, full = built(flatbuffers.Builder(64))
    assert len(set(once)) == 1
    assert len(set(apart)) == 3
    assert size < full / 2.5
    builder = SharingBuilder(64)
    assert builder.CreateString("name") == builder.CreateString(b"name")
    assert builder.CreateNumpyVector(np.zeros(2, np.int32)) != builder.CreateNumpyVector(np.zeros(2, np.float32))


def test_zero_points_of_one_length_lie_in_one_place(for_tflm):
    content = fw.write(for_tflm.model)
    table = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    found = {}
    for i in range(table.TensorsLength()):
        quantization = table.Tensors(i).Quantization()
        if quantization is not None and quantization.ZeroPointLength() > 1:
            field = quantization._tab.Vector(quantization._tab.Offset(10))
            found.setdefault(quantization.ZeroPointLength(), set()).add(field)
    assert found
    assert all(len(places) == 1 for places in found.values())


@pytest.mark.parametrize("unread", [("names",), ("bias_scales",), ("converter",), UNREAD])
def test_micro_interpreter_computes_the_same_integers(for_tflm, unread, tmp_path):
    full, lean = tmp_path / "full.tflite", tmp_path / "lean.tflite"
    model = replace(for_tflm.model, extras={**for_tflm.model.extras, "unread": ()})
    sizes = fw.save(model, full), fw.save(replace(model, extras={**model.extras, "unread": unread}), lean)
    assert sizes[1] < sizes[0]
    for run in (clients.tflm_run, lambda path, x: clients.litert_run(path, x, "ref")):
        np.testing.assert_array_equal(run(full, INTEGERS)[0], run(lean, INTEGERS)[0])


@pytest.mark.parametrize("profile", ["xnnpack", "tflite_opt", "tflite_ref", "tflm"])
def test_reference_kernels_compute_what_each_runtime_makes_of_a_lean_file(for_tflm, profile, tmp_path):
    path = tmp_path / "lean.tflite"
    model = replace(for_tflm.model, extras={**for_tflm.model.extras, "unread": ("bias_scales",)})
    fw.save(model, path)
    resolver = {"xnnpack": "auto", "tflite_opt": "nodelegate", "tflite_ref": "ref"}.get(profile)
    found = clients.tflm_run(path, INTEGERS) if resolver is None else clients.litert_run(path, INTEGERS, resolver)
    for source in (path, model):
        expected = fw.run(source, INTEGERS, runtime="reference", profile=profile)
        np.testing.assert_array_equal(found[0], expected)


def test_micro_files_keep_the_names_of_inputs_and_outputs_only(for_tflm):
    lean = fw.quantize(
        models.lowered("convnet"), calibration=models.samples("convnet"), target="tflm", progress=False
    ).model
    names = {(t.name or b"").decode() for t in _packed(fw.write(lean)).subgraphs[0].tensors}
    assert names == {"", *lean.main.inputs, *lean.main.outputs}
    biases = [t for t in lean.main.tensors.values() if t.dtype == "int32" and t.quant is not None]
    assert biases  # in memory, all is there
    assert len(fw.write(lean)) < len(fw.write(for_tflm.model))


@pytest.mark.parametrize(("units", "target"), [(1, "tflm"), (1, "ethos-u55"), (4, "tflm")])
def test_runtimes_load_dense_layers_whose_product_of_scales_is_large(units, target, tmp_path):
    # What the weights cancel out is far smaller than inputs and weights are: a runtime compares the scales.
    random, path = np.random.default_rng(0), tmp_path / "lean.tflite"
    weight = np.tile(np.float32([1, -1]), (units, 8)) + random.normal(0, 1e-3, (units, 16)).astype(np.float32)
    tensors = (
        fw.Tensor("x", (1, 16), "float32"),
        constant("w", weight),
        constant("b", np.ones(units, np.float32) * 0.01),
        fw.Tensor("y", (1, units), "float32"),
    )
    node = fw.Node("FULLY_CONNECTED", ("x", "w", "b"), ("y",), {"fused_activation_function": "NONE"})
    graph = fw.Graph("main", ("x",), ("y",), (node,), {tensor.name: tensor for tensor in tensors})
    samples = np.repeat(random.normal(0, 1, (32, 1)), 16, 1) + random.normal(0, 0.05, (32, 16))
    made = fw.quantize(fw.Model((graph,)), calibration=samples.astype(np.float32), target=target, progress=False)
    made.save(path)
    expected = fw.run(path, DENSE, runtime="reference", profile="tflite_ref")
    np.testing.assert_array_equal(clients.litert_run(path, DENSE, "ref")[0], expected)
    clients.tflm_run(path, DENSE)


def test_notes_of_converters_go_and_those_of_people_stay(for_tflm):
    notes = {"min_runtime_version": b"1.5.0", "keep_stablehlo_constant": b"true", "author": b"tests"}
    for description, kept in (("MLIR Converted.", ""), ("a net", "a net")):
        extras = {**for_tflm.model.extras, "unread": ("converter",)}
        model = replace(for_tflm.model, metadata=notes, description=description, extras=extras)
        back = fw.read(fw.write(model))
        assert (list(back.metadata), back.description) == (["author"], kept)


def test_what_vela_compiles_is_the_same(for_tflm, tmp_path):
    full, lean = tmp_path / "full.tflite", tmp_path / "lean.tflite"
    fw.save(replace(for_tflm.model, extras={**for_tflm.model.extras, "unread": ()}), full)
    fw.save(replace(for_tflm.model, extras={**for_tflm.model.extras, "unread": UNREAD}), lean)
    first, second = clients.vela(full), clients.vela(lean)
    assert (first.npu_ops, first.cpu_ops, first.npu_macs) == (second.npu_ops, second.cpu_ops, second.npu_macs)
    assert first.buffers == second.buffers  # the command stream and the weights


def test_lean_files_are_read_checked_and_run(for_tflm, tmp_path):
    path = tmp_path / "lean.tflite"
    lean = fw.quantize(models.lowered("convnet"), calibration=models.samples("convnet"), target="tflm", progress=False)
    lean.save(path)
    assert fw.check(path, "tflm") == ()
    first = fw.run(path, INTEGERS, runtime="reference", profile="tflm")
    second = fw.run(for_tflm.model, INTEGERS, runtime="reference", profile="tflm")
    np.testing.assert_array_equal(first, second)
    assert fw.run(path, INTEGERS).dtype == np.int8  # LiteRT takes it, too
