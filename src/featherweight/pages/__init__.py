"""Pages for people: content as plain records, rendered as HTML that needs nothing else, as text, or as JSON."""

from __future__ import annotations

from featherweight.pages.content import (
    Bars,
    Card,
    Column,
    Distribution,
    Distributions,
    Listing,
    Network,
    Page,
    Place,
    Point,
    Scatter,
    Section,
    Share,
    Shares,
    Table,
)

__all__ = [
    "Bars",
    "Card",
    "Column",
    "Distribution",
    "Distributions",
    "Listing",
    "Network",
    "Page",
    "Place",
    "Point",
    "Scatter",
    "Section",
    "Share",
    "Shares",
    "Table",
]
