"""Runs a file in the runtimes that there are, each in a process of its own, and says how that ended."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from featherweight.processes.apart import run_apart
from featherweight.proof import worker

Ending = Literal["ran", "refused", "aborted", "not installed"]
_TIMEOUT_S = 900


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
        done = run_apart(command, _TIMEOUT_S)
        if done.status != 0:
            missing = done.status == worker.NOT_INSTALLED
            ending: Ending = "aborted" if done.is_aborted else "not installed" if missing else "refused"
            return Ran(ending, str(done))
        with np.load(taken) as arrays:
            found = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
    each = len(found) // len(feeds)
    if each != outputs + len(tensors):
        return Ran("refused", f"it gives {each} outputs of {outputs}")
    return Ran("ran", "", tuple(tuple(found[start : start + each]) for start in range(0, len(found), each)))
