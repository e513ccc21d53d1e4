"""The real consumers of a .tflite file, each in a process of its own: an abort of theirs is an error here.

Every function takes the path of a model and raises `ClientError`, with the exit status and what the client
wrote, where it refuses the file, aborts or hangs. Inputs are one array, a sequence in the file's order,
or a mapping from the names of the file's first signature or of its tensors; outputs come in the file's order.
"""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Inputs = Mapping[str, np.ndarray] | Sequence[np.ndarray] | np.ndarray

RESOLVERS = ("auto", "ref", "nodelegate")
TIMEOUT_S = 300


class ClientError(Exception):
    """A client refused the file, aborted or hung."""


@dataclass(frozen=True)
class VelaResult:
    """What Arm's compiler for the Ethos-U made of a file: ops by processor, MACs, its words, its constants."""

    npu_ops: int
    cpu_ops: int
    npu_macs: int
    text: str
    buffers: tuple[bytes, ...] = ()

    @property
    def npu_fraction(self) -> float:
        return self.npu_ops / max(self.npu_ops + self.cpu_ops, 1)


def vela(path: str | Path, accelerator: str = "ethos-u55-128") -> VelaResult:
    """Compile a file for an Ethos-U, named as Vela does: ethos-u55-128, ethos-u65-256, ethos-u85-256 ..."""
    command = Path(sys.executable).with_name("vela")
    with tempfile.TemporaryDirectory() as folder:
        done = _finished(
            [str(command), str(path), "--accelerator-config", accelerator, "--output-dir", folder],
            f"vela on {path}",
        )
        summary = _vela_summary(Path(folder))
        buffers = _buffers(next(Path(folder).glob("*_vela.tflite")).read_bytes())
    text = done.stdout + done.stderr
    return VelaResult(
        npu_ops=_vela_count("NPU", text),
        cpu_ops=_vela_count("CPU", text),
        npu_macs=int(float(summary.get("nn_macs", "0"))),
        text=text,
        buffers=buffers,
    )


def openvino_run(path: str | Path, inputs: Inputs) -> list[np.ndarray]:
    """Run a file with OpenVINO on the CPU; it checks graphs more strictly than LiteRT."""
    return _run_in_process("openvino", path, inputs)


def tflm_run(path: str | Path, inputs: Inputs) -> list[np.ndarray]:
    """Run a file with TFLite Micro's interpreter, the one that microcontrollers have."""
    return _run_in_process("tflm", path, inputs)


