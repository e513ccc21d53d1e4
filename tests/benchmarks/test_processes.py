"""Commands within limits: their results, their reasons, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.processes import Limits, run_limited

LIMITS = Limits(seconds=30, memory_mb=2000)


def python(text: str) -> list[str]:
    return [sys.executable, "-c", f"import json, os, sys, time\nresult = sys.argv[-1]\n{text}"]


def test_a_result_comes_back_with_its_status() -> None:
    assert run_limited(python("json.dump({'x': 1}, open(result, 'w'))"), LIMITS) == {"x": 1, "status": "ok"}


@pytest.mark.parametrize(
    ("text", "limits", "status", "error"),
    [
        ("print('check failed: 1 == 2'); os.abort()", LIMITS, "abort", "SIGABRT: check failed: 1 == 2"),
        ("print('so it is'); sys.exit(3)", LIMITS, "abort", "exit status 3: so it is"),
        ("json.dump({'error': 'no'}, open(result, 'w'))", LIMITS, "error", "no"),
        ("time.sleep(60)", Limits(0.3, 2000), "time", None),
        ("x = bytearray(b'x') * 400_000_000; time.sleep(60)", Limits(30, 200), "memory", None),
    ],
)
def test_what_went_wrong_is_named(text: str, limits: Limits, status: str, error: str | None) -> None:
    found = run_limited(python(text), limits)
    assert (found["status"], found.get("error")) == (status, error)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
def test_a_killed_parent_leaves_no_process_behind(tmp_path: Path) -> None:
    pid, child = tmp_path / "pid", tmp_path / "child.py"
    child.write_text(f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")
    command = [sys.executable, str(child)]
    text = f"from benchmarks.processes import *\nrun_limited({command!r}, Limits(60, 2000))"
    parent = subprocess.Popen(python(text), cwd=Path(__file__).parents[2])
    for _ in range(200):
        if pid.is_file() and pid.read_text():
            break
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(200):
        if not Path(f"/proc/{pid.read_text()}").exists():
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid.read_text()} is still there")
