"""Files with encoded weights: TFLite Micro computes the same of them, and everybody else here understands them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tests import clients, models
from tests.building import CONV, dense, layer, net, of_graphs, weights
from typer.testing import CliRunner

import featherweight as fw
from featherweight import operators
from featherweight.cli import app
from featherweight.device_code import arena
from featherweight.encoded_files import store
from featherweight.errors import FeatherweightError, FormatError, RecipeError, UnsupportedOp
from featherweight.graph import constant
from featherweight.graph.editor import with_constants
from featherweight.graph.numerics import QuantParams
from featherweight.tflite.codings import CODINGS, huffman_together
from featherweight.tflite.decode_operator import has_decode, is_decode, with_plain_weights


def few_values(array):
    return (np.round(array / 40.0) * 40).astype(array.dtype)


def mostly_zeros(array):
    return array * (np.random.default_rng(0).random(array.shape) < 0.2).astype(array.dtype)


def changed(model, function):
    """A model whose weights are what a function makes of them."""
    values = {}
    for graph in model.graphs:
        for node in graph.nodes:
            op = operators.lookup(node.op)
            name = op.input_of(node, op.weight)
            if name and graph.tensors[name].is_constant:
                values[name] = function(graph.tensors[name].array)
    return with_constants(model, values)


def quantized(name, recipe="int8"):
    return fw.quantize(
        models.lowered(name), recipe, calibration=models.samples(name), target="tflm", progress=False, verify=False
    ).model


@pytest.fixture
def alone(monkeypatch):
    """Files that the interpreter is not asked about, so that the test asks its own."""
    monkeypatch.setattr(store, "has_micro", lambda: False)


def same_in_micro(plain, encoded, path):
    tensor = plain.main.tensors[plain.main.inputs[0]]
    random = np.random.default_rng(1)
    x = (
        random.normal(size=tensor.shape).astype(np.float32)
        if tensor.is_float
        else random.integers(-128, 128, tensor.shape).astype(tensor.dtype)
    )
    found = []
    for model in (plain, encoded):
        fw.save(model, path)
        found.append(clients.tflm_run(path, x))
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()
        assert len(np.unique(one)) > 1


@pytest.mark.parametrize("function", [few_values, mostly_zeros], ids=["few", "zeros"])
@pytest.mark.parametrize(("name", "recipe"), [("convnet", "int8"), ("depthwise", "int16x8"), ("dense", "int8")])
def test_the_micro_interpreter_computes_the_same_of_a_smaller_file(alone, tmp_path, name, recipe, function):
    plain = changed(quantized(name, recipe), function)
    encoded = fw.store_encoded(plain, target="tflm")
    assert encoded.file_bytes == (len(fw.write(plain)), len(fw.write(encoded.model)))
    assert encoded.file_bytes[1] < encoded.file_bytes[0]
    assert any(row.coding for row in encoded.tensors)
    same_in_micro(plain, encoded.model, tmp_path / "model.tflite")


@pytest.mark.parametrize("coding", CODINGS)
def test_each_coding_by_itself(alone, tmp_path, coding):
    target = replace(store.targets.load("tflm"), codings=(coding,))
    plain = changed(quantized("depthwise"), lambda w: mostly_zeros(few_values(w)))
    encoded = fw.store_encoded(plain, target=target)
    assert {row.coding for row in encoded.tensors} - {""} == {coding}
    assert fw.check(encoded.model, target) == ()
    same_in_micro(plain, encoded.model, tmp_path / "model.tflite")


def test_float_weights_and_transposed_convolutions(alone, tmp_path):
    w = few_values(weights(16, 3, 3, 8) * 100)
    plain = net(
        {"x": (1, 6, 6, 8)},
        {"s": np.array([1, 12, 12, 16], np.int32), "w": w, "v": few_values(weights(16, 1, 1, 16) * 100)},
        [
            layer("TRANSPOSE_CONV", ("s", "w", "x"), {"t": (1, 12, 12, 16)}, stride_h=2, stride_w=2, padding="SAME"),
            layer("CONV_2D", ("t", "v"), {"y": (1, 12, 12, 16)}, **CONV),
        ],
        ("y",),
    )
    encoded = fw.store_encoded(plain)
    assert [row.coding for row in encoded.tensors] == ["lookup-table", "lookup-table"]
    same_in_micro(plain, encoded.model, tmp_path / "model.tflite")


def test_the_product_itself_compares_and_measures_the_arena():
    plain = changed(quantized("convnet"), mostly_zeros)
    encoded = fw.store_encoded(plain)
    before, after = encoded.arena
    assert encoded.unverified == ""
    assert encoded.scratch_bytes == max(row.plain_bytes for row in encoded.tensors if row.coding)
    assert encoded.decoded_bytes == sum(row.plain_bytes for row in encoded.tensors if row.coding)
    assert before.tensors < after.tensors <= before.tensors + encoded.scratch_bytes
    assert "bit for bit equal in TFLite Micro" in encoded.notes[0]
    assert f"{encoded.scratch_bytes:,} bytes of RAM" in encoded.notes[1]


def test_without_the_interpreter_it_says_that_nothing_was_compared(alone):
    encoded = fw.store_encoded(changed(quantized("dense"), mostly_zeros))
    assert encoded.arena is None
    assert "TFLite Micro is not installed" in encoded.unverified
    assert "not compared" in encoded.notes[0]


def test_a_plain_file_that_does_not_run_there_is_said(monkeypatch):
    def refused(path, feeds, outputs):
        raise FeatherweightError("it lacks TOPK_V2")

    monkeypatch.setattr(store, "micro_run", refused)
    encoded = fw.store_encoded(changed(quantized("dense"), mostly_zeros))
    assert "the plain file does not run there: it lacks TOPK_V2" in encoded.unverified


def test_other_integers_are_an_error(monkeypatch):
    runs = iter([0, 1])

    def other(path, feeds, outputs):
        return arena.MicroRun(arena.Arena(1, 1), ((np.array([next(runs)]),),))

    monkeypatch.setattr(store, "micro_run", other)
    with pytest.raises(UnsupportedOp, match="computes other outputs once weights are encoded"):
        fw.store_encoded(changed(quantized("dense"), mostly_zeros))


# ------------------------------------------------------------------------------------------- what is shared, what stays


def test_two_operators_that_share_a_weight_share_the_encoded_one(alone, tmp_path):
    w = mostly_zeros(weights(64, 64))
    plain = net(
        {"x": (1, 64)},
        {"w": w, "b": weights(64, seed=2)},
        [dense("x", "w", "b", "h", (1, 64)), dense("h", "w", "b", "y", (1, 64))],
        ("y",),
    )
    encoded = fw.store_encoded(plain)
    nodes = [node for node in encoded.model.main.nodes if is_decode(node)]
    assert len(nodes) == 2
    assert nodes[0].inputs == nodes[1].inputs
    assert encoded.decoded_bytes == 2 * w.nbytes
    same_in_micro(plain, encoded.model, tmp_path / "model.tflite")
    assert fw.write(with_plain_weights(encoded.model)) is not None
    np.testing.assert_array_equal(fw.load(encoded.model).main.tensors["w"].array, w)


def test_weights_in_one_huffman_code_hold_its_tables_once(alone, tmp_path):
    plain = changed(quantized("convnet"), mostly_zeros)
    encoded = fw.store_encoded(plain, target=replace(store.targets.load("tflm"), codings=("huffman",)))
    coded = [node for node in encoded.model.main.nodes if is_decode(node)]
    tables = [encoded.model.tensors[node.inputs[1]].data for node in coded]
    assert len(tables) > 1
    assert len({table.tobytes() for table in tables}) == 1
    assert fw.write(encoded.model).count(tables[0].tobytes()) == 1
    stored = sum(row.stored_bytes for row in encoded.tensors if row.coding)
    streams = sum(encoded.model.tensors[node.inputs[0]].data.size for node in coded)
    assert 0 <= stored - streams - tables[0].size < len(tables)


def test_what_would_grow_stays_as_it_is_and_says_why(alone):
    plain = quantized("convnet")
    encoded = fw.store_encoded(plain)
    by_name = {row.name: row for row in encoded.tensors}
    stays = [row for row in by_name.values() if not row.coding]
    assert stays
    assert all("bytes" in row.reason and row.stored_bytes == row.plain_bytes for row in stays)
    for row in stays:
        assert encoded.model.tensors[row.name].data is plain.tensors[row.name].data


def test_a_model_without_anything_to_encode_comes_back_as_it_is(alone):
    plain = changed(quantized("dense"), lambda w: np.random.default_rng(0).integers(-127, 128, w.shape).astype(np.int8))
    encoded = fw.store_encoded(plain)
    assert encoded.model is plain
    assert encoded.file_bytes[0] == encoded.file_bytes[1]
    assert "no weight is encoded" in encoded.notes[0]


def test_weights_that_are_read_otherwise_or_by_others_stay(alone):
    w = mostly_zeros(weights(64, 64))
    plain = net(
        {"x": (1, 64)},
        {"w": w, "b": weights(64, seed=2)},
        [dense("x", "w", "b", "y", (1, 64)), layer("ABS", ("w",), {"z": (64, 64)})],
        ("y", "z"),
    )
    (row,) = fw.store_encoded(plain).tensors
    assert row.reason == "it is read as something else than a weight, too"
    table = fw.store_encoded(models.lowered("convnet"), target="tflm").tensors[0]
    assert table.coding == ""


def test_equal_bytes_along_another_axis_stay(alone):
    values = mostly_zeros(np.random.default_rng(0).integers(-99, 99, (32, 32)).astype(np.int8))
    given = {
        name: constant(name, values, "int8", QuantParams("int8", (0.01,) * 32, (0,) * 32, axis))
        for name, axis in (("w", 0), ("v", 1))
    }
    of = QuantParams("int8", (0.05,), (0,))
    bias = constant("b", np.zeros(32, np.int32), "int32", QuantParams("int32", (0.0005,) * 32, (0,) * 32, 0))
    ends = [replace(layer("ABS", ("x",), {n: (1, 32)})[1][n], dtype="int8", quant=of) for n in ("x", "h", "y")]
    plain = net(
        {"x": ends[0]},
        {**given, "b": bias},
        [
            layer("FULLY_CONNECTED", ("x", "w", "b"), {"h": ends[1]}),
            layer("FULLY_CONNECTED", ("h", "v", "b"), {"y": ends[2]}),
        ],
        ("y",),
    )
    rows = fw.store_encoded(plain).tensors
    assert {row.reason for row in rows} == {"others with scales along another axis share its bytes"}


# ----------------------------------------------------------------------------------------------------- who reads it


@pytest.fixture(scope="module")
def pair():
    plain = changed(quantized("convnet"), mostly_zeros)
    return plain, fw.store_encoded(plain).model


def test_it_is_read_back_as_the_plain_model(pair, tmp_path):
    plain, encoded = pair
    fw.save(encoded, tmp_path / "encoded.tflite")
    back = fw.load(tmp_path / "encoded.tflite")
    assert not has_decode(back)
    assert [node.op for node in back.main.nodes] == [node.op for node in plain.main.nodes]
    arrays = [[t.array for t in m.main.tensors.values() if t.is_constant and t.dtype == "int8"] for m in (plain, back)]
    for one in arrays[0]:
        assert any(np.array_equal(one, other) for other in arrays[1])


@pytest.mark.parametrize("runtime", ["litert", "reference"])
def test_it_runs_here_with_the_integers_of_the_plain_file(pair, runtime):
    plain, encoded = pair
    tensor = plain.main.tensors[plain.main.inputs[0]]
    x = np.random.default_rng(2).integers(-128, 128, (3, *tensor.shape[1:])).astype(np.int8)
    np.testing.assert_array_equal(fw.run(plain, x, runtime=runtime), fw.run(encoded, x, runtime=runtime))


def test_check_inspect_and_deploy_understand_it(pair, tmp_path):
    plain, encoded = pair
    assert fw.check(encoded, "tflm") == ()
    found = fw.check(encoded, "ethos-u55")
    assert any(
        "which target 'ethos-u55' does not decode (allowed: none: weights are plain)" in v.message for v in found
    )
    assert {v.op for v in found} - {v.op for v in fw.check(plain, "ethos-u55")} == {"DECODE"}
    assert "CUSTOM(TFLM_DECODE)" in str(fw.inspect(encoded).operators)
    done = fw.deploy(encoded, tmp_path, tests=1)
    assert "AddDecode" in done.operators
    assert done.file_bytes < len(fw.write(plain))


def test_a_coding_of_others_is_named_by_check_and_by_reading(pair):
    _, encoded = pair
    node = next(node for node in encoded.main.nodes if is_decode(node))
    tensor = encoded.main.tensors[node.inputs[1]]
    data = tensor.data.copy()
    data[0] = 200
    graph = replace(encoded.main, tensors={**encoded.main.tensors, tensor.name: replace(tensor, data=data)})
    strange = replace(encoded, graphs=(graph,))
    (violation,) = fw.check(strange, "tflm")
    assert "reads the coding 'unknown'" in violation.message
    with pytest.raises(FormatError, match="coding 200 is unknown"):
        fw.load(strange)
    graph = replace(encoded.main, nodes=tuple(replace(n, inputs=n.inputs[:1]) if n is node else n for n in graph.nodes))
    with pytest.raises(FormatError, match="not two constants for each of its 1 results"):
        fw.load(replace(encoded, graphs=(graph,)))


def test_what_can_not_be_asked_for(pair):
    plain, encoded = pair
    with pytest.raises(RecipeError, match=r"'litert' does not decode weights \(targets that do: tflm\)"):
        fw.store_encoded(plain, target="litert")
    with pytest.raises(FormatError, match="encoded weights already"):
        fw.store_encoded(encoded)


def test_quantize_stores_them_and_reports_what_it_costs():
    given = {"calibration": models.samples("convnet"), "progress": False, "verify": False}
    pruned = fw.prune(models.lowered("convnet"), 0.8, keep=(), progress=False).model
    result = fw.quantize(pruned, target="tflm", store="decode", **given)
    plain = fw.quantize(pruned, target="tflm", **given)
    assert has_decode(result.model)
    assert result.report.after.file_bytes == len(fw.write(result.model)) < plain.report.after.file_bytes
    assert result.report.notes[-2:] == result.encoded.notes
    assert result.report.nodes == plain.report.nodes
    with pytest.raises(RecipeError, match="does not decode weights"):
        fw.quantize(pruned, store="decode", **given)


def test_graphs_of_loops_and_signatures_are_encoded_too(alone):
    w = mostly_zeros(weights(64, 64))
    one, other = (
        net(
            {f"x{n}": (1, 64)},
            {f"w{n}": w, f"b{n}": weights(64)},
            [dense(f"x{n}", f"w{n}", f"b{n}", f"y{n}", (1, 64))],
            (f"y{n}",),
        )
        for n in (1, 2)
    )
    model = of_graphs(main=one, other=other)
    encoded = fw.store_encoded(model)
    assert [is_decode(graph.nodes[0]) for graph in encoded.model.graphs] == [True, True]
    first, second = (encoded.model.tensors[graph.nodes[0].inputs[0]].data for graph in encoded.model.graphs)
    assert first.tobytes() == second.tobytes()
    assert huffman_together([one.main.tensors["w1"]]) == ()


def test_the_commands_write_and_say_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fw.save(changed(quantized("convnet"), mostly_zeros), "plain.tflite")
    runner = CliRunner()
    done = runner.invoke(app, ["encode", "plain.tflite", "-o", "encoded.tflite", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["file_bytes"] == (tmp_path / "encoded.tflite").stat().st_size < found["plain_file_bytes"]
    assert found["unverified"] == ""
    fw.save(models.lowered("convnet"), "float.tflite")
    args = ["prune", "float.tflite", "-o", "pruned.tflite", "--sparsity", "0.8", "--store"]
    done = runner.invoke(app, [*args, "decode"])
    assert done.exit_code == 0, done.output
    assert has_decode(fw.read("pruned.tflite"))
    assert "bit for bit equal in TFLite Micro" in " ".join(done.stdout.split())
    done = runner.invoke(app, [*args, "decode", "--target", "litert"])
    assert done.exit_code == 1
    assert "does not decode weights" in done.stderr
