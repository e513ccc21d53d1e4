"""What runs in processes of its own: lowering one architecture, and one recipe of it; each may abort.

`python -m benchmarks.architectures.steps STEP ARGUMENTS_AS_JSON RESULT`; the result is written again at each stage, so
that it says what was being done when a process ends.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import peak_mb

FLOAT_FILE, SAMPLES_FILE = "float.tflite", "samples.pickle"
# LiteRT's kernels and our profile, by recipe; int16 kernels are LiteRT's own.
_KERNELS = {"int8": ("auto", None), "int16x8": ("no_delegate", "tflite_opt")}
_NAMES = re.compile(r"'[^']*'")


class Progress:
    """A result that is on disk whatever happens next."""

    def __init__(self, path: str) -> None:
        self.path, self.found = Path(path), dict[str, Any]()

    def note(self, **found: Any) -> None:
        """Adds to the result and writes it."""
        self.found |= found
        self.path.write_text(json.dumps(self.found))


def lower(progress: Progress, name: str, folder: str) -> None:
    """Builds an architecture, lowers it; writes float file, samples and the source's outputs into a folder."""
    from benchmarks.architectures.record import CALIBRATION
    from benchmarks.architectures.roster import ROSTER
    from featherweight import tflite
    from featherweight.lower import lower_with_notes

    progress.note(stage="build")
    start = time.perf_counter()
    built = ROSTER[name].build()
    expected = [built.run(sample) for sample in built.samples[CALIBRATION:]]
    if not all(np.isfinite(array).all() for arrays in expected for array in arrays):
        raise ValueError("the source's outputs are not finite")
    if not any(array.any() for arrays in expected for array in arrays):
        raise ValueError("the source's outputs are all zero")
    progress.note(stage="lower", build_s=time.perf_counter() - start, build_mb=peak_mb())
    start = time.perf_counter()
    lowered = lower_with_notes(built.source, samples=built.samples[:3])
    progress.note(lower_s=time.perf_counter() - start, peak_mb=peak_mb(), notes=list(lowered.notes))
    # As the converter gave it: what `load` does to any graph is done again when it is quantized.
    tflite.save(lowered.model, Path(folder, FLOAT_FILE))
    Path(folder, SAMPLES_FILE).write_bytes(pickle.dumps((list(built.samples), expected)))
    progress.note(stage="run float", nodes=len(lowered.model.main.nodes))
    progress.note(**_closeness(Path(folder, FLOAT_FILE), built.samples[CALIBRATION:], expected))
    progress.note(stage="done", file_bytes=Path(folder, FLOAT_FILE).stat().st_size)


def convert(progress: Progress, name: str) -> None:
    """Has litert-torch alone convert an architecture: what lowering is held against."""
    from benchmarks.architectures.roster import ROSTER

    built = ROSTER[name].build()
    start = time.perf_counter()
    import litert_torch
    import torch

    arguments = tuple(torch.from_numpy(array) for array in _parts(built.samples[0]))
    data = litert_torch.convert(built.source, arguments).model_content()
    progress.note(convert_s=time.perf_counter() - start, peak_mb=peak_mb(), file_bytes=len(data))


def _parts(sample: Any) -> Sequence[np.ndarray]:
    return sample if isinstance(sample, tuple) else (sample,)


def quantize(progress: Progress, folder: str, recipe: str, target: str, out: str) -> None:
    """Quantizes a float file in one recipe, runs it on LiteRT and on the reference kernels."""
    import featherweight as fw

    progress.note(stage="quantize")
    samples, held_out, expected = _samples(folder)
    start = time.perf_counter()
    quantized = fw.quantize(Path(folder, FLOAT_FILE), recipe, calibration=samples, target=target, progress=False)
    file_bytes = quantized.save(out)
    progress.note(quantize_s=time.perf_counter() - start, file_bytes=file_bytes)
    progress.note(**_float_parts(quantized), notes=list(quantized.plan.notes))
    progress.note(violations=[str(violation) for violation in quantized.report.violations][:5])
    progress.note(stage="run on LiteRT")
    start = time.perf_counter()
    progress.note(**_closeness(out, held_out, expected), run_s=time.perf_counter() - start)
    progress.note(stage="compare with the reference kernels")
    if recipe in _KERNELS:
        resolver, profile = _KERNELS[recipe]
        right: Any = fw.run(quantized.model, held_out[0], resolver=resolver, threads=1, tensors="all")
        progress.note(kernels=same_integers(quantized.model, held_out[0], right, profile))
    progress.note(stage="done")


def refuse(progress: Progress, folder: str, file: str) -> None:
    """Runs a file that LiteRT aborts on with the reference kernels alone: do they refuse it?"""
    import featherweight as fw
    from featherweight.errors import FeatherweightError

    try:
        fw.run(file, _samples(folder)[1][0], runtime="reference")
        progress.note(reference="computes something")
    except FeatherweightError as error:
        progress.note(reference=f"refuses: {error}")


