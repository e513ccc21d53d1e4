"""The report as plain text: no colours, no control characters, columns aligned with spaces."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from featherweight.analysis.agreement import AGREEMENT
from featherweight.analysis.noise import OutputError
from featherweight.errors import listed
from featherweight.pages.formats import decibels, percent, shortened
from featherweight.pages.plain import aligned as table
from featherweight.report.summary import NodeNote, Report
from featherweight.runtime.operator_times import OperatorTimes

_MOST_ROWS = 40
# Names of a group that are shown, and how much of each.
_MOST_LISTED, _LISTED_NAME = 3, 32
NOTE_HEADERS = ("count", "operator", "names", "reason")
TIME_HEADERS = ("layer", "operator", "µs", "%", "computed by")
OUTPUT_HEADERS = ("output", "examples", "SQNR dB", "median", "worst column")
# What tells reasons of one kind apart: names of operators and tensors, and numbers.
_QUOTED_NAME = re.compile(r"'([^']*)'")
_DETAIL = re.compile(r"[A-Z_0-9]* ?'[^']*'|-?\d[\d.e+-]*|[A-Z][A-Z_0-9]{2,}")


def render(report: Report) -> str:
    """Returns the report as text, without a newline at the end."""
    sections = [
        _head(report),
        _sizes(report),
        _evaluations(report),
        _footprints(report),
        _latency(report),
        _outputs(report),
        _node_notes("Kept float", report.kept_float),
        _node_notes("Left out", report.dropped),
        _lines("Notes", grouped_notes(report.notes)),
        _lines(f"Violations of target {report.target}", grouped_notes([v.message for v in report.violations])),
        _errors(report),
        _times(report),
        _tensors(report),
        _lines("Environment", [f"{name} {version}" for name, version in report.environment.items()]),
    ]
    return "\n\n".join(section for section in sections if section)


def section(title: str, body: str) -> str:
    """Returns a body under an underlined title; nothing where the body is empty."""
    return f"{title}\n{'-' * len(title)}\n{body}" if body else ""


def _lines(title: str, lines: Sequence[str]) -> str:
    return section(title, "\n".join(lines))


def _head(report: Report) -> str:
    nodes = ", ".join(f"{count} {kind}" for kind, count in report.nodes.items())
    title = f"{report.name}: recipe" if report.name else "Recipe"
    title = f"{title} {report.recipe} for target {report.target}"
    body = f"arithmetic {report.profile}, inputs and outputs {report.io}\noperators: {nodes}"
    return f"{title}\n{'=' * len(title)}\n{body}"


def _sizes(report: Report) -> str:
    before, after = report.before, report.after
    rows = [
        (
            "file",
            f"{before.file_bytes:,}",
            f"{after.file_bytes:,}",
            percent(after.file_bytes, before.file_bytes),
        ),
        (
            "compressed (deflate)",
            f"{before.compressed_bytes:,}",
            f"{after.compressed_bytes:,}",
            percent(after.compressed_bytes, before.compressed_bytes),
        ),
    ]
    dtypes = dict.fromkeys([*before.constant_bytes, *after.constant_bytes])
    for dtype in dtypes:
        old, new = before.constant_bytes.get(dtype, 0), after.constant_bytes.get(dtype, 0)
        rows.append((f"{dtype} constants", f"{old:,}", f"{new:,}", ""))
    return section("Sizes in bytes", table(("", "before", "after", "left"), rows, right=(1, 2, 3)))


def _evaluations(report: Report) -> str:
    rows = [
        (name, e.metric, f"{e.value:.6g}", f"{e.standard_error:.2g}", e.count) for name, e in report.evaluations.items()
    ]
    if (change := report.difference) is not None:
        _, metric, *_, count = rows[-1]
        rows.append(("difference", metric, f"{change.value:+.6g}", f"{change.standard_error:.2g}", count))
    return section("Task", table(("model", "metric", "value", "± error", "n"), rows, (2, 3, 4))) if rows else ""


def _footprints(report: Report) -> str:
    return _lines("On the device", [f"{name}: {found}" for name, found in report.footprints.items()])


def footprint_line(report: Report) -> str:
    """Returns what the device takes in a line; nothing where no tool says so."""
    if not report.footprints:
        return ""
    *before, after = report.footprints.values()
    return f"{after}" + (f" (the float model's: {before[0].memory_bytes:,})" if before else "") + "."


def task_line(report: Report) -> str:
    """Returns what the models score in a line; nothing where that was not measured."""
    if not report.evaluations:
        return ""
    *before, after = report.evaluations.values()
    change = report.difference
    if change is None:
        said = " that keep the float model's class, of" if after.metric == AGREEMENT else ""
        return f"{after.metric} {after.value_text} (examples{said}: {after.count:,})."
    error = f" ± {change.standard_error:.2g}" if math.isfinite(change.standard_error) else ""
    return (
        f"{after.metric} {after.value_text}, of the float model {before[0].value_text}: {change.value:+.2g}{error} on "
        f"the same {after.count:,} examples."
    )


def _latency(report: Report) -> str:
    rows = [
        (row.name, f"{row.median_ms:.3f}", f"{row.low_ms:.3f}", f"{row.high_ms:.3f}", f"{row.ratio:.2f}")
        for row in report.latency
    ]
    headers = ("model", "median", "10 %", "90 %", "ratio")
    return section("Latency in ms", table(headers, rows, (1, 2, 3, 4))) if rows else ""


def times_text(times: OperatorTimes) -> str:
    """Returns how times of operators were measured, and what they leave."""
    rest = f"{times.rest_us:.0f} µs are no operator's" if times.rest_us >= 0 else "operators take longer alone"
    threads = f"{times.threads} thread{'s' if times.threads > 1 else ''}"
    return f"{times.whole_us:.0f} µs for a run, {threads}; {rest}; by {times.method}"


def time_rows(times: OperatorTimes) -> list[tuple[str, ...]]:
    """Returns cells under `TIME_HEADERS`, the slowest operator first."""
    return [
        (
            shortened(row.layer),
            row.op,
            "-" if row.time_us is None else f"{row.time_us:.1f}",
            "-" if row.share is None else f"{100 * row.share:.1f}",
            row.kernel or "-",
        )
        for row in times.worst_first
    ]


def _times(report: Report) -> str:
    if report.times is None:
        return ""
    rows = time_rows(report.times)
    said = f"\n… and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    body = table(TIME_HEADERS, rows[:_MOST_ROWS], (2, 3))
    return section("Time per operator", f"{times_text(report.times)}\n{body}{said}")


def _outputs(report: Report) -> str:
    rows = output_rows(report.outputs)
    return section("Outputs against the float model's", table(OUTPUT_HEADERS, rows, (1, 2, 3))) if rows else ""


def _node_notes(title: str, notes: Sequence[NodeNote]) -> str:
    return section(title, table(NOTE_HEADERS, grouped(notes), (0,))) if notes else ""


def grouped(notes: Sequence[NodeNote]) -> list[tuple[int, str, str, str]]:
    """Returns (count, operators, names, reason) of notes of one reason, in order; numbers in reasons may differ.

    >>> grouped([NodeNote("a", "ADD", "ADD: 2 µs"), NodeNote("b", "MUL", "MUL: x"), NodeNote("c", "ADD", "ADD: 4 µs")])
    [(2, 'ADD', 'a, c', '2 µs, and the like'), (1, 'MUL', 'b', 'x')]
    """
    found: dict[str, list[NodeNote]] = {}
    for note in notes:
        found.setdefault(_DETAIL.sub("·", _reason(note)), []).append(note)
    rows: list[tuple[int, str, str, str]] = []
    for same in found.values():
        ops = listed(list(dict.fromkeys(note.op for note in same)), _MOST_LISTED)
        names = listed([shortened(note.name, _LISTED_NAME) for note in same], _MOST_LISTED)
        reasons = list(dict.fromkeys(map(_reason, same)))
        rows.append((len(same), ops, names, reasons[0] + (", and the like" if len(reasons) > 1 else "")))
    return rows


def grouped_notes(notes: Iterable[str]) -> list[str]:
    """Returns one note of each kind, with the number of those that differ from it in names and numbers only.

    >>> grouped_notes(["ADD 'a': 3 µs", "note", "MUL 'b': 4 µs"])
    ["ADD 'a': 3 µs (and 1 more like it)", 'note']
    """
    found: dict[str, list[str]] = {}
    for note in notes:
        found.setdefault(_DETAIL.sub("·", note), []).append(_with_short_names(note))
    return [same[0] + (f" (and {len(same) - 1} more like it)" if len(same) > 1 else "") for same in found.values()]


def _with_short_names(text: str) -> str:
    return _QUOTED_NAME.sub(lambda found: f"'{shortened(found[1])}'", text)


def _reason(note: NodeNote) -> str:
    return _with_short_names(note.reason.removeprefix(f"{note.op}: "))


def output_rows(outputs: Sequence[OutputError]) -> list[tuple[str, ...]]:
    """Returns the errors of outputs as rows of a table under `OUTPUT_HEADERS`."""
    return [
        (shortened(e.name), str(e.examples), decibels(e.sqnr_db), decibels(e.median_db), worst_column(e))
        for e in outputs
    ]


def worst_column(error: OutputError) -> str:
    """Returns the lowest ratio of an output's columns and which it is, for a table.

    >>> worst_column(OutputError("y", 16, 40.0, 40.0, (38.5, 12.25)))
    '12.2 dB (1 of 0 to 1)'
    """
    index = error.worst_column
    if index is None:
        return "-"
    level = decibels(error.columns_db[index])
    return f"{level}{' dB' if level[-1].isdigit() else ''} ({index} of 0 to {len(error.columns_db) - 1})"


def _errors(report: Report) -> str:
    rows = [
        (
            shortened(e.name),
            e.kind,
            e.op,
            e.dtype,
            decibels(e.sqnr_db),
            percent(e.clipping_mse, e.mse),
            f"{e.max_abs_error:.4g}",
        )
        for e in report.errors[:_MOST_ROWS]
    ]
    headers = ("tensor", "kind", "operator", "dtype", "SQNR dB", "clipping", "largest")
    return section("Errors, worst first", table(headers, rows, (4, 5, 6))) if rows else ""


def _tensors(report: Report) -> str:
    rows = [(shortened(t.name), t.op or "-", t.dtype, list(t.shape), t.quantization) for t in report.tensors]
    headers = ("tensor", "written by", "dtype", "shape", "quantization")
    return section("Quantized tensors", table(headers, rows)) if rows else ""
