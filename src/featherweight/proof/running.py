"""Runs a file in the runtimes that there are, each in a process of its own, and says how that ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from featherweight.proof import worker

Ending = Literal["ran", "refused", "aborted", "not installed"]
_TIMEOUT_S = 900
# What matters of a runtime's last words.
_MOST_CHARACTERS = 400
_RAISED = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt): ")
_NOISE = re.compile(r"(INFO|WARNING): ")


@dataclass(frozen=True, eq=False)
class Ran:
    """How a runtime's process ended.

    Attributes:
        ending: ``ran``, ``refused`` (it said no), ``aborted`` (its process ended, or hung), or ``not installed``.
        said: its last words, where it did not run.
        results: for each set of inputs, the outputs, and behind them the tensors that were asked for.
    """

    ending: Ending
    said: str = ""
    results: tuple[tuple[np.ndarray, ...], ...] = ()


def run(
    runtime: str, path: Path, feeds: Sequence[Sequence[np.ndarray]], outputs: int, tensors: Sequence[int] = ()
) -> Ran:
    """Runs a file on sets of inputs, in the model's order, in one runtime.

    Args:
        runtime: ``xnnpack``, ``builtin``, ``reference``, ``tflm``, ``openvino`` or ``tosa``.
        path: of the file.
        feeds: sets of inputs.
        outputs: how many outputs the model has.
        tensors: numbers of tensors of the main graph to give, too; LiteRT's own kernels and ``tflm`` can.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder, "given.npz"), Path(folder, "taken.npz")
        np.savez(given, *[array for feed in feeds for array in feed])
        wish = json.dumps({"sets": len(feeds), "outputs": outputs, "tensors": list(tensors)})
        command = [sys.executable, worker.__file__, runtime, str(path), str(given), str(taken), wish]
        ran = _finished(command)
        if ran.ending != "ran":
            return ran
        with np.load(taken) as arrays:
            found = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    each = len(found) // len(feeds)
    return Ran("ran", "", tuple(tuple(found[start : start + each]) for start in range(0, len(found), each)))


def _finished(command: Sequence[str]) -> Ran:
    """Runs a process to its end, and says how that was."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, env=quiet, check=False
        )
    except subprocess.TimeoutExpired:
        return Ran("aborted", f"no answer in {_TIMEOUT_S} s")
    text = done.stdout + done.stderr
    if done.returncode == 0:
        return Ran("ran")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Ran("aborted", f"its process was killed by {name}. {last_words(text)}".strip())
    ending = "not installed" if done.returncode == worker.NOT_INSTALLED else "refused"
    return Ran(ending, last_words(text) or f"exit status {done.returncode}")


def last_words(text: str) -> str:
    """Returns what a process wrote at its end that says why it ended: its own last line, and what Python raised."""
    before, _, traceback = text.partition("Traceback (most recent call last)")
    own = [line.strip() for line in before.splitlines() if line.strip() and not _NOISE.match(line)]
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    raised = next((number for number in reversed(range(len(lines))) if _RAISED.match(lines[number])), len(lines))
    found = [*own[-1 if traceback else -3 :], *lines[raised:]]
    return " ".join(found)[:_MOST_CHARACTERS]
