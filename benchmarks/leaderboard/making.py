"""Makes one file in its peer's own environment, or times files there.

`python -m benchmarks.leaderboard.making MAKER ARGUMENTS RESULT`
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.leaderboard.record import Inputs

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


def _main(maker: str, arguments: str, taken: str) -> None:
    given = json.loads(arguments)
    try:
        if "files" in given:
            result = importlib.import_module(f"benchmarks.leaderboard.makers.{maker}").latency(**given)
        else:
            result = make(maker, **given)
    except Exception as error:
        import traceback

        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
    Path(taken).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
