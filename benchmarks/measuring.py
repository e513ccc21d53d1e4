"""Measures honestly: jobs in processes of their own, interleaved rounds, a machine that is otherwise idle."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
RESULTS = FOLDER / "results"
FILES = RESULTS / "files"
TFMOT_PYTHON = ROOT / ".venv-tfmot" / "bin" / "python"

# The networks of MLPerf Tiny.
TINY = ("resnet8", "ds_cnn", "mobilenet_v1_025", "autoencoder")
# Processor time that others may take while we start to measure.
_CALM_FRACTION = 0.05


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
        what: in words.
        value: as measured; the median where there are rounds.
        unit: of value and bound: ``s``, ``MB``, ``x`` (a ratio), ``ms``, ``%``; empty for counts.
        at_most: bound from above, if there is one.
        at_least: bound from below, if there is one.
        spread: lowest and highest round.
        note: what is needed to read the value.
    """

    what: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    spread: tuple[float, float] | None = None
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the bounds hold; None where there are none."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )


@dataclass(frozen=True)
class Options:
    """What the command line chose."""

    rounds: int = 3
    models: Path | None = None
    wait_s: float = 300.0


class JobError(Exception):
    """A job's process failed."""


def figure_of(what: str, values: Sequence[float], unit: str, **bounds: Any) -> Figure:
    """Returns the median of rounds as a figure, with its spread."""
    return Figure(what, statistics.median(values), unit, spread=(min(values), max(values)), **bounds)


def ratio_of(what: str, values: Sequence[float], others: Sequence[float], **bounds: Any) -> Figure:
    """Returns the median over rounds of value divided by other; the ratio of the lowest beside it."""
    note = f"of the lowest: {min(values) / min(others):.3g} x"
    return figure_of(what, [a / b for a, b in zip(values, others, strict=True)], "x", note=note, **bounds)


def run_job(name: str, /, *, backend: str = "jax", tfmot: bool = False, **arguments: Any) -> dict[str, Any]:
    """Runs a function of `benchmarks.jobs` in a fresh process and returns what it returns.

    The result has ``peak_mb`` besides, the process's largest resident memory. With `tfmot` it is a function of
    `benchmarks.tfmot_jobs`, in the environment that `make setup-tfmot` makes: that toolkit needs Keras 2.

    Raises:
        JobError: the process failed; with the end of what it wrote.
    """
    if tfmot and not TFMOT_PYTHON.is_file():
        raise JobError(f"{name} needs the environment that `make setup-tfmot` makes.")
    python, module = (str(TFMOT_PYTHON), "benchmarks.tfmot_jobs") if tfmot else (sys.executable, "benchmarks.jobs")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONWARNINGS": "ignore",
        "TF_USE_LEGACY_KERAS": str(int(tfmot)),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
    with tempfile.TemporaryDirectory() as folder:
        taken = Path(folder, "result.json")
        command = [
            python, "-m", module, name, json.dumps(arguments, default=str), str(taken),
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0 or not taken.is_file():
            text = (done.stdout + done.stderr)[-3000:]
            raise JobError(f"{name}({arguments}) ended with exit status {done.returncode}:\n{text}")
        return json.loads(taken.read_text())


def cell(name: str, make: Callable[[], Any]) -> Any:
    """Returns what `make` returns, kept under a name: a row of many trainings goes on where it was stopped.

    What is kept does not know which code has made it: delete ``benchmarks/results/cells`` after a change.
    """
    path = RESULTS / "cells" / f"{name}.json"
    if not path.is_file():
        say(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        FILES.mkdir(parents=True, exist_ok=True)
        made = json.dumps(make())
        partial = path.with_suffix(".partial")
        partial.write_text(made)
        partial.replace(path)
    return json.loads(path.read_text())


def interleaved(jobs: Mapping[str, Callable[[], dict[str, Any]]], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Runs every job once per round, in an order that changes from round to round; returns name → results."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    names = list(jobs)
    for step in range(rounds):
        for turn in range(len(names)):
            name = names[(turn + step) % len(names)]
            wait_until_calm()
            say(f"round {step + 1} of {rounds}: {name}")
            results[name].append(jobs[name]())
    return results


def paired(differences: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Returns mean and standard error; examples of one group (crops of an image, draws) count as one."""
    means = np.array([differences[groups == group].mean() for group in np.unique(groups)])
    return float(differences.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


def column(results: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Returns one value of each round."""
    return [float(result[key]) for result in results]


def busy_fraction(seconds: float = 1.0) -> float:
    """Returns the share of all processors' time that anyone uses (0..1), the host's other guests included."""

    def read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    try:
        total, idle = read()
        time.sleep(seconds)
        later_total, later_idle = read()
    except (OSError, ValueError):  # not Linux: trust the user
        return 0.0
    return 1 - (later_idle - idle) / max(later_total - total, 1)


@dataclass
class Patience:
    """How long a row may still wait for a calm machine, and how busy it was whenever measuring had to start anyway."""

    left_s: float
    noises: list[float]


PATIENCE = Patience(0.0, [])


def wait_until_calm() -> None:
    """Waits until the machine is idle; goes on, and says so, once the row's time for waiting is spent."""
    busy = busy_fraction()
    while busy > _CALM_FRACTION:
        if PATIENCE.left_s <= 0:
            say(f"the machine is {busy:.0%} busy: the times that follow are not to be trusted")
            PATIENCE.noises.append(busy)
            return
        start = time.monotonic()
        time.sleep(1)
        busy = busy_fraction()
        PATIENCE.left_s -= time.monotonic() - start


def say(text: str) -> None:
    """Writes progress to stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)


def float_file(name: str) -> Path:
    """Returns a network's float `.tflite`, lowered from Keras; made on first use, its `.keras` beside it."""
    path = FILES / f"{name}.tflite"
    if not path.is_file():
        FILES.mkdir(parents=True, exist_ok=True)
        say(f"building {name}")
        if name == "dense_stack":
            run_job("build_dense_stack", out=path)
        else:
            run_job("build_network", name=name, out=path)
    return path


def int8_files(
    name: str, tools: Sequence[str] = ("featherweight", "tensorflow", "ai_edge_quantizer")
) -> dict[str, Path]:
    """Returns int8 files of one float file by several tools, from the same samples."""
    source = float_file(name)
    files: dict[str, Path] = {}
    for tool in tools:
        files[tool] = FILES / f"{name}_{tool}_int8.tflite"
        quantize_job(tool, source, files[tool], 20)
    return files


def quantize_job(tool: str, source: Path, out: Path, samples: int | Path) -> None:
    """Makes an int8 file with one tool; the TensorFlow converter takes the `.keras` file beside `source`."""
    backend = "tensorflow" if tool == "tensorflow" else "jax"
    run_job(f"quantize_{tool}", backend=backend, model=source, out=out, samples=samples)
