"""Runs many files on LiteRT in one process of its own; `run_all` starts another one where a kernel ends the process.

As a script: `litert_worker.py FOLDER JOBS`, where each line of the file JOBS is `job resolver`. Job j reads `j.tflite`
and `j.npz` (arrays in the order of the file's inputs) and writes `j.resolver.npz`, or `j.resolver.error`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

RESOLVERS = {"auto": "AUTO", "no_delegate": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}
Jobs = Mapping[str, tuple[bytes, list[np.ndarray], tuple[str, ...]]]


def run_all(jobs: Jobs, folder: Path) -> dict[tuple[str, str], list[np.ndarray] | str]:
    """Runs jobs (name → file, inputs, resolvers) and returns (name, resolver) → outputs, or what went wrong."""
    for name, (content, inputs, _) in jobs.items():
        (folder / f"{name}.tflite").write_bytes(content)
        np.savez(folder / f"{name}.npz", *inputs)
    waiting = [(name, resolver) for name, (_, _, resolvers) in jobs.items() for resolver in resolvers]
    results: dict[tuple[str, str], list[np.ndarray] | str] = {}
    while waiting:
        (folder / "jobs").write_text("".join(f"{name} {resolver}\n" for name, resolver in waiting))
        command = [sys.executable, __file__, str(folder), str(folder / "jobs")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        for job in waiting:
            if (found := _result(folder, *job)) is not None:
                results[job] = found
        left = [job for job in waiting if job not in results]
        if left:
            results[left[0]] = f"the process ended with {done.returncode}: {done.stderr[-500:]}"
        waiting = left[1:]
    return results


def _result(folder: Path, name: str, resolver: str) -> list[np.ndarray] | str | None:
    error, arrays = folder / f"{name}.{resolver}.error", folder / f"{name}.{resolver}.npz"
    if error.exists():
        return error.read_text()
    if not arrays.exists():
        return None
    with np.load(arrays) as found:
        return [found[f"arr_{i}"] for i in range(len(found.files))]


def _run(folder: Path, name: str, resolver: str) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_path=str(folder / f"{name}.tflite"),
        num_threads=1,
        experimental_op_resolver_type=OpResolverType[RESOLVERS[resolver]],
    )
    interpreter.allocate_tensors()
    with np.load(folder / f"{name}.npz") as arrays:
        for index, detail in enumerate(interpreter.get_input_details()):
            interpreter.set_tensor(detail["index"], arrays[f"arr_{index}"])
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def _main(folder: Path, jobs: Path) -> None:
    for line in jobs.read_text().splitlines():
        name, resolver = line.split()
        try:
            outputs = _run(folder, name, resolver)
        except Exception as error:
            (folder / f"{name}.{resolver}.error").write_text(f"{type(error).__name__}: {error}")
            continue
        # Whole or not at all: a file that is there says that the job is done.
        np.savez(folder / "partial.npz", *outputs)
        (folder / "partial.npz").rename(folder / f"{name}.{resolver}.npz")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
