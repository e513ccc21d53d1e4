"""TFLite Micro and Vela as judges of many files: a process that forks for each, so that an abort ends one case only.

As a script it is that process: pickled jobs on its input, pickled answers on its output.
"""

from __future__ import annotations

import importlib
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT_S = 20.0
ARENA_BYTES = 1 << 23
# Vela's names of what the targets stand for.
ACCELERATORS = {"ethos-u55": "ethos-u55-128", "ethos-u65": "ethos-u65-256", "ethos-u85": "ethos-u85-256"}


@dataclass(frozen=True)
class Verdict:
    """What a client made of one file: it runs all of it, or not, with its words; the outputs where it computes."""

    runs: bool
    text: str
    outputs: tuple[np.ndarray, ...] = ()


class Judge:
    """A client by a target's name: ``tflm``, ``ethos-u55``, ``ethos-u65`` or ``ethos-u85``."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._process = subprocess.Popen(
            [sys.executable, __file__, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def __call__(self, content: bytes, feeds: Sequence[np.ndarray], outputs: int) -> Verdict:
        """Returns the verdict on a file with so many outputs, fed in the order of its inputs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((content, tuple(feeds), outputs), self._process.stdin)
        self._process.stdin.flush()
        return Verdict(*pickle.load(self._process.stdout))

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def _tflm(content: bytes, feeds: Sequence[np.ndarray], outputs: int) -> tuple[bool, str, tuple[np.ndarray, ...]]:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=ARENA_BYTES)
    for position, array in enumerate(feeds):
        interpreter.set_input(array, position)
    interpreter.invoke()
    return True, "", tuple(np.array(interpreter.get_output(position)) for position in range(outputs))


def _vela(target: str, content: bytes) -> tuple[bool, str, tuple[np.ndarray, ...]]:
    from ethosu.vela import vela

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.tflite")
        path.write_bytes(content)
        status = vela.main([str(path), "--accelerator-config", ACCELERATORS[target], "--output-dir", folder])
    return not status, "", ()


def _serve(target: str) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if target == "tflm":
        importlib.import_module("tflite_micro.python.tflite_micro.runtime")  # once, before all forks
    else:
        importlib.import_module("ethosu.vela.vela")
    while True:
        try:
            content, feeds, outputs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer = _forked(
            partial(_tflm, content, feeds, outputs) if target == "tflm" else partial(_vela, target, content)
        )
        pickle.dump(answer if target == "tflm" else _counted(answer), answers)
        answers.flush()


def _counted(answer: Any) -> Any:
    """Returns Vela's verdict: all operators on the NPU, or which of them stay on the CPU, and why."""
    runs, text, _ = answer
    if not runs:
        return answer
    on_cpu = re.search(r"^CPU operators = ([\d,]+)", text, re.MULTILINE)
    on_npu = re.search(r"^NPU operators = ([\d,]+)", text, re.MULTILINE)
    reasons = " ".join(re.findall(r"^Reason: .*$", text, re.MULTILINE))
    if on_cpu is None:
        return False, text[-500:], ()
    return on_cpu.group(1) == "0", f"NPU {on_npu.group(1) if on_npu else '?'}, CPU {on_cpu.group(1)}: {reasons}", ()


def _forked(work: Callable[[], Any]) -> tuple[bool, str, tuple[np.ndarray, ...]]:
    """Returns what `work` returns in a fork of this process, or how that ended."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as log:
        process = os.fork()
        if process == 0:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                answer = work()
            except BaseException as error:
                answer = (False, f"{type(error).__name__}: {error}", ())
            sys.stdout.flush()
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(answer, pipe)
            os._exit(0)
        os.close(writing)
        content, deadline = b"", time.monotonic() + TIMEOUT_S
        while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(reading, 1 << 20)
            if not part:
                break
            content += part
        else:
            os.kill(process, signal.SIGKILL)
        os.close(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        log.seek(0)
        said = log.read().decode(errors="replace")
    if not content:
        ended = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return False, f"{'no answer in time, ' if status == -9 else ''}{ended}; {said[-500:]}", ()
    runs, text, outputs = pickle.loads(content)
    return runs, (text + "\n" + said).strip(), outputs


if __name__ == "__main__":
    _serve(sys.argv[1])
