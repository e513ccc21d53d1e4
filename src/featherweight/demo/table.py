"""The demo's table, as text of any width or for a terminal."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from featherweight.demo.story import DemoResult, Row

WIDTH = 110


def render(result: DemoResult) -> str:
    """Returns the table as plain text, without colours, no line longer than 110 characters."""
    return "\n".join(line.rstrip() for line in _printed(result).export_text(clear=False).splitlines())


def _printed(result: DemoResult) -> Console:
    """Returns a console that has recorded table and remarks."""
    from rich.console import Console

    console = Console(record=True, file=io.StringIO(), width=WIDTH, legacy_windows=False)
    console.print(table(result))
    for line in _remarks(result):
        console.print(line, highlight=False, markup=False)
    return console


def table(result: DemoResult) -> Table:
    """Returns the result as a rich table: one row per file, measured against the float model."""
    from rich import box
    from rich.table import Table

    made = Table(title=result.data, title_justify="left", box=box.SIMPLE_HEAD)
    made.add_column("model")
    for heading in (
        "accuracy",
        "vs float32",
        "kB",
        "smaller",
        "zip kB",
        "smaller",
        "latency ms",
        "vs float32",
    ):
        made.add_column(heading, justify="right", no_wrap=True)
    first = result.rows[0]
    for row in result.rows:
        made.add_row(row.name, *_cells(row, first))
    return made


def _cells(row: Row, first: Row) -> tuple[str, ...]:
    is_first = row is first
    return (
        f"{row.accuracy:.4f}",
        "" if is_first else f"{row.accuracy_delta:+.4f} ± {row.accuracy_delta_error:.4f}",
        f"{row.file_bytes / 1000:.1f}",
        "" if is_first else f"{first.file_bytes / row.file_bytes:.2f}x",
        f"{row.compressed_bytes / 1000:.1f}",
        "" if is_first else f"{first.compressed_bytes / row.compressed_bytes:.2f}x",
        f"{row.latency_ms:.3f}",
        "" if is_first else f"{row.latency_ratio:.2f}x",
    )


def runtime_remark(result: DemoResult) -> str:
    """Returns how the rows were measured."""
    runtime = result.environment.get("ai-edge-litert", "")
    return (
        f"Measured on LiteRT {runtime}, one thread, batch 1, {result.test_images} test images; ± is the standard "
        "error of the paired difference; latency is the median of interleaved rounds, and 0.50x is twice as fast."
    )


def _remarks(result: DemoResult) -> list[str]:
    remarks = textwrap.wrap(runtime_remark(result), WIDTH - 8)
    return remarks + [f"{row.name}: {note}" for row in result.rows for note in row.notes]
