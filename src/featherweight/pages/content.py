"""What a page says, apart from how it looks: a title, cards, and sections, all of them plain records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal

VERSION = 1
"""The number in a page's JSON: it grows when a field changes its meaning or goes."""

Cell = str | int | float | None
Form = Literal["text", "name", "number", "bytes", "level", "fraction", "share"]
"""How a column shows its values.

`text`: as they are. `name`: shortened in the middle. `number`: four digits. `bytes`: whole, with commas. `level`: dB.
`fraction`: four decimals. `share`: 0..1, in per cent.
"""


@dataclass(frozen=True)
class Card:
    """One figure at the top of a page.

    Attributes:
        value: the figure with its unit.
        before: what it was before, empty where there is none.
        detail: what else is to be said, in a few words.
        tone: whether the figure is good or bad news.
    """

    label: str
    value: str
    before: str = ""
    detail: str = ""
    tone: Literal["", "good", "bad"] = ""


@dataclass(frozen=True)
class Column:
    """A column of a table; `help` explains it in a sentence."""

    name: str
    form: Form = "text"
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns, what matters most first: long tables are cut at the end when they are shown."""

    kind: ClassVar = "table"
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def told(self) -> Table:
        """The table without columns that are empty in every row: what people are shown."""
        kept = [
            i for i in range(len(self.columns)) if not self.rows or any(row[i] not in (None, "") for row in self.rows)
        ]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in kept), rows=rows)


@dataclass(frozen=True)
class Listing:
    """Paragraphs of plain text."""

    kind: ClassVar = "listing"
    title: str
    lines: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Point:
    """One thing in a picture of two quantities.

    Attributes:
        y_error: the standard error of y; 0 where there is none.
        group: points of one group have one colour.
        is_marked: it is what the page is about: the best, the knee.
    """

    name: str
    x: float
    y: float
    y_error: float = 0.0
    group: str = ""
    is_marked: bool = False


@dataclass(frozen=True)
class Scatter:
    """A picture of things by two quantities.

    Attributes:
        front: draw a line along the points that no other beats in both: ``min`` of x, and the best y.
        better: whether more or less of y is better.
        is_joined: draw a line through the points of each group, in their order.
    """

    kind: ClassVar = "scatter"
    title: str
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    better: Literal["more", "less"] = "more"
    has_front: bool = True
    is_joined: bool = False
    note: str = ""


@dataclass(frozen=True)
class Place:
    """One tensor along a network, with levels in dB, inf where it has no error.

    Attributes:
        total_db: of the error that it has.
        own_db: of the part that its operator makes; None where that is not known.
    """

    name: str
    total_db: float
    own_db: float | None = None


@dataclass(frozen=True)
class Network:
    """Errors along a network, in the order in which it computes."""

    kind: ClassVar = "network"
    title: str
    places: tuple[Place, ...]
    note: str = ""


@dataclass(frozen=True)
class Share:
    """One row of parts that make up a whole: fractions (0..1), of which the page has one legend."""

    name: str
    value: str
    parts: tuple[float, ...]


@dataclass(frozen=True)
class Shares:
    """Rows of stacked bars, the most important first."""

    kind: ClassVar = "shares"
    title: str
    legend: tuple[str, ...]
    rows: tuple[Share, ...]
    note: str = ""


@dataclass(frozen=True)
class Distribution:
    """How often a tensor's values occurred, and the range that its integers hold.

    Attributes:
        low, high: the smallest and largest value that was seen.
        range_low, range_high: what the integers hold; None where it stays float.
        start, width: of the first bin, and of each.
        counts: of the bins.
        clipped: fraction (0..1) of the counted values outside of the range.
    """

    name: str
    low: float
    high: float
    range_low: float | None
    range_high: float | None
    start: float
    width: float
    counts: tuple[int, ...]
    clipped: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Distributions:
    """Histograms, the most important first: many are cut when they are shown."""

    kind: ClassVar = "distributions"
    title: str
    rows: tuple[Distribution, ...]
    note: str = ""


@dataclass(frozen=True)
class Bars:
    """Named fractions (0..1), in order."""

    kind: ClassVar = "bars"
    title: str
    rows: tuple[tuple[str, float, str], ...]
    note: str = ""


Section = Table | Listing | Scatter | Network | Shares | Distributions | Bars


@dataclass(frozen=True)
class Page:
    """A report for people.

    Attributes:
        subtitle: a sentence under the title.
        cards: the figures that matter most.
        environment: what computed, by name; shown last.
    """

    title: str
    subtitle: str = ""
    cards: tuple[Card, ...] = ()
    sections: tuple[Section, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])

    def to_json(self) -> dict[str, Any]:
        """Returns the whole content as plain lists, dicts, strings, numbers and None (also for infinite numbers).

        >>> Page("a", sections=(Listing("b", ("c",)),)).to_json()["sections"]
        [{'kind': 'listing', 'title': 'b', 'lines': ['c'], 'note': ''}]
        """
        return {"schema": "featherweight.page", "version": VERSION, **_plain(self)}

    def html(self) -> str:
        """Returns the page as one HTML document that loads nothing."""
        from featherweight.pages.rendering import render

        return render(self)

    def text(self) -> str:
        """Returns the page as plain text, tables and lists only, without a newline at the end."""
        from featherweight.pages.plain import render

        return render(self)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        kind = {"kind": vars(type(value))["kind"]} if hasattr(value, "kind") else {}
        return kind | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
