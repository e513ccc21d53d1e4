"""The content of the demo's page: what each recipe makes of one network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featherweight.demo.table import runtime_remark
from featherweight.pages import Card, Column, Listing, Page, Point, Scatter, Table
from featherweight.pages.formats import amount, percent
from featherweight.report.text import grouped_notes

if TYPE_CHECKING:
    from featherweight.demo.story import DemoResult, Row

_COLUMNS = (
    Column("model"),
    Column("accuracy", "fraction"),
    Column("vs float32", "fraction"),
    Column("± error", "fraction", "The standard error of the paired difference."),
    Column("bytes", "bytes"),
    Column("deflated", "bytes"),
    Column("latency ms", "number"),
    Column("of float32's", "number", "0.5 is twice as fast."),
)


def page(result: DemoResult) -> Page:
    """Returns the content of the page about a run of the demo."""
    first, *others = result.rows
    # Files within a point of the float model's accuracy come first, and of these the smallest.
    best = max(
        others, key=lambda row: (row.accuracy >= first.accuracy - 0.01, -row.file_bytes, row.accuracy), default=first
    )
    rows = tuple(
        (
            row.name,
            row.accuracy,
            None if row is first else row.accuracy_delta,
            None if row is first else row.accuracy_delta_error,
            row.file_bytes,
            row.compressed_bytes,
            row.latency_ms,
            None if row is first else row.latency_ratio,
        )
        for row in result.rows
    )
    points = tuple(
        Point(row.name, row.file_bytes / 1000, row.accuracy, row.accuracy_delta_error, "", row is best)
        for row in result.rows
    )
    picture = Scatter(
        "Accuracy and size",
        "file, kB",
        "accuracy",
        points,
        note="± is the standard error of the paired difference to float32.",
    )
    notes = grouped_notes(f"{row.name}: {note}" for row in result.rows for note in row.notes)
    listing = (Listing("Notes", tuple(notes)),) if notes else ()
    sections = (picture, Table("Models", _COLUMNS, rows), *listing)
    return Page(result.data, runtime_remark(result), _cards(first, best), sections, result.environment)


def _cards(first: Row, best: Row) -> tuple[Card, ...]:
    share = percent(best.file_bytes, first.file_bytes)
    packed = percent(best.compressed_bytes, first.compressed_bytes)
    return (
        Card("Smallest within a point", best.name, detail="of the float model's accuracy"),
        Card(
            "Accuracy",
            f"{best.accuracy:.4f}",
            f"{first.accuracy:.4f}",
            f"{best.accuracy_delta:+.4f} ± {best.accuracy_delta_error:.4f}",
        ),
        Card("File", amount(best.file_bytes), amount(first.file_bytes), f"{share} of it"),
        Card("Compressed", amount(best.compressed_bytes), amount(first.compressed_bytes), f"{packed} of it, deflated"),
        Card(
            "Latency", f"{best.latency_ms:.3g} ms", f"{first.latency_ms:.3g} ms", f"{best.latency_ratio:.2f} × the time"
        ),
    )
