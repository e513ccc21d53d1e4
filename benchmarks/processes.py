"""Runs a step in a process of its own, within a limit of time and of memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POLL_S = 0.2
# util-linux: the kernel ends the step when this process is killed, for nobody would wait for it any more
_ENDS_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


@dataclass(frozen=True)
class Limits:
    """What one process may take."""

    seconds: float
    memory_mb: float


def run_step(step: str, limits: Limits, **arguments: Any) -> dict[str, Any]:
    """Runs a step of `benchmarks.architectures.steps`; its result and status, as `run_limited`."""
    command = [sys.executable, "-m", "benchmarks.architectures.steps", step, json.dumps(arguments)]
    return run_limited(command, limits, {"HF_HUB_OFFLINE": "1"})


def run_limited(command: Sequence[str], limits: Limits, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs a command that writes its result as JSON into the file that it is given as its last argument.

    Returns:
        The result with its ``status``: ``ok``, ``error`` (the result names one), ``abort``, ``time`` or ``memory``; in
        what went wrong ``said`` is the end of what was written. No process is left behind, whatever ends this one.
    """
    quiet = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONWARNINGS": "ignore",
        **(environment or {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        taken, said = Path(folder, "result.json"), Path(folder, "said")
        with said.open("wb") as output:
            process = subprocess.Popen(
                [*_ENDS_WITH_PARENT, *command, str(taken)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=quiet,
                start_new_session=True,
            )
        try:
            exceeded = _wait(process, limits)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        result: dict[str, Any] = json.loads(taken.read_text()) if taken.is_file() else {}
        text = said.read_text(errors="replace")[-3000:]
    if exceeded:
        return result | {"status": exceeded, "said": text}
    if process.returncode != 0:
        code = process.returncode
        ended = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return result | {"status": "abort", "error": f"{ended}: {_last_line(text)}", "said": text}
    return result | ({"status": "error", "said": text} if "error" in result else {"status": "ok"})


def answer(step: Callable[[], dict[str, Any]], taken: str) -> None:
    """Writes what a step of `run_limited` returns, or the error that it raised, into the file that it was given."""
    try:
        result = step()
    except Exception as error:
        import traceback

        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
    Path(taken).write_text(json.dumps(result), encoding="utf-8")


def _wait(process: subprocess.Popen[bytes], limits: Limits) -> str:
    """Waits for a process; returns which limit it exceeded, and was killed for."""
    start = time.monotonic()
    while process.poll() is None:
        over = "time" if time.monotonic() - start > limits.seconds else ""
        if _memory_mb(process.pid) > limits.memory_mb:
            over = "memory"
        if over:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return over
        time.sleep(_POLL_S)
    return ""


def _memory_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it ended, or this is no Linux
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:")), 0.0)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "fatal" in line.lower() or "check" in line.lower()), "") or (
        lines[-1] if lines else ""
    )
