"""Where ways run: an environment of their own where a peer's needs conflict with ours, and what is installed there."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.leaderboard.record import Way
from benchmarks.measuring import ROOT

_VERSIONS = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = ""
print(json.dumps(found))
"""
OWN = "featherweight"


def python_of(environment: str) -> Path:
    """Returns the Python of an environment."""
    return Path(sys.executable) if environment == "main" else ROOT / f".venv-{environment}" / "bin" / "python"


def why_missing(way: Way) -> str:
    """Returns why a way cannot run on this machine; empty if it can."""
    if not python_of(way.environment).is_file():
        said = ROOT / f".venv-{way.environment}.failed"
        if said.is_file():
            return f"could not be installed: {said.read_text(encoding='utf-8').strip()}"
        return f"its environment is not there: run `make setup-{way.environment}`"
    missing = [name for name, version in versions(way.environment, way.packages).items() if not version]
    return f"not installed in its environment: {', '.join(missing)}" if missing else ""


@functools.cache
def versions(environment: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Returns package → version, empty where it is not installed; of this package, its sources' digest too."""
    command = [str(python_of(environment)), "-c", _VERSIONS, *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found: dict[str, str] = json.loads(done.stdout) if done.returncode == 0 else dict.fromkeys(packages, "")
    if found.get(OWN):
        found[OWN] += f"+{sources()}"
    return found


@functools.cache
def sources() -> str:
    """Returns a digest of this package's sources."""
    total = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix in (".py", ".toml") and path.is_file():
            total.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return total.hexdigest()[:8]


def variables(way: Way) -> dict[str, str]:
    """Returns what a way's process finds in its environment."""
    return {
        "KERAS_BACKEND": way.backend,
        "TF_USE_LEGACY_KERAS": str(int(way.environment == "tfmot")),  # TensorFlow 2.15 has no other Keras
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