def tflm_steps(path: str | Path, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run a file of one input with TFLite Micro on one step after another; the outputs, and those after a reset."""
    first, again = _run_in_process("tflm-steps", path, steps)
    return first, again


def litert_run(path: str | Path, inputs: Inputs, resolver: str = "auto") -> list[np.ndarray]:
    """Run a file with LiteRT: `auto` (XNNPACK), `nodelegate` (own kernels) or `ref` (reference)."""
    if resolver not in RESOLVERS:
        raise ValueError(f"Unknown resolver {resolver!r}; choose from {', '.join(RESOLVERS)}.")
    return _run_in_process(f"litert-{resolver}", path, inputs)


def _vela_count(processor: str, text: str) -> int:
    found = re.search(rf"^{processor} operators = ([\d,]+)", text, re.MULTILINE)
    if found is None:
        raise ClientError(f"vela printed no count of {processor} operators:\n{text}")
    return int(found.group(1).replace(",", ""))


def _buffers(content: bytes) -> tuple[bytes, ...]:
    """What a file's constants hold: for an Ethos-U, the commands and the weights as they are packed."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    found = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength())]
    return tuple(sorted(data.tobytes() for data in found if isinstance(data, np.ndarray)))


def _vela_summary(folder: Path) -> dict[str, str]:
    for path in folder.glob("*_summary_*.csv"):
        with path.open(newline="") as file:
            return next(csv.DictReader(file), {})
    return {}


def _run_in_process(client: str, path: str | Path, inputs: Inputs) -> list[np.ndarray]:
    if isinstance(inputs, np.ndarray):
        inputs = [inputs]
    named = dict(inputs) if isinstance(inputs, Mapping) else {f"#{i}": x for i, x in enumerate(inputs)}
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        # Names with a slash or a colon are no reliable names of zip members: the arrays go by number.
        np.savez(given, *named.values(), names=np.array(list(named), dtype=np.str_))
        _finished([sys.executable, __file__, client, str(path), str(given), str(taken)], f"{client} on {path}")
        with np.load(taken) as outputs:
            return [outputs[f"arr_{i}"] for i in range(len(outputs.files))]


def _finished(command: list[str], what: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClientError(f"{what}: no answer in {TIMEOUT_S} s.\n{error.stdout or ''}{error.stderr or ''}") from error
    if done.returncode != 0:
        status = done.returncode
        ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise ClientError(f"{what}: {ended}.\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


# What follows runs in the client's own process: `python clients.py CLIENT MODEL INPUTS.npz OUTPUTS.npz`.


def _in_order(named: dict[str, np.ndarray], names: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The arrays in the order of the model's inputs; `names` holds the names that each input answers to."""
    if all(name.startswith("#") for name in named):
        arrays = list(named.values())
    else:
        known = {alias for aliases in names for alias in aliases}
        if unknown := set(named) - known:
            raise SystemExit(f"The model has no inputs {sorted(unknown)}; its inputs are {sorted(known)}.")
        arrays = [next(named[alias] for alias in aliases if alias in named) for aliases in names]
    if len(arrays) != len(names):
        raise SystemExit(f"The model takes {len(names)} inputs, {len(arrays)} were given.")
    return arrays


def _litert(path: str, named: dict[str, np.ndarray], resolver: str) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = {
        "auto": OpResolverType.AUTO,
        "ref": OpResolverType.BUILTIN_REF,
        "nodelegate": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }[resolver]
    interpreter = Interpreter(path, experimental_op_resolver_type=kind, num_threads=1)
    details = interpreter.get_input_details()
    arrays = _in_order(named, _input_names(interpreter))
    for detail, x in zip(details, arrays, strict=True):
        if tuple(detail["shape"]) != x.shape:
            interpreter.resize_tensor_input(detail["index"], x.shape)
    interpreter.allocate_tensors()
    for detail, x in zip(details, arrays, strict=True):
        interpreter.set_tensor(detail["index"], x)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def _input_names(interpreter: object) -> list[tuple[str, ...]]:
    """Per input, in the file's order: the tensor's name, and the name in the first signature."""
    details = interpreter.get_input_details()  # type: ignore[attr-defined]
    public: dict[int, str] = {}
    for signature in list(interpreter.get_signature_list())[:1]:  # type: ignore[attr-defined]
        runner = interpreter.get_signature_runner(signature)  # type: ignore[attr-defined]
        public = {detail["index"]: name for name, detail in runner.get_input_details().items()}
    return [(detail["name"], public.get(detail["index"], detail["name"])) for detail in details]


def _litert_order(path: str, named: dict[str, np.ndarray]) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    return _in_order(named, _input_names(Interpreter(path)))


def _tflm(path: str, named: dict[str, np.ndarray]) -> list[np.ndarray]:
    # The wheel's package imports its interpreter module by the path that it has in the source tree.
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=1 << 26)  # its default is ten times the file
    # Inputs by name are put in order by LiteRT, which does not load every file of TFLite Micro.
    is_ordered = all(name.startswith("#") for name in named)
    for index, x in enumerate(named.values() if is_ordered else _litert_order(path, named)):
        interpreter.set_input(x, index)
    interpreter.invoke()
    count = _outputs(path)
    return [np.array(interpreter.get_output(index)) for index in range(count)]


def _tflm_steps(path: str, named: dict[str, np.ndarray]) -> list[np.ndarray]:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=1 << 20)
    (steps,) = named.values()

    def ran(x: np.ndarray) -> np.ndarray:
        interpreter.set_input(x, 0)
        interpreter.invoke()
        return np.array(interpreter.get_output(0))

    first = [ran(x) for x in steps]
    interpreter.reset()
    return [np.stack(first), np.stack([ran(x) for x in steps])]


def _outputs(path: str) -> int:
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAs(Path(path).read_bytes(), 0).Subgraphs(0).OutputsLength()


def _openvino(path: str, named: dict[str, np.ndarray]) -> list[np.ndarray]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    arrays = _litert_order(path, named)
    model.reshape({port: x.shape for port, x in zip(model.inputs, arrays, strict=True)})
    # Without this OpenVINO computes float16 or bfloat16 where the processor has them.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    results = compiled(dict(enumerate(arrays)))
    return [np.array(results[port]) for port in compiled.outputs]


def _main(client: str, model: str, given: str, taken: str) -> None:
    with np.load(given) as arrays:
        named = {str(name): arrays[f"arr_{i}"] for i, name in enumerate(arrays["names"])}
    if client.startswith("litert-"):
        outputs = _litert(model, named, client.removeprefix("litert-"))
    else:
        outputs = {"tflm": _tflm, "tflm-steps": _tflm_steps, "openvino": _openvino}[client](model, named)
    np.savez(taken, *outputs)


if __name__ == "__main__":
    _main(*sys.argv[1:])
