"""A diagnosis as plain text, and as one HTML page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

from featherweight.diagnosis.cause import Cause
from featherweight.errors import listed
from featherweight.report.diagnosis import Diagnosis, OwnErrorRow
from featherweight.report.html import document, level_bar, list_section, table_section
from featherweight.report.text import decibels, section, shortened, table

_WIDTH = 118
_MOST_LAYERS = 6
# Rows of the table of own errors in text; HTML and JSON have all.
_MOST_ROWS = 15
_OWN_HEADERS = ("layer", "operator", "dB", "weights", "activations", "at its output")
_OUTPUT_HEADERS = ("output", "SQNR dB", "by column", "worst column")


def text(diagnosis: Diagnosis, rows: int = _MOST_ROWS) -> str:
    """Returns a diagnosis as text, without a newline at the end; `rows` of own errors, 0 for all."""
    title = f"Diagnosis of {diagnosis.what}"
    head = [title, "=" * len(title), *textwrap.wrap(diagnosis.verdict, _WIDTH), _measured(diagnosis)]
    shown = diagnosis.own_errors[:rows] if rows else diagnosis.own_errors
    more = len(diagnosis.own_errors) - len(shown)
    own = table(_OWN_HEADERS, map(_own_cells, shown), (2, 3, 4, 5)) if shown else ""
    parts = [
        "\n".join(head),
        section("Causes, worst first", "\n\n".join(_cause(i, each) for i, each in enumerate(diagnosis.causes, 1))),
        section("Outputs", table(_OUTPUT_HEADERS, _output_cells(diagnosis), (1, 2, 3))),
        section("Own errors, carried to the output, worst first", own + (f"\n… and {more} more" if more else "")),
        section("Notes", "\n".join(diagnosis.notes)),
    ]
    return "\n\n".join(part for part in parts if part)


def _measured(diagnosis: Diagnosis) -> str:
    carried = sum(row.is_carried for row in diagnosis.own_errors)
    said = [f"Own errors of {carried} operators add up to {decibels(diagnosis.own_db)} dB"]
    if diagnosis.simulated_db is not None:
        said.append(f"rounding alone, simulated, {decibels(diagnosis.simulated_db)} dB")
    return f"Measured on {diagnosis.examples} examples. {'; '.join(said)}."


def _cause(number: int, cause: Cause) -> str:
    lines = [f"{number}. {cause.name}: {_sizes(cause)}"]
    lines += textwrap.wrap(cause.statement, _WIDTH - 3, initial_indent="   ", subsequent_indent="   ")
    if cause.layers:
        lines.append(f"   layers  {_layers(cause)}")
    return "\n".join([*lines, f"   repair  {_repair(cause)}"])


def _sizes(cause: Cause) -> str:
    said = f"alone, output '{cause.output}' would be {decibels(cause.alone_sqnr_db)} dB above its error"
    if cause.worst_column is not None and cause.worst_column[1] < cause.alone_sqnr_db - 3:
        said += f", column {cause.worst_column[0]} {decibels(cause.worst_column[1])} dB"
    return said + ("" if cause.without_db is None else f"; without it, the model {decibels(cause.without_db)} dB")


def _layers(cause: Cause) -> str:
    return listed([shortened(layer) for layer in cause.layers], _MOST_LAYERS)


def _repair(cause: Cause) -> str:
    improve = f" (--improve {','.join(cause.repairs)})" if cause.repairs else ""
    return f"{cause.remedy}{improve}"


def _own_cells(row: OwnErrorRow) -> tuple[str, ...]:
    levels = (row.level_db if row.is_carried else None, row.weights_db, row.activations_db, row.local_db)
    return (shortened(row.layer, 48), row.op, *map(decibels, levels))


def _output_cells(diagnosis: Diagnosis) -> list[tuple[str, ...]]:
    return [
        (
            shortened(each.name),
            decibels(each.sqnr_db),
            decibels(each.level_db) if each.worst_column is not None else "-",
            "-" if each.worst_column is None else f"{decibels(each.worst_column[1])} dB ({each.worst_column[0]})",
        )
        for each in diagnosis.outputs
    ]


def page(diagnosis: Diagnosis) -> str:
    """Returns a diagnosis as a whole HTML document."""
    causes = [
        (
            escape(cause.name),
            escape(cause.statement),
            escape(_layers(cause)),
            decibels(cause.alone_db),
            level_bar(cause.alone_db),
            decibels(cause.without_db),
            escape(_repair(cause)),
        )
        for cause in diagnosis.causes
    ]
    rows = [(row, level_bar(row.level_db) if row.is_carried else "") for row in diagnosis.own_errors]
    own = [(*map(escape, _own_cells(row)), bar) for row, bar in rows]
    outputs = [tuple(map(escape, row)) for row in _output_cells(diagnosis)]
    headers = ("cause", "what", "layers", "alone dB", "", "without dB", "repair")
    return document(
        f"Diagnosis of {diagnosis.what}",
        [
            f"<p>{escape(diagnosis.verdict)}</p>",
            f'<p class="muted">{escape(_measured(diagnosis))}</p>',
            table_section("Causes, worst first", headers, _wrapped(causes), (3, 5)),
            table_section("Outputs", _OUTPUT_HEADERS, outputs, (1, 2, 3)),
            table_section("Own errors, carried to the output, worst first", (*_OWN_HEADERS, ""), own, (2, 3, 4, 5)),
            list_section("Notes", diagnosis.notes),
            list_section("Environment", [f"{name} {version}" for name, version in diagnosis.environment.items()]),
        ],
    )


def _wrapped(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Lets the long cells of causes break their lines."""
    return [
        tuple(f'<div class="wide">{cell}</div>' if i in (1, 2, 6) else cell for i, cell in enumerate(row))
        for row in rows
    ]
