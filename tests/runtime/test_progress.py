from __future__ import annotations

import io
import sys

import pytest

from featherweight.runtime import progress


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("patience", "terminal", "drawn"), [(0.0, True, True), (60.0, True, False), (0.0, False, False)]
)
def test_a_bar_is_drawn_only_on_terminals_and_when_it_takes_long(monkeypatch, patience, terminal, drawn):
    stderr = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "_PATIENCE_S", patience)
    assert list(progress.track(range(4), "working", total=4)) == [0, 1, 2, 3]
    assert ("working" in stderr.getvalue()) == drawn


def test_nothing_is_drawn_when_not_wanted(monkeypatch):
    stderr = _Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(progress, "_PATIENCE_S", 0.0)
    assert list(progress.track([1], "working", enabled=False)) == [1]
    assert stderr.getvalue() == ""
