"""The page about two models held against each other, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from featherweight.analysis.comparison import TensorError
from featherweight.graph import Model, io_names, producers
from featherweight.operators.layers import shown_names
from featherweight.pages import Card, Column, Network, Page, Place, Section, Share, Shares, Table
from featherweight.pages.formats import amount, decibels, percent
from featherweight.report.summary import FileSize, environment

LEVEL = "Σ signal² / Σ error² in dB: 20 dB is an error of a tenth, 40 dB of a hundredth."
ERROR_COLUMNS = (
    Column("name", "name", "After the user's layers, as far as names tell."),
    Column("kind"),
    Column("operator"),
    Column("stored as"),
    Column("dB", "level", LEVEL),
    Column("own", "level", "If this tensor alone were rounded."),
    Column("operator alone", "level", "If its operator alone were quantized, its weights included."),
    Column("inherited", "level", "With just the error that comes to its operator."),
    Column("worst channel", "level"),
    Column("clipping", "share", "Part of the squared error that is made at values outside of the range."),
    Column("largest", "number", "The largest error of one value."),
    Column("tensor", "name", "As the file calls it, where that is another name."),
)


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


def network_order(model: Model) -> dict[str, int]:
    """Returns tensor, or output's public name → position in the network."""
    graph = model.main
    order = {name: index for index, name in enumerate(producers(graph))}
    return order | {public: order.get(tensor, len(order)) for public, tensor in io_names(model)[1].items()}


def error_sections(errors: Sequence[TensorError], model: Model) -> Iterable[Section]:
    """Yields the pictures of errors, worst first: along the network of a model, and by what they come from."""
    order, names = network_order(model), shown_names(model.main)
    computed = [row for row in errors if row.kind != "weight"]
    if len(computed) < 2:
        return
    placed = sorted(computed, key=lambda row: order.get(row.name, len(order)))
    yield Network(
        "Error along the network",
        tuple(Place(_called(row, names), row.sqnr_db, row.operator_sqnr_db) for row in placed),
        "Signal to noise of each computed tensor, in the order of the network: where bars fall, error is made; where "
        "they stay low, it is handed on.",
    )
    rows = [
        Share(_called(row, names), f"{decibels(row.sqnr_db)} dB", parts)
        for row in computed
        if (parts := _parts(row)) is not None
    ]
    if rows:
        yield Shares(
            "Where errors come from, worst first",
            ("own rounding", "own clipping", "inherited"),
            tuple(rows),
            "Own: what the operator makes of exact inputs, its weights included. Inherited: what came to it.",
        )


def _parts(row: TensorError) -> tuple[float, float, float] | None:
    """Returns the parts of rounding, clipping and inheritance in a tensor's error, which add up to 1."""
    if not math.isfinite(row.sqnr_db) or row.operator_sqnr_db is None or row.inherited_sqnr_db is None:
        return None
    own, inherited = (10 ** (-level / 10) for level in (row.operator_sqnr_db, row.inherited_sqnr_db))
    if not 0 < own + inherited < math.inf:
        return None
    own, inherited = own / (own + inherited), inherited / (own + inherited)
    clipping = min(row.clipping_mse / row.mse, own) if row.mse > 0 else 0.0
    return own - clipping, clipping, inherited


def _called(row: TensorError, names: Mapping[str, str]) -> str:
    return row.name if row.kind == "output" else names.get(row.name, row.layer or row.name)


def _error_row(row: TensorError, names: Mapping[str, str]) -> tuple[str | float | None, ...]:
    levels = (row.sqnr_db, row.own_sqnr_db, row.operator_sqnr_db, row.inherited_sqnr_db, row.worst_channel_db)
    clipping = row.clipping_mse / row.mse if row.mse > 0 and math.isfinite(row.mse) else None
    called = _called(row, names)
    other = other_name(row.name, called)
    return (called, row.kind, row.op, row.dtype, *levels, clipping, row.max_abs_error, other)


def error_table(errors: Sequence[TensorError], model: Model) -> Table:
    """Returns all errors of a model as a table, in their order."""
    names = shown_names(model.main)
    return Table("Errors, worst first", ERROR_COLUMNS, tuple(_error_row(row, names) for row in errors))


def other_name(tensor: str, shown: str) -> str:
    """Returns what the file calls a tensor, where that is another name than the one that is shown."""
    return "" if tensor == shown else tensor
