"""Makes one file in its peer's own environment, or times files there.

`python -m benchmarks.leaderboard.making MAKER ARGUMENTS RESULT`
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.leaderboard.record import Inputs
from benchmarks.processes import answer

SIMULATED, RAN = ".simulated.npz", ".ran.npz"


def make(maker: str, inputs: dict[str, Any], out: str, exact: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Makes the file `out`; beside it, what the tool's simulation, and its own runtime, make of the test examples.

    Args:
        maker: module of `benchmarks.leaderboard.makers`.
        inputs: fields of `Inputs`.
        out: the file to write.
        exact: the simulation is run on so many of the first test examples.
        settings: of the maker.

    Returns:
        seconds, processor seconds and bytes of the making, and the tool's notes.
    """
    module = importlib.import_module(f"benchmarks.leaderboard.makers.{maker}")
    given = Inputs(**inputs)
    samples = np.load(given.samples)
    wall, cpu = time.perf_counter(), time.process_time()
    made = module.make(given, samples, Path(out), **settings)
    result = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    result |= {"bytes": size_of(Path(out)), "notes": list(made.notes)}
    with np.load(given.test) as arrays:
        x = arrays["x"]
    if made.run is not None:
        outputs = made.run(x)
        np.savez(out + RAN, *(outputs if isinstance(outputs, list) else [outputs]))
    if made.simulate is not None:
        np.savez(out + SIMULATED, np.asarray(made.simulate(x[:exact])))
    return result


def size_of(out: Path) -> int:
    """Returns the bytes of what was written: a file, and what stands beside it by the same name (weights)."""
    parts = [out, out.with_suffix(".bin")] if out.suffix == ".xml" else [out]
    return sum(part.stat().st_size for part in parts)


def _asked(maker: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if "files" in given:
        return importlib.import_module(f"benchmarks.leaderboard.makers.{maker}").latency(**given)
    return make(maker, **given)


if __name__ == "__main__":
    answer(lambda: _asked(sys.argv[1], json.loads(sys.argv[2])), sys.argv[3])
