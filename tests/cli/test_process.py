"""The command line and the package as their own processes: what they import, their exit codes, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tests.analysis.small_models import classifier, features

import featherweight
from featherweight import tflite
from featherweight.cli.process import noting_interrupts

HEAVY = ("keras", "jax", "tensorflow", "torch", "litert_converter", "ai_edge_litert.interpreter", "rich", "PIL")


def python(code, *args, **kwargs):
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, **kwargs)


def featherweight_process(*args, **kwargs):
    return python("from featherweight.cli import main; main()", *args, **kwargs)


@pytest.mark.parametrize(
    "code",
    [
        "import featherweight",
        "import sys; sys.argv = ['featherweight', '--help']\n"
        "from featherweight.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0",
    ],
)
def test_nothing_heavy_is_imported(code):
    report = f"\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"
    result = python(code + report)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stderr) == []


def test_package_import_does_not_even_import_numpy():
    result = python("import featherweight, sys; print('numpy' in sys.modules)")
    assert result.stdout.strip() == "False"


def test_public_names_are_deliberate():
    assert sorted(featherweight.__all__) == list(featherweight.__all__)
    assert set(featherweight.__all__) == {
        "Arena",
        "Boxes",
        "Cause",
        "ChannelGroup",
        "ChannelMoments",
        "Clustered",
        "ClusteredKernel",
        "Constraint",
        "Curve",
        "CurvePoint",
        "DataError",
        "Dataset",
        "Diagnosis",
        "Deployed",
        "Difference",
        "Distribution",
        "Encoded",
        "EncodedTensor",
        "Equalized",
        "EqualizedTensor",
        "Evaluation",
        "FeatherweightError",
        "FileSize",
        "Footprint",
        "FormatError",
        "Found",
        "Graph",
        "GraphModel",
        "Histogram",
        "Inspection",
        "JudgedOutput",
        "KurtosisRegularizer",
        "Latency",
        "LoweringError",
        "Magnitudes",
        "Miss",
        "Mismatch",
        "Model",
        "ModelLike",
        "Node",
        "NodeNote",
        "NpuFigures",
        "OperatorRow",
        "OperatorTime",
        "OperatorTimes",
        "Oscillations",
        "Optimized",
        "OutputError",
        "OwnErrorRow",
        "Plan",
        "PortRow",
        "Profile",
        "ProofSheet",
        "Pruned",
        "PrunedKernel",
        "QuantParams",
        "Quantized",
        "QuantizedModel",
        "QuantizedTensor",
        "RangeTraining",
        "Recipe",
        "RecipeError",
        "Recorder",
        "Removed",
        "RateTrial",
        "Report",
        "Rule",
        "RuntimeRow",
        "Schedule",
        "Scheme",
        "Score",
        "Scores",
        "SeveralTargets",
        "Signature",
        "SparseOptimizer",
        "ClusterOptimizer",
        "SparsityLog",
        "Stats",
        "Step",
        "Stored",
        "StoredTensor",
        "Target",
        "TargetViolation",
        "Tensor",
        "TensorError",
        "TensorRow",
        "TensorStats",
        "Tried",
        "TriedRate",
        "Unfolded",
        "UnfoldedWeight",
        "UnsupportedOp",
        "Violation",
        "__version__",
        "add_kurtosis",
        "benchmark",
        "calibrate",
        "check",
        "cluster",
        "compare",
        "diagnose",
        "deploy",
        "prove",
        "drift",
        "equalize",
        "evaluate",
        "finalize",
        "graph_model",
        "inspect",
        "kurtosis_regularizer",
        "load",
        "load_scores",
        "load_stats",
        "operator_times",
        "optimize",
        "paired_difference",
        "plan",
        "prune",
        "quantize",
        "quantize_aware",
        "read",
        "reestimate_batch_norm",
        "remove_channels",
        "rewrite",
        "run",
        "save",
        "schedules",
        "search",
        "sensitivity",
        "sparsity_curve",
        "store_encoded",
        "store_sparse",
        "try_learning_rates",
        "unfold",
        "write",
    }
    for name in featherweight.__all__:
        assert getattr(featherweight, name) is not None
    assert set(featherweight.__all__) == set(dir(featherweight))
    with pytest.raises(AttributeError, match="module 'featherweight' has no attribute 'nothing'"):
        _ = featherweight.nothing


def test_the_only_public_module_is_schedules():
    code = "import featherweight as fw, featherweight.tasks.quantize, featherweight.cli, types\n"
    code += "print([n for n in fw.__all__ if isinstance(getattr(fw, n), types.ModuleType)])"
    assert python(code).stdout.strip() == "['schedules']"


def test_json_is_all_there_is_on_stdout(tmp_path):
    tflite.save(classifier(), tmp_path / "model.tflite")
    np.savez(tmp_path / "data.npz", x=features(), y=np.zeros(64))
    result = featherweight_process("evaluate", "model.tflite", "--data", "data.npz", "--json", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["count"] == 64


def test_exit_codes(tmp_path):
    assert featherweight_process("--help").returncode == 0
    assert featherweight_process("recipes", "--nonsense").returncode == 2
    failed = featherweight_process("inspect", "none.tflite", cwd=tmp_path)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("featherweight: error: 'none.tflite' can't be read")
    assert len(failed.stderr.strip().splitlines()) == 1


def test_no_colours_where_there_is_no_terminal(tmp_path):
    tflite.save(classifier(), tmp_path / "model.tflite")
    result = featherweight_process("inspect", "model.tflite", cwd=tmp_path)
    assert result.returncode == 0
    assert "\x1b" not in result.stdout + result.stderr


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    tflite.save(classifier(), tmp_path / "model.tflite")
    command = f"{sys.executable} -c 'from featherweight.cli import main; main()' inspect model.tflite | head -n 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert result.stdout.strip() == "model.tflite"
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        (">&-", 0, ""),
        (
            ">/dev/full",
            1,
            "featherweight: error: what was to be written could not be: No space left on device. Make room",
        ),
    ],
)
def test_an_output_that_takes_nothing_is_no_defect(where, code, said, tmp_path):
    command = f"{sys.executable} -c 'from featherweight.cli import main; main()' recipes {where}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.startswith(said)
    assert len(result.stderr.splitlines()) == bool(said)


def test_an_interrupt_that_a_callback_drops_is_raised_again():
    class Dropped:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def loses_it() -> None:
        with noting_interrupts(interrupts):
            Dropped()
            for _ in range(1000):
                time.sleep(0.001)

    interrupts: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        loses_it()
    assert interrupts == [signal.SIGINT] * 2


ENDLESS = """
import pathlib, numpy as np
def samples():
    pathlib.Path("started").touch()
    while True:
        yield np.zeros(8, np.float32)
"""


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    tflite.save(classifier(), tmp_path / "model.tflite")
    (tmp_path / "endless.py").write_text(ENDLESS)
    (tmp_path / "q.tflite").write_bytes(b"precious")
    command = [sys.executable, "-c", "from featherweight.cli import main; main()", "quantize", "model.tflite"]
    command += ["-o", "q.tflite", "--calibration", "endless:samples"]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    deadline = time.monotonic() + 50
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.strip() == "featherweight: interrupted. No file was left half-written."
    assert (tmp_path / "q.tflite").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["endless.py", "model.tflite", "q.tflite", "started"]
