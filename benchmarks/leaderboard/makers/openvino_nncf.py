"""NNCF on OpenVINO's model of the float file; the result runs in OpenVINO."""

from __future__ import annotations

import time
from pathlib import Path

import nncf
import numpy as np
import openvino

from benchmarks.leaderboard.record import Inputs, Made

# Without OpenVINO's rewriting for 8-bit kernels its fake-quantize operators compute in float: NNCF's own simulation.
_INTEGERS: dict[str, str] = {}
_SIMULATION = {"LP_TRANSFORMS_MODE": "NO", "INFERENCE_PRECISION_HINT": "f32"}

_TIMED = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}


def make(inputs: Inputs, samples: np.ndarray, out: Path, accurate: bool = False) -> Made:
    """Quantizes by defaults, or with the slower correction of biases and mixed ranges that the documentation advises.

    Writes OpenVINO's `.xml` and, beside it, `.bin`.
    """
    model = openvino.Core().read_model(inputs.model)
    wish = {"fast_bias_correction": False, "preset": nncf.QuantizationPreset.MIXED} if accurate else {}
    quantized = nncf.quantize(model, nncf.Dataset(list(samples)), subset_size=len(samples), **wish)
    openvino.save_model(quantized, out, compress_to_fp16=False)
    return Made(lambda x: _run(out, x, _SIMULATION)[0], lambda x: _run(out, x, _INTEGERS))


def _run(file: Path, x: np.ndarray, settings: dict[str, str]) -> list[np.ndarray]:
    compiled = openvino.compile_model(file, "CPU", settings)
    found = [[np.array(value) for value in compiled(example[np.newaxis]).values()] for example in x]
    return [np.concatenate(values) for values in zip(*found, strict=True)]


def _of_one_example(file: str) -> openvino.Model:
    model = openvino.Core().read_model(file)
    _, *rest = model.inputs[0].partial_shape
    model.reshape([1, *rest])
    return model


def latency(files: dict[str, str], runs: int) -> dict[str, list[float]]:
    """Times files in turns on OpenVINO, one thread; name → median in ms, and median ratio to the first."""
    compiled = {name: openvino.compile_model(_of_one_example(file), "CPU", _TIMED) for name, file in files.items()}
    random = np.random.default_rng(0)
    fed = {name: random.random(tuple(model.inputs[0].shape), np.float32) for name, model in compiled.items()}
    times: dict[str, list[float]] = {name: [] for name in compiled}
    names = list(compiled)
    for step in range(runs + 3):
        for turn in range(len(names)):
            name = names[(turn + step) % len(names)]
            start = time.perf_counter()
            compiled[name](fed[name])
            if step >= 3:
                times[name].append(1000 * (time.perf_counter() - start))
    first = np.array(times[names[0]])
    return {
        name: [
            float(np.median(values)),
            *np.percentile(values, (10, 90)).tolist(),
            float(np.median(np.array(values) / first)),
        ]
        for name, values in times.items()
    }
