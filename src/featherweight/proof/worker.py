"""Runs a file in one runtime: ``python worker.py RUNTIME MODEL GIVEN.npz TAKEN.npz TENSORS``, in a process of its own.

It imports nothing of this package, so that a runtime's process starts quickly, and its end ends nothing else. GIVEN
holds sets of inputs as arrays by number, one after another, and how many sets there are; TAKEN will hold, for each set,
the outputs, and behind them the tensors whose numbers TENSORS lists.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Sets = list[list[np.ndarray]]

# Exit status of a process whose runtime is not installed.
NOT_INSTALLED = 64
RESOLVERS = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
# More than any microcontroller has.
_ARENA_BYTES = 256 << 20


def litert(path: str, feeds: Sets, tensors: Sequence[int], resolver: str) -> Sets:
    """Runs LiteRT with one of its sets of kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    results: Sets = []
    for arrays in feeds:
        # An interpreter of its own for each: state is the initial one.
        interpreter: Any = Interpreter(
            path,
            experimental_op_resolver_type=getattr(OpResolverType, RESOLVERS[resolver]),
            experimental_preserve_all_tensors=bool(tensors),
            num_threads=1,
        )
        details: list[dict[str, Any]] = interpreter.get_input_details()
        for detail, array in zip(details, arrays, strict=True):
            if tuple(detail["shape"]) != array.shape:
                interpreter.resize_tensor_input(detail["index"], array.shape)
        interpreter.allocate_tensors()
        for detail, array in zip(details, arrays, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        numbers = [detail["index"] for detail in interpreter.get_output_details()]
        results.append([np.array(interpreter.get_tensor(number)) for number in (*numbers, *tensors)])
    return results


def tflm(path: str, feeds: Sets, tensors: Sequence[int], outputs: int) -> Sets:
    """Runs TFLite Micro's interpreter, the one that microcontrollers have."""
    from tflite_micro.python.tflite_micro import runtime

    kind = runtime.InterpreterConfig
    config = kind.kPreserveAllTensors if tensors else kind.kAllocationRecording
    results: Sets = []
    for arrays in feeds:
        interpreter: Any = runtime.Interpreter.from_file(path, arena_size=_ARENA_BYTES, intrepreter_config=config)
        for position, array in enumerate(arrays):
            interpreter.set_input(array, position)
        interpreter.invoke()
        found = [np.array(interpreter.get_output(position)) for position in range(outputs)]
        results.append(found + [np.array(interpreter.GetTensor(number, 0)["tensor_data"]) for number in tensors])
    return results


def openvino(path: str, feeds: Sets) -> Sets:
    """Runs OpenVINO on the processor, in float32 where it computes in floats."""
    import openvino

    core: Any = openvino.Core()
    model = core.read_model(path)
    model.reshape({port: array.shape for port, array in zip(model.inputs, feeds[0], strict=True)})
    # Without this it computes in float16 or bfloat16 where the processor has them.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    results: Sets = []
    for arrays in feeds:
        found = compiled(dict(enumerate(arrays)))
        results.append([np.array(found[port]) for port in compiled.outputs])
    return results


def tosa(path: str, feeds: Sets, outputs: int) -> Sets:
    """Runs Arm's reference model of TOSA on what its converter makes of the file; its programs are found by name."""
    converter, optimizer, model = (
        _program(name) for name in ("tosa-converter-for-tflite", "tosa-opt", "tosa_reference_model")
    )
    results: Sets = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        converted = str(folder / "model.mlirbc")
        _run([converter, path, "--bytecode", "-o", converted])
        serialize = f"--tosa-serialize=tosa-flatbuffer-filename={folder / 'model.tosa'}"
        # The file's metadata are attributes of dialects that the optimizer may not have.
        _run([optimizer, "--allow-unregistered-dialect", serialize, converted, "-o", str(folder / "rest.mlir")])
        for arrays in feeds:
            description: dict[str, Any] = {"tosa_file": "model.tosa", "expected_failure": False}
            for kind, word, count in (("ifm", "Input", len(arrays)), ("ofm", "Output", outputs)):
                description[f"{kind}_name"] = [f"Tosa{word}_{position}" for position in range(count)]
                description[f"{kind}_file"] = [f"{kind}_{position}.npy" for position in range(count)]
            for position, array in enumerate(arrays):
                np.save(folder / f"ifm_{position}.npy", array)
            (folder / "test.json").write_text(json.dumps(description))
            _run([model, f"--test_desc={folder / 'test.json'}", "--tosa_level=NONE"])
            results.append([np.load(folder / f"ofm_{position}.npy") for position in range(outputs)])
    return results


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ModuleNotFoundError(f"No program named '{name}'")
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}: {' '.join(lines[:4])}")


def main(runtime: str, path: str, given: str, taken: str, wish: str) -> int:
    """Runs the sets of inputs and writes what came out; returns the exit status."""
    said = json.loads(wish)
    with np.load(given) as arrays:
        flat = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    each = len(flat) // said["sets"]
    feeds = [flat[number * each : (number + 1) * each] for number in range(said["sets"])]
    tensors, outputs = said["tensors"], said["outputs"]
    try:
        if runtime in RESOLVERS:
            results = litert(path, feeds, tensors, runtime)
        elif runtime == "tflm":
            results = tflm(path, feeds, tensors, outputs)
        else:
            results = openvino(path, feeds) if runtime == "openvino" else tosa(path, feeds, outputs)
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        return NOT_INSTALLED
    np.savez(taken, *[array for row in results for array in row])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
