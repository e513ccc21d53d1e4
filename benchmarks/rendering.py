"""The results as one table for a terminal, and as `RESULTS.md`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from benchmarks.measuring import FOLDER, RESULTS, Figure
from benchmarks.rows import ROWS

PAGE = FOLDER / "RESULTS.md"


def formatted(value: float, unit: str) -> str:
    """Returns a value with as many digits as it deserves."""
    if value == 0 or (float(value).is_integer() and not unit):
        digits = "0" if value == 0 else f"{value:.0f}"
    elif abs(value) >= 100:
        digits = f"{value:.0f}"
    elif abs(value) >= 10:
        digits = f"{value:.1f}"
    else:
        digits = f"{value:.3g}"
    return f"{digits} {unit}".strip()


def cells(figure: Figure) -> tuple[str, str, str, str, str]:
    """Returns (what, value, lowest to highest round, bound, verdict)."""
    spread = f"{formatted(figure.spread[0], '')} … {formatted(figure.spread[1], '')}" if figure.spread else ""
    bounds = [f"≤ {formatted(figure.at_most, figure.unit)}"] if figure.at_most is not None else []
    bounds += [f"≥ {formatted(figure.at_least, figure.unit)}"] if figure.at_least is not None else []
    verdict = {True: "ok", False: "MISSED", None: ""}[figure.passed]
    return figure.what, formatted(figure.value, figure.unit), spread, ", ".join(bounds), verdict


def show(row: str, figures: Sequence[Figure]) -> None:
    """Prints a row's figures as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"{row}: {ROWS[row].__doc__ or ''}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("what", "value", "rounds", "bound", "", "note"):
        table.add_column(heading, justify="right" if heading in ("value", "bound") else "left")
    for figure in figures:
        style = {False: "red", True: "green", None: None}[figure.passed]
        table.add_row(*cells(figure), figure.note, style=style)
    Console().print(table)


def markdown() -> str:
    """Returns everything under `results/` as one page, and of other rows what the page said before."""
    before = _sections(PAGE.read_text(encoding="utf-8")) if PAGE.is_file() else {}
    lines = [
        "# Benchmarks, as measured",
        "",
        "Written by `make bench` (`python -m benchmarks`); every figure is from one run side by side with the peers.",
        "Values are medians over rounds, ratios medians over the rounds' ratios; the column beside them has the lowest",
        "and the highest round. Every job runs in a process of its own, in turns, while the machine is otherwise idle;",
        "times leave out imports unless they say otherwise, memory is the whole process's peak.",
        "",
    ]
    for row in ROWS:
        path = RESULTS / f"{row}.json"
        if path.is_file():
            lines += _section(row, json.loads(path.read_text()))
        elif row in before:
            lines += before[row]
    return "\n".join(lines)


def _sections(page: str) -> dict[str, list[str]]:
    """Returns the lines of each row's section of a page."""
    parts = re.findall(r"^(## .*?\n\n`(\w+)`,.*?)\s*(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    return {row: [*text.split("\n"), ""] for text, row in parts}


def _section(row: str, content: dict[str, Any]) -> list[str]:
    machine, versions = content["machine"], ", ".join(f"{n} {v}" for n, v in content["versions"].items())
    lines = [f"## {ROWS[row].__doc__}", "", f"`{row}`, {content['date']}; {machine}; {versions}.", ""]
    if content["busy"]:
        lines += [f"The machine was up to {max(content['busy']):.0%} busy with other work in this run.", ""]
    lines += ["| what | value | rounds | bound | | |", "|---|---:|---|---:|---|---|"]
    for fields in content["figures"]:
        figure = Figure(**fields)
        lines.append("| " + " | ".join((*cells(figure), figure.note)) + " |")
    return [*lines, ""]
