"""Sources for a device: they compile, the arena is the interpreter's, and the self-test finds a wrong integer."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from tests import clients, models

import featherweight as fw
from featherweight.device_code.sources import resolver_calls

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


@pytest.mark.parametrize("name", ["2net", "net-1", "int", "naïve"])
def test_names_that_c_has_not_are_refused(model, tmp_path, name):
    with pytest.raises(fw.RecipeError, match="is no name in C"):
        fw.deploy(model, tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_refused_and_nothing_is_written(model, tmp_path):
    with pytest.raises(fw.FeatherweightError, match=r"the arena takes .* bytes .* and there are 100"):
        fw.deploy(model, tmp_path / "out", max_arena=100)
    assert not (tmp_path / "out").exists()
    dynamic = fw.quantize(models.lowered("convnet"), "dynamic", progress=False)
    with pytest.raises(fw.TargetViolation, match="does not run the model"):
        fw.deploy(dynamic, tmp_path / "out")
