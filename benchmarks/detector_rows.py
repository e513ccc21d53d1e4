"""The row of detectors: mean average precision of three families in int8, no tensor named, beside peers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import FILES, Figure, JobError, Options, run_job, say

_STEPS, _TEST_SCENES, _CALIBRATION_SCENES = 1500, 400, 64
# By name: the job, its arguments, and the least mean difference over draws from float, points of 100: none of them
# names a tensor.
_Tools = Mapping[str, tuple[str, Mapping[str, Any], float | None]]
_TOOLS: _Tools = {
    "TensorFlow converter": ("quantize_tensorflow", {}, None),
    "ai-edge-quantizer": ("quantize_ai_edge_quantizer", {}, None),
    "featherweight, one scale for the output": ("quantize_detector", {"integers": True}, None),
    "featherweight": ("quantize_detector", {}, -0.5),
    "featherweight, improve=wide-places": ("quantize_detector", {"improve": "wide-places"}, -0.5),
}
_PER_TENSOR = {"target": "int8-per-tensor"}
_TOOLS_PER_TENSOR: _Tools = {
    "featherweight, int8-per-tensor": ("quantize_detector", _PER_TENSOR, None),
    "the same, improve=equalize": ("quantize_detector", {**_PER_TENSOR, "improve": "equalize"}, -1.0),
}


@dataclass(frozen=True)
class _Case:
    """A detector: its family, how many times as large its boxes are, whether its channels are rescaled, the tools."""

    family: str
    factor: float = 1.0
    is_rescaled: bool = False
    tools: _Tools = field(default_factory=lambda: _TOOLS)

    @property
    def name(self) -> str:
        """Of its files."""
        return f"detector_{self.family}{'_large' * (self.factor != 1)}{'_rescaled' * self.is_rescaled}"


_CASES: Mapping[str, _Case] = {
    "centre and size in pixels": _Case("pixels"),
    "the same, boxes ten times as large": _Case("pixels", factor=10.0),
    "the same, channels rescaled by 2^[-3, 3]": _Case("pixels", is_rescaled=True, tools=_TOOLS_PER_TENSOR),
    "distances over 16 bins, transposed (YOLOv8's head)": _Case("distances"),
    "offsets from anchors and logits (BlazeFace's head)": _Case("anchors"),
}


def detectors(options: Options, draws: int = 3) -> list[Figure]:
    """Detectors with one output for boxes and scores, trained on drawn scenes: mean average precision in int8."""
    # What is made is kept, so that a run that was stopped goes on.
    FILES.mkdir(parents=True, exist_ok=True)
    run_job("detector_scenes", out=FILES, draws=draws, calibration=_CALIBRATION_SCENES)
    figures: list[Figure] = []
    for title, case in _CASES.items():
        source = _source(title, case)
        rows: list[Mapping[str, Any]] = []
        for draw in range(draws):
            files = {"float": source}
            for tool, (job, arguments, _) in case.tools.items():
                out = FILES / f"{case.name}_{draw}_{tool.replace(', ', '_').replace(' ', '_')}.tflite"
                say(f"{title}, draw {draw + 1} of {draws}: {tool}")
                try:
                    _once(job, out, model=source, samples=FILES / f"detector_calibration_{draw}.npy", **arguments)
                except JobError as error:
                    say(f"{tool} failed: {str(error).splitlines()[-1]}")
                    continue
                files[tool] = out
            given = {"files": files, "family": case.family, "factor": case.factor, "count": _TEST_SCENES}
            rows.append(run_job("detector_scores", **given))
        figures += _figures(title, case.tools, rows)
    return figures


def _source(title: str, case: _Case) -> Path:
    """Returns the float file of a detector; made on first use."""
    path = FILES / f"{case.name}.tflite"
    if path.is_file():
        return path
    say(f"making the detector: {title}")
    if case.is_rescaled:
        run_job("rescaled_detector", model=FILES / "detector_pixels.tflite", out=path)
    else:
        factor = None if case.factor == 1 else case.factor
        run_job("train_detector", family=case.family, out=path, steps=_STEPS, factor=factor)
    return path


def _once(job: str, out: Path, **arguments: Any) -> None:
    """Runs a job that writes a file, unless an earlier run has."""
    if not out.is_file():
        run_job(job, backend="tensorflow" if job == "quantize_tensorflow" else "jax", out=out, **arguments)


def _figures(title: str, tools: _Tools, rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    whole = rows[0]["float"]
    note = f"± {100 * whole['error']:.1f}, {_TEST_SCENES} scenes"
    figures = [Figure(f"{title}: float, mAP", 100 * whole["map"], "points", note=note)]
    for tool, (_, _, least) in tools.items():
        drawn = [row[tool] for row in rows if tool in row]
        what = f"{title}: {tool}, mAP minus float's"
        if not drawn:
            figures.append(Figure(what, float("nan"), "points", note="could not be made"))
            continue
        lost = [100 * one["lost"] for one in drawn]
        note = f"{', '.join(f'{one:+.2f}' for one in lost)}; each ± {100 * drawn[0]['lost_error']:.2f}"
        figures.append(Figure(what, statistics.mean(lost), "points", at_least=least, note=note))
    return figures