def _samples(folder: str) -> tuple[list[Any], list[Any], list[list[np.ndarray]]]:
    """Returns samples to calibrate with, those held out, and the source's outputs on the latter."""
    samples, expected = pickle.loads(Path(folder, SAMPLES_FILE).read_bytes())
    count = len(samples) - len(expected)
    return samples[:count], samples[count:], expected


def latency(progress: Progress, files: dict[str, str], runs: int) -> None:
    """Times files side by side on one thread; name → median, quantiles in ms, ratio to the first."""
    from featherweight.runtime import benchmark

    rows = benchmark(files, threads=1, runs=runs, progress=False)
    progress.note(ms={row.name: [row.median_ms, row.low_ms, row.high_ms, row.ratio] for row in rows})


def _closeness(file: str | Path, samples: Sequence[Any], expected: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
    """Returns SQNR at the outputs in dB, of all and each, and the mean cosine over samples."""
    from featherweight.runtime.litert import Session

    with Session(file, threads=1) as session:
        found = [list(session.run(sample).values()) for sample in samples]
    signal, noise, cosines = np.zeros(len(expected[0])), np.zeros(len(expected[0])), []
    for rights, gots in zip(expected, found, strict=True):
        right, got = (np.concatenate([np.float64(array).ravel() for array in arrays]) for arrays in (rights, gots))
        cosines.append(right @ got / max(np.linalg.norm(right) * np.linalg.norm(got), 1e-300))
        for index, (right, got) in enumerate(zip(rights, gots, strict=True)):
            signal[index] += np.square(right, dtype=np.float64).sum()
            noise[index] += np.square(np.float64(right) - got).sum()
    each = 10 * np.log10(signal / np.maximum(noise, 1e-300))
    total = 10 * np.log10(signal.sum() / max(noise.sum(), 1e-300))
    return {"db": float(total), "db_each": each.tolist(), "cosine": float(np.mean(cosines))}


def _float_parts(quantized: Any) -> dict[str, Any]:
    """Returns what stayed float: operators, of how many, and the reasons with how many each, most first."""
    plan = quantized.plan
    nodes = {node.name: node.op for graph in quantized.model.graphs for node in graph.nodes}
    reasons = Counter(_NAMES.sub("…", reason) for reason in plan.kept_float.values())
    ops = Counter(nodes.get(name, "?") for name in plan.kept_float)
    return {
        "operators": len(plan.kept_float) + len(plan.forms),
        "kept_float": len(plan.kept_float),
        "kept_float_ops": dict(ops.most_common()),
        "reasons": reasons.most_common(),
        "dropped": len(plan.dropped),
    }


def same_integers(
    model: Any, sample: Any, right: Mapping[str, np.ndarray], profile: str | None = None
) -> dict[str, Any]:
    """Counts the integers that the reference kernels compute otherwise than LiteRT, operator by operator.

    Every operator is given LiteRT's own inputs, so that nothing that differs is hidden by, or blamed on, what came
    before: floats, for one, which may differ by roundings.

    Args:
        model: the quantized model.
        sample: one example.
        right: what LiteRT computes from it, by tensor name.
        profile: the arithmetic; ``xnnpack`` if left out.
    """
    from featherweight.operators import profiles
    from featherweight.runtime.reference import Execution, evaluate
    from featherweight.runtime.samples import checked_arrays, input_tensors

    graph, fed = model.main, input_tensors(model)
    arrays = checked_arrays(sample, fed, finite=False)
    values = {**right, **{fed[name].name: array for name, array in arrays.items()}}
    execution = Execution(model, profiles.find(profile or "xnnpack"))
    elements, differing, nodes, first = 0, 0, 0, ""
    for node in graph.nodes:
        integers = [name for name in node.outputs if name in right and right[name].dtype.kind in "iu"]
        if not integers:
            continue
        given = {name: values[name] for name in node.inputs if name in values}
        found = evaluate(execution, replace(graph, nodes=(node,)), given, frozenset(integers))
        wrong = {name: _differing(found[name], right[name]) for name in integers}
        elements += sum(right[name].size for name in integers)
        differing += sum(wrong.values())
        nodes += any(wrong.values())
        if any(wrong.values()) and not first:
            name = next(name for name, count in wrong.items() if count)
            first = f"{wrong[name]} of {right[name].size} {right[name].dtype} of {node.op} '{node.name}'"
    return {"elements": elements, "differing": differing, "nodes_differing": nodes, "first": first}


def _differing(found: np.ndarray, right: np.ndarray) -> int:
    return right.size if found.shape != right.shape else int((found != right).sum())


_STEPS = {step.__name__: step for step in (lower, convert, quantize, refuse, latency)}


def _main(step: str, arguments: str, result: str) -> None:
    progress = Progress(result)
    try:
        _STEPS[step](progress, **json.loads(arguments))
    except Exception as error:
        import traceback

        traceback.print_exc()
        progress.note(error=f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
