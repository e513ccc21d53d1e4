"""The report as one HTML file: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from featherweight.report.summary import NodeNote, Report
from featherweight.report.text import (
    NOTE_HEADERS,
    OUTPUT_HEADERS,
    decibels,
    grouped,
    grouped_notes,
    output_rows,
    percent,
)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c2530; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; border-bottom: 2px solid #8795a6; } td { border-bottom: 1px solid #e3e8ee; }
th, td { padding: .25rem .6rem; vertical-align: top; white-space: nowrap; }
td:first-child, li { white-space: normal; overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; } .muted { color: #5a6878; }
.bar { background: #e3e8ee; min-width: 8rem; } .bar div { height: .9rem; background: #2f6f9f; }
.wide { white-space: normal; overflow-wrap: anywhere; min-width: 12rem; }
.bar div.bad { background: #b3452c; }
""".strip()
# A level at which 8-bit tensors usually are; bars are full there.
_FULL_BAR_DB = 50.0
_LOW_DB = 20.0


def render(report: Report) -> str:
    """Returns the report as a whole HTML document."""
    title = f"Recipe {report.recipe} for target {report.target}"
    nodes = ", ".join(f"{count} {kind}" for kind, count in report.nodes.items())
    return document(
        title,
        [
            f'<p class="muted">Arithmetic {escape(report.profile)}, inputs and outputs {escape(report.io)}. ',
            f"Operators: {escape(nodes)}.</p>",
            _sizes(report),
            _evaluations(report),
            _latency(report),
            _outputs(report),
            _node_notes("Kept float", report.kept_float),
            _node_notes("Left out", report.dropped),
            list_section("Notes", grouped_notes(report.notes)),
            list_section(f"Violations of target {report.target}", [v.message for v in report.violations]),
            _errors(report),
            _tensors(report),
            list_section("Environment", [f"{name} {version}" for name, version in report.environment.items()]),
        ],
    )


def document(title: str, parts: Iterable[str]) -> str:
    """Returns a whole HTML document of a title and parts, which are HTML; empty ones are left out."""
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    return "\n".join(part for part in (*head, *parts, "</body></html>") if part) + "\n"


def table_section(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Returns a section with a table; cells are HTML already. Nothing where there are no rows."""
    body = "\n".join(
        "<tr>" + "".join(f"<td{_number(i, right)}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    head = "".join(f"<th{_number(i, right)}>{escape(header)}</th>" for i, header in enumerate(headers))
    return (
        f"<h2>{escape(title)}</h2>\n<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
        if body
        else ""
    )


def _number(column: int, right: Sequence[int]) -> str:
    return ' class="number"' if column in right else ""


def list_section(title: str, lines: Sequence[str]) -> str:
    """Returns a section with a list of plain texts; nothing where there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{escape(title)}</h2><ul>{items}</ul>" if items else ""


def _sizes(report: Report) -> str:
    before, after = report.before, report.after
    pairs = [
        ("file", before.file_bytes, after.file_bytes),
        ("compressed (deflate)", before.compressed_bytes, after.compressed_bytes),
    ]
    rows = [(name, f"{old:,}", f"{new:,}", percent(new, old)) for name, old, new in pairs]
    for dtype in dict.fromkeys([*before.constant_bytes, *after.constant_bytes]):
        old, new = before.constant_bytes.get(dtype, 0), after.constant_bytes.get(dtype, 0)
        rows.append((f"{escape(dtype)} constants", f"{old:,}", f"{new:,}", ""))
    return table_section("Sizes in bytes", ("", "before", "after", "left"), rows, (1, 2, 3))


def _evaluations(report: Report) -> str:
    rows = [
        (escape(name), escape(e.metric), f"{e.value:.6g}", f"{e.standard_error:.2g}", str(e.count))
        for name, e in report.evaluations.items()
    ]
    return table_section("Task", ("model", "metric", "value", "± error", "n"), rows, (2, 3, 4))


def _latency(report: Report) -> str:
    rows = [
        (escape(r.name), f"{r.median_ms:.3f}", f"{r.low_ms:.3f}", f"{r.high_ms:.3f}", f"{r.ratio:.2f}")
        for r in report.latency
    ]
    return table_section("Latency in ms", ("model", "median", "10 %", "90 %", "ratio"), rows, (1, 2, 3, 4))


def _outputs(report: Report) -> str:
    rows = [tuple(map(escape, row)) for row in output_rows(report.outputs)]
    return table_section("Outputs against the float model's", OUTPUT_HEADERS, rows, (1, 2, 3))


def _node_notes(title: str, notes: Sequence[NodeNote]) -> str:
    rows = [(str(count), escape(what), escape(names), escape(reason)) for count, what, names, reason in grouped(notes)]
    return table_section(title, NOTE_HEADERS, rows, (0,))


def _errors(report: Report) -> str:
    rows = [
        (
            escape(e.name),
            e.kind,
            escape(e.op),
            escape(e.dtype),
            decibels(e.sqnr_db),
            level_bar(e.sqnr_db),
            decibels(e.own_sqnr_db),
            percent(e.clipping_mse, e.mse),
            f"{e.max_abs_error:.4g}",
        )
        for e in report.errors
    ]
    headers = ("tensor", "kind", "operator", "dtype", "SQNR dB", "", "own dB", "clipping", "largest")
    return table_section("Errors, worst first", headers, rows, (4, 6, 7, 8))


def level_bar(level_db: float) -> str:
    """Returns a bar for a level in dB."""
    width = 100.0 if level_db == math.inf else 100 * min(max(level_db, 0.0) / _FULL_BAR_DB, 1.0)
    kind = ' class="bad"' if level_db < _LOW_DB else ""
    return f'<div class="bar"><div{kind} style="width: {width:.0f}%"></div></div>'


def _tensors(report: Report) -> str:
    rows = [
        (
            escape(t.name),
            escape(t.op) or "-",
            escape(t.dtype),
            "×".join(map(str, t.shape)),
            escape(t.quantization),
        )
        for t in report.tensors
    ]
    return table_section("Quantized tensors", ("tensor", "written by", "dtype", "shape", "quantization"), rows)
