"""A page as plain text: what has rows is a table, and pictures are what they are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from featherweight.pages.content import (
    Bars,
    Card,
    Cell,
    Column,
    Distributions,
    Listing,
    Network,
    Page,
    Scatter,
    Section,
    Shares,
    Table,
)
from featherweight.pages.formats import decibels, shortened, tick

_MOST_ROWS = 40
# A share from this on is no part any more, but so many times the whole.
_MANY = 10.0
_UNDERLINED = "{title}\n{line}\n{body}"


def render(page: Page) -> str:
    """Returns a page as text, without a newline at the end."""
    head = [page.title, "=" * len(page.title), *([page.subtitle] if page.subtitle else [])]
    cards = [_card(card) for card in page.cards]
    environment = [f"{name} {version}" for name, version in page.environment.items()]
    sections = [_section(section.title, _body(section)) for section in page.sections]
    parts = ["\n".join(head), "\n".join(cards), *sections, _section("Environment", "\n".join(environment))]
    return "\n\n".join(part for part in parts if part)


def _card(card: Card) -> str:
    before, detail = f"{card.before} → " if card.before else "", f" ({card.detail})" if card.detail else ""
    return f"{card.label}: {before}{card.value}{detail}"


def shown(value: Cell, column: Column) -> str:
    """Returns a cell as people read it.

    >>> shown(0.25, Column("clipped", "share")), shown(None, Column("dB", "level")), shown(1200, Column("", "bytes"))
    ('25 %', '-', '1,200')
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, str):
        return shortened(value) if column.form == "name" else value
    match column.form:
        case "level":
            return decibels(value)
        case "bytes":
            return f"{value:,.0f}"
        case "fraction":
            return f"{value:.4f}"
        case "share":
            return f"{100 * value:.3g} %" if abs(value) < _MANY else f"{value:,.0f} ×"
        case _:
            return f"{value:.4g}" if isinstance(value, float) else str(value)


def aligned(headers: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()) -> str:
    """Returns rows in aligned columns under their headers; columns in `right` are aligned to the right.

    >>> print(aligned(("name", "bytes"), [("a", 5), ("bb", 10)], right=[1]))
    name  bytes
    a         5
    bb       10
    """
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    right = set(right)

    def line(row: Sequence[str]) -> str:
        parts = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(parts).rstrip()

    return "\n".join(map(line, cells))


def _section(title: str, body: str) -> str:
    return f"{title}\n{'-' * len(title)}\n{body}" if body else ""


def _body(section: Section) -> str:
    match section:
        case Table():
            section = section.told
            rows = [tuple(shown(v, c) for v, c in zip(row, section.columns, strict=True)) for row in section.rows]
            right = [i for i, column in enumerate(section.columns) if column.form not in ("text", "name")]
            return _cut([column.name for column in section.columns], rows, right)
        case Listing():
            return "\n".join(section.lines)
        case Scatter():
            found = [(p.name, p.group, tick(p.x), tick(p.y), "*" if p.is_marked else "") for p in section.points]
            return _cut(("", "", section.x_label, section.y_label, ""), found, (2, 3))
        case Network():
            worst = sorted(section.places, key=lambda place: place.total_db)
            found = [(shortened(p.name), decibels(p.total_db), decibels(p.own_db)) for p in worst]
            return _cut(("worst first", "dB", "alone"), found, (1, 2))
        case Shares():
            found = [
                (shortened(row.name), row.value, *(f"{100 * part:.0f} %" for part in row.parts)) for row in section.rows
            ]
            return _cut(("", "", *section.legend), found, range(1, 2 + len(section.legend)))
        case Distributions():
            found = [
                (
                    shortened(r.name),
                    tick(r.low),
                    tick(r.high),
                    *("-" if v is None else tick(v) for v in (r.range_low, r.range_high)),
                    f"{100 * r.clipped:.2g} %",
                )
                for r in section.rows
            ]
            return _cut(("tensor", "low", "high", "from", "to", "clipped"), found, range(1, 6))
        case Bars():
            return _cut(
                ("", "", ""), [(shortened(name), f"{value:.4f}", said) for name, value, said in section.rows], (1,)
            )


def _cut(headers: Sequence[str], rows: Sequence[Sequence[object]], right: Iterable[int]) -> str:
    if not rows:
        return ""
    more = len(rows) - _MOST_ROWS
    return aligned(headers, rows[:_MOST_ROWS], right) + (f"\n… and {more} more rows" if more > 0 else "")
