"""A diagnosis as plain text, and as the content of a page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from featherweight.diagnosis.cause import Cause
from featherweight.errors import listed
from featherweight.pages import Card, Column, Listing, Page, Section, Table
from featherweight.report.diagnosis import Diagnosis, OwnErrorRow
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


def page(diagnosis: Diagnosis) -> Page:
    """Returns the content of the page about a diagnosis."""
    return Page(
        f"Diagnosis of {diagnosis.what}",
        f"{diagnosis.verdict} {_measured(diagnosis)}",
        tuple(_cards(diagnosis)),
        tuple(_sections(diagnosis)),
        diagnosis.environment,
    )


def _cards(diagnosis: Diagnosis) -> Iterable[Card]:
    worst = min(diagnosis.outputs, key=lambda each: each.level_db, default=None)
    if worst is not None:
        tone = "good" if diagnosis.is_healthy else "" if diagnosis.is_enough else "bad"
        level = decibels(worst.sqnr_db)
        detail = f"output '{worst.name}', {diagnosis.examples} examples"
        yield Card("Worst output, signal to noise", f"{level} dB" if level[-1].isdigit() else level, "", detail, tone)
    yield Card(
        "Causes", str(len(diagnosis.causes)), detail=diagnosis.causes[0].name if diagnosis.causes else "none found"
    )
    yield Card("All own errors together", f"{decibels(diagnosis.own_db)} dB")
    if diagnosis.simulated_db is not None:
        yield Card("Rounding alone, simulated", f"{decibels(diagnosis.simulated_db)} dB")


def _sections(diagnosis: Diagnosis) -> Iterable[Section]:
    if diagnosis.causes:
        columns = (
            Column("cause"),
            Column("what"),
            Column("layers"),
            Column("alone", "level", "The output's level if this cause alone were there."),
            Column("without", "level", "The output's level if this cause were not there."),
            Column("repair"),
        )
        rows = tuple(
            (cause.name, cause.statement, _layers(cause), cause.alone_db, cause.without_db, _repair(cause))
            for cause in diagnosis.causes
        )
        yield Table("Causes, worst first", columns, rows)
    columns = (
        Column("output", "name"),
        Column("dB", "level"),
        Column("by column", "level"),
        Column("worst column", "level"),
        Column("which", "number"),
    )
    rows = tuple(
        (each.name, each.sqnr_db, None, None, None)
        if each.worst_column is None
        else (each.name, each.sqnr_db, each.level_db, each.worst_column[1], each.worst_column[0])
        for each in diagnosis.outputs
    )
    if rows:
        yield Table("Outputs", columns, rows)
    if diagnosis.own_errors:
        columns = (
            Column("layer", "name"),
            Column("operator"),
            Column("dB", "level", "The output's level if this operator alone were quantized."),
            Column("weights", "level"),
            Column("activations", "level"),
            Column("at its output", "level"),
        )
        rows = tuple(
            (r.layer, r.op, r.level_db if r.is_carried else None, r.weights_db, r.activations_db, r.local_db)
            for r in diagnosis.own_errors
        )
        yield Table("Own errors, carried to the output, worst first", columns, rows)
    if diagnosis.notes:
        yield Listing("Notes", diagnosis.notes)
