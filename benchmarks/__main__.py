"""`python -m benchmarks`: measures all rows, or the chosen ones."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks import measuring, rendering
from benchmarks.measuring import RESULTS, Figure, Options
from benchmarks.rows import ROWS

_PACKAGES = (
    "featherweight",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "tensorflow",
    "keras",
    "jax",
    "litert-converter",
    "numpy",
    "ethos-u-vela",
    "openvino",
    "tflite-micro",
)


def main() -> int:
    """Runs the rows, prints their tables, writes the results; 1 if a bound was missed or a row failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help=f"default: all of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds per row (default: 3)")
    parser.add_argument("--models", type=Path, help="a folder with .h5 models to add to bit_equality, kernels")
    parser.add_argument(
        "--wait", type=float, default=300, help="seconds that a row may wait for a calm machine (default: 300)"
    )
    parser.add_argument("--render", action="store_true", help="write RESULTS.md from results/ without measuring")
    arguments = parser.parse_args()
    failed = False
    for row in [] if arguments.render else arguments.rows or list(ROWS):
        print(f"{row}: {ROWS[row].__doc__}", file=sys.stderr)
        options = Options(arguments.rounds, arguments.models, arguments.wait)
        measuring.PATIENCE.left_s, measuring.PATIENCE.noises = options.wait_s, []
        try:
            figures = ROWS[row](options)
        except (measuring.JobError, ImportError) as error:
            print(f"{row} failed: {error}", file=sys.stderr)
            failed = True
            continue
        _keep(row, figures)
        rendering.show(row, figures)
        failed |= any(figure.passed is False for figure in figures)
    rendering.PAGE.write_text(rendering.markdown() + "\n", encoding="utf-8")
    return int(failed)


def _keep(row: str, figures: list[Figure]) -> None:
    RESULTS.mkdir(exist_ok=True)
    content = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": _machine(),
        "versions": _versions(),
        "busy": measuring.PATIENCE.noises,
        "figures": [asdict(figure) for figure in figures],
    }
    (RESULTS / f"{row}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def _machine() -> str:
    """Returns the kind of machine in words."""
    import os

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{os.cpu_count()} cores of {model}, {platform.system()}, Python {platform.python_version()}"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
