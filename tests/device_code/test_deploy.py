"""Sources for a device: they compile, the arena is the interpreter's, and the self-test finds a wrong integer."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tests import branched, building, clients, models
from tests.device_code import cortex_m

import featherweight as fw
from featherweight.device_code.arena import Arena, micro_run
from featherweight.device_code.borders import Border
from featherweight.device_code.c_text import comment, number
from featherweight.device_code.selftest import selftest_sources
from featherweight.device_code.sources import model_header, resolver_calls
from featherweight.graph import Signature
from featherweight.graph.numerics import QuantParams, quantize
from featherweight.memory.ordering import ordered
from featherweight.operators.entries import with_main

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture(scope="module")
def model():
    return fw.quantize(
        models.lowered("convnet"), calibration=models.samples("convnet"), target="tflm", progress=False
    ).model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("device") / "deep" / "net"
    fw.deploy(model, path, name="net", samples=models.samples("convnet", 2), tests=2)
    return path


def test_the_array_is_the_file(folder, model):
    text = (folder / "net.c").read_text()
    numbers = [int(n) for n in re.findall(r"\d+(?=,)", text.split("{", 1)[1])]
    assert bytes(numbers) == fw.write(model) == (folder / "net.tflite").read_bytes()


def test_golden_outputs_are_those_of_the_micro_interpreter(folder, model):
    text = (folder / "net_test.c").read_text()

    def values(name):
        return np.array(re.search(rf"{name}\[\] = {{([^}}]*)}}", text)[1].split(","), np.int64)

    shape = model.main.tensors[model.main.inputs[0]].shape
    given = values("in_1_0").astype(np.int8).reshape(shape)
    np.testing.assert_array_equal(values("out_1_0"), clients.tflm_run(folder / "net.tflite", given)[0].reshape(-1))


def test_the_resolver_has_each_operator_once(folder, model):
    text = (folder / "net_ops.h").read_text()
    calls = re.findall(r"resolver\.(Add\w+)\(", text)
    assert len(calls) == len(set(calls)) == len({node.op for node in model.main.nodes})
    assert "AddConv2D" in calls
    assert f"MicroMutableOpResolver<{len(calls)}>" in text


def test_methods_are_spelled_as_the_resolver_spells_them():
    names = {
        "CONV_2D": "AddConv2D",
        "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
        "AVERAGE_POOL_2D": "AddAveragePool2D",
        "ADD_N": "AddAddN",
        "L2_NORMALIZATION": "AddL2Normalization",
        "SPACE_TO_BATCH_ND": "AddSpaceToBatchNd",
        "SPLIT_V": "AddSplitV",
        "PADV2": "AddPadV2",
        "RELU6": "AddRelu6",
        "BATCH_MATMUL": "AddBatchMatMul",
        "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
    }
    for op, method in names.items():
        node = fw.Node(op, (), ("y",), {})
        assert resolver_calls(fw.Model((fw.Graph("g", (), (), (node,), {}),))) == (method,)


MAIN = """
#include "net_test.c"
static int turn = 0;
static int run(const void *const *inputs, void *const *outputs) {
  const int8_t *from = (const int8_t *)outs[turn][0];
  for (int i = 0; i < NET_OUTPUT_0_ELEMENTS; ++i) ((int8_t *)outputs[0])[i] = from[i];
  if (WRONG && turn == 1) ((int8_t *)outputs[0])[2] ^= 1;
  ++turn;
  return inputs[0] == 0;
}
static long where = 0;
static void report(int test, int output, long element, long found, long wanted) {
  where = 10 * test + output + element + (found != wanted);
}
int main(void) {
  if (net_input_0_quantize(net_input_0_dequantize(5)) != 5) return 99;
  if (net_input_0_quantize(1e30f) != 127 || net_input_0_quantize(-1e30f) != -128) return 98;
  if (((size_t)net_data & 15) != 0 || net_data[4] != 'T') return 97;
  long wrong = net_test(run, report);
  return (int)(wrong == WRONG && where == WRONG * 13 ? wrong : 96);
}
"""


@pytest.mark.skipif(None in (cortex_m.GCC, cortex_m.QEMU), reason="needs arm-none-eabi-gcc and qemu-system-arm")
@pytest.mark.parametrize("wrong", [0, 1])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_microcontroller_finds_out_whether_it_is_equal(folder, tmp_path, compiler, wrong):
    """The stub for the model gives the golden outputs, once with one bit of one of them turned."""
    if compiler == "clang" and cortex_m.CLANG is None:
        pytest.skip("needs clang")
    (tmp_path / "main.c").write_text(f"#define WRONG {wrong}\n{MAIN}")
    assert cortex_m.run([tmp_path / "main.c", folder / "net.c"], folder, tmp_path, compiler) == wrong


# What tflite-micro's resolver adds (tensorflow/lite/micro/micro_mutable_op_resolver.h, August 2026).
RESOLVER = """
#pragma once
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
namespace tflite {
template <unsigned count> struct MicroMutableOpResolver {
  int added = 0;
  TfLiteStatus AddAdd() { ++added; return kTfLiteOk; }
  TfLiteStatus AddConv2D() { ++added; return kTfLiteOk; }
  TfLiteStatus AddFullyConnected() { ++added; return kTfLiteOk; }
  TfLiteStatus AddMaxPool2D() { ++added; return kTfLiteOk; }
  TfLiteStatus AddMean() { ++added; return kTfLiteOk; }
  TfLiteStatus AddSoftmax() { ++added; return kTfLiteOk; }
};
}
"""
COMPILERS = [shutil.which(name) for name in ("c++", "arm-none-eabi-g++", "clang++")]


@pytest.mark.parametrize("compiler", [0, 1, 2], ids=["c++", "arm", "clang"])
def test_the_resolver_compiles(folder, tmp_path, compiler):
    if COMPILERS[compiler] is None:
        pytest.skip("no such compiler of C++")
    header = tmp_path / "tensorflow" / "lite" / "micro" / "micro_mutable_op_resolver.h"
    header.parent.mkdir(parents=True)
    header.write_text(RESOLVER)
    main = tmp_path / "main.cc"
    main.write_text(
        '#include "net_ops.h"\n#include "net_test.h"\n'
        "int main() { net_resolver r; return net_register(r) == kTfLiteOk && r.added == NET_OPERATORS ? 0 : 1; }\n"
    )
    command = [COMPILERS[compiler], "-std=c++17", "-fno-exceptions", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, f"-I{folder}", f"-I{tmp_path}", "-fsyntax-only", str(main)], check=True)


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize(
    "params", [("int8", 0.017, -3), ("uint8", 0.5, 131), ("int16", 1 / 3, 0), ("int8", 1e-30, 127)]
)
def test_conversions_are_those_of_the_package(tmp_path, params):
    dtype, scale, zero_point = params
    params = QuantParams(dtype, (float(np.float32(scale)),), (zero_point,))
    border = Border("x", fw.Tensor("x", (1, 4), dtype, quant=params))
    model = fw.Model((fw.Graph("g", (), (), (), {}),))
    (tmp_path / "net.h").write_text(model_header("net", model, Arena(0, 0), 1, ((border,), ())))
    steps = np.arange(-300, 300, 0.25, dtype=np.float32)
    almost = np.nextafter(np.float32([0.5, -0.5, 1.5, 2.5]), np.float32(0))
    values = np.concatenate([steps, almost, np.float32([0.0, 1e9, -1e9])]) * np.float32(scale)
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "net.h"\nint main(void) { float x; while (fread(&x, 4, 1, stdin) == 1)'
        ' printf("%d\\n", (int)net_input_0_quantize(x)); return 0; }\n'
    )
    program = tmp_path / "test"
    subprocess.run([COMPILER, "-std=c99", "-Wall", "-Werror", str(tmp_path / "main.c"), "-o", str(program)], check=True)
    done = subprocess.run([program], input=values.tobytes(), capture_output=True, check=True)
    np.testing.assert_array_equal(np.array(done.stdout.split(), np.int64), quantize(values, params))


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_golden_numbers_of_every_kind_are_those(tmp_path):
    arrays = {
        "float32": np.float32([np.nan, np.inf, -np.inf, 0.1, -0.0, 1e-45, 3.4028235e38]),
        "int64": np.int64([-(2**63), 2**63 - 1, 0]),
        "int32": np.int32([-(2**31), 2**31 - 1]),
        "bool": np.array([True, False]),
    }
    borders = [Border(name, fw.Tensor(name, (1, a.size), name)) for name, a in arrays.items()]
    header, source = selftest_sources("net", (borders, borders), [list(arrays.values())], [list(arrays.values())])
    model = fw.Model((fw.Graph("g", (), (), (), {}),))
    (tmp_path / "net.h").write_text(model_header("net", model, Arena(0, 0), 1, (borders, borders)))
    (tmp_path / "net_test.h").write_text(header)
    copies = "".join(f"memcpy(o[{i}], i[{i}], {array.nbytes});" for i, array in enumerate(arrays.values()))
    (tmp_path / "main.c").write_text(
        f"#include <stdio.h>\n#include <string.h>\n{source}\n"
        f"static int run(const void *const *i, void *const *o) {{ {copies} return 0; }}\n"
        "int main(void) { for (int k = 0; k < 4; ++k) fwrite(ins[0][k], 1, (size_t[]){28, 24, 8, 2}[k], stdout);"
        " return (int)net_test(run, 0); }\n"
    )
    program = tmp_path / "test"
    command = [COMPILER, "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    subprocess.run([*command, str(tmp_path / "main.c"), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, check=False)
    assert done.returncode == 0
    written = b"".join(array.tobytes() for array in arrays.values())
    sign = bytes([0, 0, 0xC0, 0x7F])
    assert done.stdout.replace(bytes([0, 0, 0xC0, 0xFF]), sign) == written.replace(bytes([0, 0, 0xC0, 0xFF]), sign)
    assert number(float(np.float32(0.1))) == "0.1f"
    (tmp_path / "net_test.c").write_text(source)
    for compiler in filter(None, (cortex_m.GCC, cortex_m.CLANG)):  # without a library there is no math.h
        target = ["--target=arm-none-eabi"] if compiler == cortex_m.CLANG else []
        options = ["-std=c99", "-mcpu=cortex-m3", "-ffreestanding", "-nostdlib", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler, *target, *options, "-fsyntax-only", str(tmp_path / "net_test.c")], check=True)


def test_operators_are_put_in_the_order_that_needs_a_smaller_arena(tmp_path):
    net = branched.random_wiring(13, 0)
    samples = [np.random.default_rng(i).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32) for i in range(2)]
    made = fw.quantize(net, calibration=samples, target="tflm", progress=False, verify=False, keep_order=True).model
    given = fw.deploy(made, tmp_path / "given", tests=1, keep_order=True)
    done = fw.deploy(made, tmp_path / "done", tests=1)
    assert given.notes == ()
    assert done.arena.tensors < given.arena.tensors
    order, places = done.notes
    assert "operators are in another order: tensors take" in order
    assert "no order needs less" in order
    assert re.search(rf"{done.arena.tensors:,} bytes of arena instead of [\d,]+, with equal outputs$", places)
    assert done.arena.tensors == ordered(made).peaks[0].bound  # nothing needs less
    tests = [(tmp_path / name / "model_test.c").read_text() for name in ("given", "done")]
    assert tests[0] == tests[1]
    nodes = [node.name for node in fw.read(tmp_path / "done" / "model.tflite").main.nodes]
    assert len(nodes) == len(made.main.nodes)


def test_an_operator_that_the_runtime_lacks_is_named(tmp_path):
    for op in ("ATAN2", "BUCKETIZE"):
        node = fw.Node(op, ("x",), ("y",))
        tensors = {name: fw.Tensor(name, (1, 4), "float32") for name in "xy"}
        model = fw.Model((fw.Graph("main", ("x",), ("y",), (node,), tensors),))
        with pytest.raises(fw.TargetViolation, match=f"{op} 'y'"):
            fw.deploy(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize("wrong", [0, 1])
def test_the_device_finds_out_whether_it_is_equal(folder, tmp_path, wrong):
    (tmp_path / "main.c").write_text(
        """
        #include <stdio.h>
        #include <string.h>
        #include "net_test.c"
        static int turn = 0;
        static int run(const void *const *inputs, void *const *outputs) {
          memcpy(outputs[0], outs[turn][0], NET_OUTPUT_0_ELEMENTS * sizeof(found_0[0]));
          if (WRONG && turn == 1) ((int8_t *)outputs[0])[2] ^= 1;
          ++turn;
          return inputs[0] == 0;
        }
        static void report(int test, int output, long element, long found, long wanted) {
          printf("%d %d %ld\\n", test, output, element);
          (void)found; (void)wanted;
        }
        int main(void) {
          if (net_input_0_quantize(net_input_0_dequantize(5)) != 5) return 99;
          if (net_input_0_quantize(1e30f) != 127 || net_input_0_quantize(-1e30f) != -128) return 98;
          if (((size_t)net_data & 15) != 0) return 97;
          return (int)net_test(run, report);
        }
        """
    )
    program = tmp_path / "test"
    command = [COMPILER, "-std=c99", "-Wall", "-Wextra", "-Werror", f"-DWRONG={wrong}", f"-I{folder}"]
    subprocess.run([*command, str(tmp_path / "main.c"), str(folder / "net.c"), "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == wrong
    assert done.stdout.split() == (["1", "0", "2"] if wrong else [])


def test_the_arena_is_what_the_interpreter_uses(folder):
    text = (folder / "net.h").read_text()
    tensors, structures, total = (
        int(re.search(rf"NET_ARENA_{part}BYTES (\d+)", text)[1]) for part in ("TENSOR_", "STRUCTURE_", "")
    )
    assert tensors >= 24 * 24 * 3
    assert structures > 0
    assert 0 <= total - tensors - structures < 16


def test_a_model_without_inputs_has_nothing_to_test(tmp_path):
    layers = [building.unary("RELU", "c", "y", (1, 8))]
    model = building.net({}, {"c": building.weights(1, 8)}, layers, ("y",))
    with pytest.raises(fw.UnsupportedOp, match="the model has no inputs"):
        fw.deploy(model, tmp_path)
    sheet = fw.prove(model, vectors=2, runtimes=["builtin", "tflm"], target="tflm", progress=False)
    assert [row.status for row in sheet.rows] == ["ran", "equal", "equal"], str(sheet)


LOADS = """
import sys
from tflite_micro.python.tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[1], arena_size=int(sys.argv[2]))
"""


@pytest.mark.parametrize("layers", [1, 9])
def test_the_model_loads_in_the_arena_and_in_no_smaller_one(tmp_path, layers):
    """Many small tensors need more while their places are planned than the interpreter uses afterwards."""
    names = ["x", *(f"h{number}" for number in range(layers))]
    nodes = [building.dense(x, "w", "b", y, (1, 8)) for x, y in itertools.pairwise(names)]
    given = {"w": building.weights(8, 8), "b": building.weights(8)}
    model = building.net({"x": (1, 8)}, given, nodes, (names[-1],))
    arena = fw.deploy(model, tmp_path, tests=1).arena
    assert arena.tensors == 2 * 32
    assert arena.total % 16 == 0
    for size in (arena.total, arena.total - 16):
        command = [sys.executable, "-c", LOADS, str(tmp_path / "model.tflite"), str(size)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode == 0) is (size == arena.total)


def test_state_is_counted_for_the_interpreter(folder, tmp_path):
    handles = {name: fw.Tensor(name, (), "resource") for name in ("h", "g", "again")}
    named = {"h": b"s", "g": b"t", "again": b"s"}
    layers = [
        building.layer("VAR_HANDLE", (), {name: tensor}, container=b"", shared_name=named[name])
        for name, tensor in handles.items()
    ]
    model = building.net({"x": (1, 4)}, {}, [*layers, building.unary("RELU", "x", "y", (1, 4))], ("y",))
    assert "#define NET_RESOURCE_VARIABLES 2" in model_header("net", model, Arena(0, 0), 1, ((), ()))
    assert "RESOURCE_VARIABLES" not in (folder / "net.h").read_text()


@pytest.mark.parametrize("target", ["litert", "ethos-u55", "esp32-s3"])
def test_targets_of_another_runtime_are_refused(model, tmp_path, target):
    with pytest.raises(fw.RecipeError, match=rf"'{target}' runs something else \(allowed: tflm\)"):
        fw.deploy(model, tmp_path, target=target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["2net", "net-1", "int", "naïve", "a b", "nullptr", "main", "x\n"])
def test_names_that_c_has_not_are_refused(model, tmp_path, name):
    with pytest.raises(fw.RecipeError, match="is no name in C"):
        fw.deploy(model, tmp_path, name=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["stdint", "Math"])
def test_a_header_never_stands_in_for_one_of_c(model, tmp_path, name):
    with pytest.raises(fw.RecipeError, match=rf"'{name}\.h' would stand in for the header of C"):
        fw.deploy(model, tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_the_model_itself_is_never_written_over(model, tmp_path):
    source = tmp_path / "net.tflite"
    content = fw.write(model)
    source.write_bytes(content)
    with pytest.raises(fw.FeatherweightError, match=r"net\.tflite' would be written over"):
        fw.deploy(source, tmp_path / ".." / tmp_path.name, name="net")
    assert [*tmp_path.iterdir()] == [source]
    assert source.read_bytes() == content


@pytest.mark.parametrize("text", ["*/", "/*/", "/*/*/", "x*\n/", "/**/"])
def test_names_neither_begin_nor_end_a_comment(text):
    said = comment(f"input '{text}'")
    assert not {"*/", "/*", "\n"} & {said[i : i + n] for i in range(len(said)) for n in (1, 2)}


@pytest.fixture(scope="module")
def several():
    """Two integer graphs behind signatures, and one that nothing enters."""
    parts = {}
    for name in ("convnet", "dense"):
        given = {"calibration": models.samples(name), "target": "tflm", "progress": False, "verify": False}
        parts[name] = fw.quantize(models.lowered(name), **given).model
    graphs, signatures = [], []
    for at, (name, part) in enumerate(parts.items()):
        graph = part.main

        def named(text, name=name):
            return text and f"{name}/{text}"

        nodes = [
            replace(n, inputs=tuple(map(named, n.inputs)), outputs=tuple(map(named, n.outputs))) for n in graph.nodes
        ]
        tensors = {named(t.name): replace(t, name=named(t.name), file_name=None) for t in graph.tensors.values()}
        inputs, outputs = (tuple(map(named, names)) for names in (graph.inputs, graph.outputs))
        graphs.append(fw.Graph(name, inputs, outputs, tuple(nodes), tensors))
        pairs = [tuple((text.split("/")[-1], text) for text in names) for names in (inputs, outputs)]
        signatures.append(Signature(name, *pairs, at))
    return replace(parts["convnet"], graphs=tuple(graphs), signatures=tuple(signatures)), parts


@pytest.mark.parametrize("key", ["convnet", "dense"])
def test_what_the_device_does_not_run_is_left_out(several, key, tmp_path):
    both, parts = several
    done = fw.deploy(both, tmp_path / "one", name="net", signature=key, samples=models.samples(key, 2), tests=2)
    left = next(name for name in parts if name != key)
    (note,) = (note for note in done.notes if "first graph only" in note)
    assert re.search(rf"without signatures {left}, [\d,]+ bytes of flash are saved", note)
    assert done.operators == fw.deploy(parts[key], tmp_path / "alone", name="net").operators
    x = quantize(
        models.samples(key, 1)[0][next(iter(models.samples(key, 1)[0]))],
        parts[key].main.tensors[parts[key].main.inputs[0]].quant,
    )
    found, own = tmp_path / "one" / "net.tflite", tmp_path / "alone" / "net.tflite"
    np.testing.assert_array_equal(clients.tflm_run(found, x)[0], clients.tflm_run(own, x)[0])
    assert done.file_bytes < own.stat().st_size + 200
    (said,) = fw.check(both, "tflm")
    assert "Graph 'dense', behind signature 'dense' is not run: target 'tflm' runs the first one" in said.message
    assert fw.check(both, "litert") == ()


def test_graphs_that_are_not_run_can_end_the_interpreter(several, tmp_path):
    both, _ = several
    fw.save(with_main(both, 1), tmp_path / "model.tflite")
    with pytest.raises(fw.FeatherweightError, match="SIGSEGV"):
        micro_run(tmp_path / "model.tflite", [[np.zeros((1, 64), np.int8)]], 1)


def test_scales_of_rows_are_said_and_one_scale_is_a_way_out(tmp_path):
    given = {"calibration": models.samples("dense", 16), "target": "tflm", "progress": False}
    rows = fw.deploy(fw.quantize(models.lowered("dense"), **given).model, tmp_path / "rows")
    assert any("a scale for each row" in note for note in rows.notes)
    one = fw.deploy(fw.quantize(models.lowered("dense"), improve="one-scale", **given).model, tmp_path / "one")
    assert not any("a scale for each row" in note for note in one.notes)
    assert one.operators == rows.operators
    assert one.file_bytes < rows.file_bytes


def test_a_signature_that_there_is_not_is_named(several, tmp_path):
    with pytest.raises(
        fw.RecipeError, match=r"signature: there is no signature 'train' \(allowed: 'convnet', 'dense'\)"
    ):
        fw.deploy(several[0], tmp_path, signature="train")


def test_graphs_that_the_device_does_not_run_are_not_held_against_it(several, tmp_path):
    _, parts = several
    floats = models.lowered("dense").main
    lacking = replace(floats.nodes[0], op="ATAN2", inputs=(floats.inputs[0],) * 2, attrs={})
    graph = replace(
        floats,
        nodes=(lacking,),
        outputs=lacking.outputs,
        tensors={n: floats.tensors[n] for n in (*floats.inputs, *lacking.outputs)},
    )
    model = replace(parts["convnet"], graphs=(parts["convnet"].main, graph))
    assert any("ATAN2" in said.message for said in fw.check(model, "tflm"))
    assert any("without graphs that nothing runs" in note for note in fw.deploy(model, tmp_path).notes)


def test_a_refusal_points_to_missing_operators_only_where_it_is_that(tmp_path):
    empty = building.net({"x": (1, 0)}, {}, [building.unary("RELU", "x", "y", (1, 0))], ["y"])
    assert [violation.constraint[:30] for violation in fw.check(empty, "tflm")] == ["Tensors that are computed or g"]
    fw.save(empty, tmp_path / "empty.tflite")
    with pytest.raises(fw.FeatherweightError, match="Dynamic tensors") as found:
        micro_run(tmp_path / "empty.tflite", [[np.zeros((1, 0), np.float32)]], 1)
    assert "featherweight check" not in str(found.value)
    lacking = building.model_of("ATAN2", {"x": (1, 4), "y": (1, 4)}, {"z": (1, 4)})
    fw.save(lacking, tmp_path / "lacking.tflite")
    with pytest.raises(
        fw.FeatherweightError, match=r"ATAN2.* `featherweight check MODEL --target tflm` says which operators"
    ):
        micro_run(tmp_path / "lacking.tflite", [[np.zeros((1, 4), np.float32)] * 2], 1)


def test_what_does_not_fit_is_refused_and_nothing_is_written(model, tmp_path):
    with pytest.raises(fw.FeatherweightError, match=r"the arena takes .* bytes .* and there are 100"):
        fw.deploy(model, tmp_path / "out", max_arena=100)
    assert not (tmp_path / "out").exists()
    dynamic = fw.quantize(models.lowered("convnet"), "dynamic", progress=False)
    with pytest.raises(fw.TargetViolation, match=r"does not run the model: [A-Z_0-9]+ '[^']+' computes in"):
        fw.deploy(dynamic, tmp_path / "out")
