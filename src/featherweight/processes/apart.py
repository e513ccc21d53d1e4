"""Runs a program in a process of its own, and says how it ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

# What matters of a program's last words.
_MOST_CHARACTERS = 400
_RAISED = re.compile(r"[\w.]*(Error|Exception|Exit|Interrupt): ")
_NOISE = re.compile(r"(INFO|WARNING|Warning): ")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: its exit status, negative for the signal that killed it; None where it gave no answer in time.
        text: all that it wrote.
    """

    status: int | None
    text: str

    @property
    def is_aborted(self) -> bool:
        """True where it did not end by itself: killed, or hung."""
        return self.status is None or self.status < 0

    def __str__(self) -> str:
        said = last_words(self.text)
        if self.status is None:
            return f"it gave no answer in time. {said}".strip()
        if self.status < 0:
            return f"its process was killed by {signal.Signals(-self.status).name}. {said}".strip()
        return said or f"exit status {self.status}"


def run_apart(command: Sequence[str], timeout_s: int) -> Ended:
    """Runs a program to its end in a process of its own, and returns how that was."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout_s, env=quiet, check=False
        )
    except subprocess.TimeoutExpired:
        return Ended(None, "")
    return Ended(done.returncode, done.stdout + done.stderr)


def last_words(text: str) -> str:
    r"""Returns what a process wrote at its end that says why it ended: its own last lines, and what Python raised.

    >>> last_words("Warning: slow\nTraceback (most recent call last):\n  File 'x'\nValueError: no\nmore of it\n")
    'ValueError: no more of it'
    """
    before, _, traceback = text.partition("Traceback (most recent call last)")
    own = [line.strip() for line in before.splitlines() if line.strip() and not _NOISE.match(line)]
    lines = [line.strip() for line in traceback.splitlines() if line.strip()]
    raised = next((number for number in reversed(range(len(lines))) if _RAISED.match(lines[number])), len(lines))
    said = " ".join([*own[-1 if traceback else -3 :], *lines[raised:]])
    return said if len(said) <= _MOST_CHARACTERS else f"{said[:_MOST_CHARACTERS].rsplit(' ', 1)[0]} …"
