"""Processes of their own: how they ended, in words."""

from __future__ import annotations

import sys

import pytest

from featherweight.processes.apart import last_words, run_apart


@pytest.mark.parametrize(
    ("program", "is_aborted", "words"),
    [
        ("print('done')", False, "done"),
        ("raise SystemExit(3)", False, "exit status 3"),
        ("raise ValueError('no such thing')", False, "ValueError: no such thing"),
        ("import os; print('Warning: slow', flush=True); os.kill(os.getpid(), 8)", True, "killed by SIGFPE."),
        ("import time; time.sleep(60)", True, "no answer in time"),
    ],
)
def test_how_a_process_ended(program, is_aborted, words):
    ended = run_apart([sys.executable, "-c", program], 5 if "time" not in program else 1)
    assert ended.is_aborted is is_aborted
    assert words in str(ended)
    assert "slow" not in str(ended)


def test_long_words_end_with_a_word():
    said = last_words(f"ValueError: {'reason ' * 99}")
    assert said.endswith("reason …")
    assert len(said) <= 402
