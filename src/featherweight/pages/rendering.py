"""A page as one HTML document that loads nothing: a template, its style, and a script for sorting and searching."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featherweight.pages import figures
from featherweight.pages.content import Cell, Column, Page, Share, Shares, Table
from featherweight.pages.formats import WIDEST_NAME, percent, shortened
from featherweight.pages.plain import shown

# So many rows of a table, and histograms, are shown: a page of the largest network stays small enough to send around.
MOST_ROWS, MOST_TILES, MOST_SHARES, MOST_TABLE_BYTES = 300, 48, 16, 160_000
# Fewer rows than this are always shown; and what the markup of a cell takes, about.
_LONG, _MARKUP_BYTES = 40, 26
_FOLDER = Path(__file__).parent / "template"
_FULL_DB = 50.0
_LEAST_SHOWN = 0.005


def render(page: Page) -> str:
    """Returns a page as a whole HTML document."""
    shown_sections = [section.told if isinstance(section, Table) else section for section in page.sections]
    anchors = _anchors([section.title for section in shown_sections])
    counts = row_counts([section for section in shown_sections if isinstance(section, Table)])
    most = {"rows": MOST_ROWS, "tiles": MOST_TILES, "shares": MOST_SHARES, "places": figures.MOST_PLACES}
    sections = list(zip(anchors, shown_sections, strict=True))
    return _template().render(page=page, sections=sections, most=most, counts=counts).strip() + "\n"


def row_counts(tables: Sequence[Table]) -> dict[str, int]:
    """Returns the title of each table → how many of its rows are shown: as many as there is room for."""
    long = [table for table in tables if len(table.rows) > _LONG]
    found: dict[str, int] = {}
    for table in tables:
        room, count = MOST_TABLE_BYTES / max(len(long), 1), 0
        for row in table.rows[:MOST_ROWS]:
            room -= sum(_MARKUP_BYTES + _size(cell, column) for cell, column in zip(row, table.columns, strict=True))
            if room < 0 and count >= _LONG:
                break
            count += 1
        found[table.title] = count
    return found


def _size(cell: Cell, column: Column) -> int:
    return len(_bytes(shown(cell, column))) + len(_bytes(_full_name(cell, column)))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # names of models may be no text


@functools.cache
def _template() -> Any:
    import jinja2
    from markupsafe import Markup

    environment: Any = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )

    def drawn(draw: Any) -> Any:
        return lambda value: Markup(draw(value))

    environment.filters.update(
        scatter=drawn(figures.scatter),
        network=drawn(figures.network),
        distribution=drawn(figures.distribution),
        shown=shown,
        percent=percent,
        has_line=figures.has_line,
        shortened=shortened,
        classes=_classes,
        full_name=_full_name,
        said=_said,
        level_width=_level_width,
        script=_script,
    )
    return environment.get_template("page.html")


def _script(name: str) -> Any:
    from markupsafe import Markup

    return Markup((_FOLDER / name).read_text("utf-8").strip())


def _anchors(titles: list[str]) -> list[str]:
    found: list[str] = []
    for index, title in enumerate(titles):
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        found.append(f"{name}-{index}" if name in found else name)
    return found


def _classes(column: Column) -> str:
    return {"text": "", "name": "w"}.get(column.form, "n")


def _said(row: Share, section: Shares) -> str:
    parts = zip(section.legend, row.parts, strict=True)
    return ", ".join(f"{name} {100 * part:.0f} %" for name, part in parts if part >= _LEAST_SHOWN)


def _full_name(value: Cell, column: Column) -> str:
    """Returns the name that a cell shows shortened; empty where it shows all of it."""
    return value if column.form == "name" and isinstance(value, str) and len(value) > WIDEST_NAME else ""


def _level_width(value: Cell) -> int | None:
    """Returns the width of a level's bar in per cent; None where there is no level."""
    if not isinstance(value, (int, float)) or math.isnan(value):
        return None
    return 100 if value == math.inf else round(100 * min(max(value, 0.0) / _FULL_DB, 1.0))
