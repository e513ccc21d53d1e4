"""LiteRT in a process of its own, which answers one file after another; some kernels end the process.

As a script it is that process: pickled jobs on its input, pickled answers on its output.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

RESOLVERS = {"xnnpack": "AUTO", "tflite_opt": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "tflite_ref": "BUILTIN_REF"}
Feeds = dict[str, np.ndarray]


class Oracle:
    """What LiteRT computes, by profile."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, content: bytes, feeds: Sequence[Feeds], profile: str) -> list[list[np.ndarray]] | str:
        """Returns the outputs of one file for every feed, or what went wrong."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((content, feeds, RESOLVERS[profile]), process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            self._process = None
            return f"the process ended with {process.wait()}"

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._process


def _run(content: bytes, feeds: Sequence[Feeds], resolver: str) -> list[list[np.ndarray]]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=content, num_threads=1, experimental_op_resolver_type=OpResolverType[resolver]
    )
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    results: list[list[np.ndarray]] = []
    for arrays in feeds:
        interpreter.reset_all_variables()
        for detail in inputs:
            interpreter.set_tensor(detail["index"], arrays[detail["name"]])
        interpreter.invoke()
        results.append([interpreter.get_tensor(detail["index"]) for detail in outputs])
    return results


def _serve() -> None:
    """Answers jobs in a copy of this process, and in the next one where a kernel ended it: none has to start anew."""
    import ai_edge_litert.interpreter  # noqa: F401  the copies have it

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what kernels print must not reach the answers
    while True:
        if not (copy := os.fork()):
            _answer(answers)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
        if not status:
            return
        _send(f"the process ended with {status}", answers)


def _answer(answers: IO[bytes]) -> None:
    """Answers one job after another, to the end of the jobs."""
    jobs = os.fdopen(os.dup(0), "rb")
    while True:
        try:
            job: Any = pickle.load(jobs)
        except EOFError:
            return
        try:
            result: list[list[np.ndarray]] | str = _run(*job)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        _send(result, answers)


def _send(answer: list[list[np.ndarray]] | str, answers: IO[bytes]) -> None:
    pickle.dump(answer, answers)
    answers.flush()


if __name__ == "__main__":
    _serve()
