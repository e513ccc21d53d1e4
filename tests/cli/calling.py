"""Commands called in this process, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from featherweight.cli import app


def call(*args: Any) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def ok(*args: Any) -> str:
    """The output of a call that succeeds."""
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def paragraph(result: Result, code: int = 1) -> str:
    """The message of a failed call: one line on stderr, nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
