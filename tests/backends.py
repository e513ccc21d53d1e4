"""Python on another backend of Keras, in a process of its own: a process has one."""

from __future__ import annotations

import os
import subprocess
import sys


def on_backend(backend: str, script: str, *arguments: str) -> str:
    """Runs a script with a backend and what this process can import; returns what it prints."""
    path = os.pathsep.join(part for part in sys.path if part)
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": path}
    command = [sys.executable, "-c", script, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def run_on(backend: str, script: str) -> None:
    """Runs a script with a backend, and sees that it gets to its end, where it prints DONE."""
    assert on_backend(backend, script).endswith("DONE\n")
