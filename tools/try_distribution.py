"""Tries what `make dist` has built, as a stranger would: `python tools/try_distribution.py dist`.

Each of wheel and sdist is installed into an environment of its own, with no more than the core needs, and used from an
empty folder. Then tests that the sdist carries are run against the installed wheel, with what they need besides.
Prints how long the install takes and how much disk it does.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Rooms whose tests are quick; `make test` runs all, on the sources.
TESTED = ("tests/graph", "tests/recipes", "tests/targets", "tests/tflite", "tests/sparsity", "tests/test_errors.py")
USED = """
import sys
import numpy as np
import featherweight as fw

assert fw.__version__ == sys.argv[1], fw.__version__
assert "int8" in fw.Recipe("x", rules=(fw.Rule(weight=fw.Scheme("int8"), activation=fw.Scheme("int8")),)).__repr__()
try:
    fw.load("missing.tflite")
except fw.FeatherweightError as error:
    print(error)
"""


def main(folder: Path) -> None:
    """Tries the newest wheel and sdist in a folder; exits with an error where one does not hold."""
    wheel, sdist = (max(folder.glob(pattern), key=lambda path: path.stat().st_mtime) for pattern in ("*.whl", "*.gz"))
    version = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        for package in (wheel, sdist):
            python = installed(here / package.suffix.strip("."), package)
            run([python, "-c", USED, version], here)
            run([python.with_name("featherweight"), "recipes"], here)
            run([python.with_name("featherweight"), "--version"], here)
        with tarfile.open(sdist) as archive:
            archive.extractall(here, filter="data")
        (source,) = here.glob("featherweight-*/")
        python = here / "whl" / "bin" / "python"
        run(
            [
                python,
                "-m",
                "pip",
                "install",
                "-qq",
                *_pins(),
                f"{wheel}[keras,clients]",
                "pytest",
                "hypothesis",
                "sybil",
            ],
            here,
        )
        # Not the sources: the package that is installed.
        run([python, "-m", "pytest", "-q", "-o", "pythonpath=.", "-p", "no:cacheprovider", *TESTED], source)


def installed(folder: Path, package: Path) -> Path:
    """Installs a package into a new environment, prints what that took, and returns the environment's Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    before, start = _megabytes(folder), time.monotonic()
    run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *_pins(), package], folder)
    seconds = time.monotonic() - start
    print(f"{package.name}: {package.stat().st_size / 1e6:.1f} MB, installed in {seconds:.0f} s", end="")
    print(f", {_megabytes(folder) - before:.0f} MB with what it needs", flush=True)
    return python


def run(command: list[object], folder: Path) -> None:
    """Runs a command in a folder; what it prints is shown, and its failure ends this program."""
    subprocess.run([str(part) for part in command], cwd=folder, check=True)


def _pins() -> list[object]:
    return ["-c", ROOT / "constraints.txt"]


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
