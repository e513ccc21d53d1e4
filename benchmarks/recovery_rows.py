"""The row of repairs: what is had without training, beside peers, on images that no tool has chosen on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.measuring import FILES, Figure, JobError, Options, float_file, paired, run_job, say

_NAME = "EfficientNet-Lite0"
# By name: the job, its arguments, and the least SQNR and agreement with the float network.
_WISHES: Mapping[str, tuple[str, Mapping[str, Any], float | None, float | None]] = {
    "TensorFlow converter, int8": ("quantize_tensorflow", {}, None, None),
    "ai-edge-quantizer, int8": ("quantize_ai_edge", {"algorithm": "MIN_MAX_UNIFORM_QUANT"}, None, None),
    "ai-edge-quantizer, int8, MSE": ("quantize_ai_edge", {"algorithm": "MSE"}, None, None),
    "ai-edge-quantizer, int8, OCTAV": ("quantize_ai_edge", {"algorithm": "OCTAV"}, None, None),
    "int8": ("repair", {"recipe": "int8", "improve": None}, None, None),
    "int8, improve=auto": ("repair", {"recipe": "int8", "improve": "auto"}, 23.5, 0.988),
    "ai-edge-quantizer, w4a8, OCTAV": ("quantize_ai_edge", {"algorithm": "OCTAV", "bits": 4}, None, None),
    "w4a8": ("repair", {"recipe": "w4a8", "improve": None}, None, None),
    "w4a8, improve=auto": ("repair", {"recipe": "w4a8", "improve": "auto"}, None, 0.93),
    "int8-per-tensor, improve=auto": (
        "repair",
        {"recipe": "int8", "improve": "auto", "target": "int8-per-tensor"},
        None,
        0.975,
    ),
    "power-of-two, improve=auto": (
        "repair",
        {"recipe": "int8", "improve": "auto", "target": "power-of-two"},
        None,
        0.965,
    ),
}


def recovery(options: Options, draws: int = 3) -> list[Figure]:
    """EfficientNet-Lite0 in integers without training, repaired, beside peers: three draws of photographs.

    What is made is kept, so that a run that was stopped goes on.
    """
    FILES.mkdir(parents=True, exist_ok=True)
    run_job("image_data", out=FILES, draws=draws, calibration=100, crops=30)
    source = float_file("efficientnet_lite0")
    rows: list[dict[str, Any]] = []
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in _WISHES}
    for draw in range(draws):
        files = {"float": source}
        for name, (job, arguments, _, _) in _WISHES.items():
            out = FILES / f"recovery_{draw}_{name.replace(', ', '_').replace(' ', '_')}.tflite"
            say(f"draw {draw + 1} of {draws}: {name}")
            try:
                made[name].append(
                    _once(job, out, model=source, samples=FILES / f"images_calibration_{draw}.npy", **arguments)
                )
            except JobError as error:
                say(f"{name} failed: {str(error).splitlines()[-1]}")
                continue
            files[name] = out
        rows.append(run_job("scores", files=files, test=FILES / f"images_test_{draw}.npz"))
    return [figure for name in _WISHES for figure in _figures(name, rows, made[name])]


def _once(job: str, out: Any, **arguments: Any) -> dict[str, Any]:
    """Runs a job that writes a file, unless an earlier run has; returns its seconds, if they are known, and bytes."""
    kept = out.with_suffix(".json")
    if not (out.is_file() and kept.is_file()):
        backend = "tensorflow" if job == "quantize_tensorflow" else "jax"
        kept.write_text(json.dumps(run_job(job, backend=backend, out=out, **arguments)))
    return {**json.loads(kept.read_text()), "bytes": out.stat().st_size}


def _figures(name: str, rows: Sequence[Mapping[str, Any]], made: Sequence[Mapping[str, Any]]) -> list[Figure]:
    drawn = [row for row in rows if name in row]
    what = f"{_NAME}: {name}"
    if not drawn:
        return [Figure(f"{what}: SQNR", float("nan"), "dB", note="could not be made")]
    _, _, level, least = _WISHES[name]
    levels = [row[name]["sqnr_db"] for row in drawn]
    agrees = np.concatenate([np.array(row[name]["agrees"], float) for row in drawn])
    groups = np.concatenate([np.array(row["group"]) for row in drawn])
    both = [np.concatenate([np.array(row[key]["correct"], float) for row in drawn]) for key in (name, "float")]
    mean, error = paired(both[0] - both[1], groups)
    seconds = [row["seconds"] for row in made if "seconds" in row]
    note = f"{', '.join(f'{one:.1f}' for one in levels)} dB; top-1 {100 * mean:+.2f} ± {100 * error:.2f} points; "
    note += f"{made[0]['bytes']:,} bytes" + (f"; {statistics.median(seconds):.0f} s" if seconds else "")
    return [
        Figure(f"{what}: SQNR", statistics.mean(levels), "dB", at_least=level, note=note),
        Figure(f"{what}: agrees with float", float(agrees.mean()), at_least=least),
    ]
