"""The page about two models held against each other, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence

from featherweight.analysis.comparison import TensorError
from featherweight.graph import Model
from featherweight.pages import Card, Page
from featherweight.pages.formats import amount, decibels, percent
from featherweight.report.quantized_page import error_sections, error_table
from featherweight.report.summary import FileSize, environment


def compared_page(first: str, other: str, errors: Sequence[TensorError], before: Model, after: Model) -> Page:
    """Returns the content of the page about a comparison.

    Args:
        first: what the first model is called.
        other: what the second is.
        errors: worst first.
        before: the first model.
        after: the second.
    """
    sizes = [FileSize(model).file_bytes for model in (before, after)]
    cards = [Card("File", amount(sizes[1]), amount(sizes[0]), f"{percent(sizes[1], sizes[0])} of it")]
    for row in (row for row in errors if row.kind == "output"):
        level = decibels(row.sqnr_db)
        tone = "good" if row.sqnr_db >= 20 else "bad" if row.sqnr_db < 10 else ""
        cards.insert(
            0, Card(f"Output {row.name}", f"{level} dB" if level[-1].isdigit() else level, "", "signal to noise", tone)
        )
    sections = (*error_sections(errors, before), error_table(errors, before))
    said = f"{len(errors)} tensors of {other} against {first}."
    return Page(f"{other} against {first}", said, tuple(cards[:8]), sections, environment())
