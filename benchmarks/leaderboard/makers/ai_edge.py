"""ai-edge-quantizer, from the float file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.leaderboard.record import Inputs, Made
from featherweight import tflite
from featherweight.graph import Signature

peers.import_ai_edge_quantizer()


def make(
    inputs: Inputs, samples: np.ndarray, out: Path, form: str = "int8", algorithm: str = "", bits: int = 8
) -> Made:
    """Writes a file by its ready recipe for a form, or by an algorithm for weights of so many bits, int8 beside."""
    model = _with_signature(inputs.model, out)
    if algorithm:
        peers.ai_edge_static(model, list(samples), str(out), algorithm, bits)
    else:
        peers.ai_edge_quantize(model, list(samples), str(out), form)
    return Made()


def _with_signature(file: str, out: Path) -> str:
    """Returns a file that has a signature, by which this tool calibrates: the given one, or a copy beside `out`."""
    model = tflite.read(file)
    if model.signatures:
        return file
    inputs, outputs = (tuple((name, name) for name in names) for names in (model.main.inputs, model.main.outputs))
    copy = out.with_suffix(".signed.tflite")
    tflite.save(replace(model, signatures=(Signature("serving_default", inputs, outputs),)), copy)
    return str(copy)
