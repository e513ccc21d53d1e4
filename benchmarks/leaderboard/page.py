"""The page: one look as all of the package's, as HTML, as Markdown, and the picture of one network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.leaderboard.cells import Cell
from benchmarks.leaderboard.record import Net, Way
from benchmarks.leaderboard.roster import OURS
from benchmarks.leaderboard.summary import FLOAT, LATENCY, Row, rows_of
from featherweight.pages import Card, Column, Listing, Page, Point, Scatter, Table
from featherweight.pages import figures as drawing

_LONGEST = 260
# Where in a graph a compiler found an error: of no use without the graph.
_PLACES = re.compile(r"(<unknown>:0: )?error: loc\(callsite\(.*?\)\)\): | <unknown>:0: note: .*")
_LEGEND_LEFT, _LEGEND_GAP, _LETTER = 70, 26, 6.9
_FORMS = ("int8", "w4a8", "dynamic")
_STYLE = """
svg { font-family: system-ui, "Segoe UI", Roboto, sans-serif; background: #ffffff; }
text { fill: #1b2430; } .tick { font-size: 12px; fill: #536072; } .axis, .label { font-size: 12.5px; }
.grid { stroke: #d5dce4; fill: none; } .front { fill: none; stroke: #4a5a6b; stroke-dasharray: 5 4; }
.ring { fill: none; stroke-width: 2.5; } .error { stroke-width: 1.5; }
"""
_COLOURS = ("#1f6aa5", "#c2611f", "#2b8a57", "#8246af", "#a8842c", "#4a5a6b", "#0f7f86", "#a33a6b")
_READING = (
    "One cell is one network, one tool with its settings, and one draw of calibration samples; every tool is given the "
    "same samples and is judged on the same examples. Tools run with their defaults, and with the best that their "
    "documentation names.",
    "dB: signal over error at the outputs against the float file, of the worst output, the mean over the draws.",
    "Points: accuracy (or, where there are no labels, agreement with the float network's class) minus the float "
    "network's, paired by example, ± its standard error; crops of one photograph, and draws, count as one.",
    "Seconds: processor time of one core to make the file, imports left out.",
    "Latency: median over interleaved rounds of the file's time over the float file's, one thread, on LiteRT; of NNCF "
    "in OpenVINO, against the float file there.",
    "Exact: integers of the output that differ between what the tool itself says its file computes (its simulation, "
    "the trained model, reference kernels) and what the file computes, on the first 100 test examples of each draw.",
)


def page_of(cells: Iterable[Cell], nets: Mapping[str, Net], ways: Mapping[str, Way]) -> Page:
    """Returns the page of all cells."""
    cells = list(cells)
    rows = rows_of(cells, nets, ways)
    measured = [row for row in rows if row.status == "measured"]
    seen = [net for net in nets.values() if any(row.net == net for row in measured)]
    sections: list[Table | Listing | Scatter] = [Listing("How to read this", _READING)]
    sections += [table for form in _FORMS if (table := _levels(form, measured, seen, ways)) is not None]
    for net in seen:
        of_net = [row for row in measured if row.net == net]
        sections += [_picture(net, of_net), _table(net, of_net)]
    sections += [_exact(measured), _absent(rows, seen), *_latency_note(cells)]
    dates = sorted(cell["date"] for cell in cells)
    count = sum(cell["status"] == "measured" and not cell["way"].startswith(LATENCY) for cell in cells)
    subtitle = (
        f"{count} cells, measured from {dates[0]} to {dates[-1]}; `make leaderboard` fills what is missing."
        if dates
        else "Nothing is measured yet: `make leaderboard`."
    )
    return Page(
        "Leaderboard: featherweight beside its peers",
        subtitle,
        tuple(_cards(measured, count)),
        tuple(section for section in sections if section is not None),
        _versions(cells),
    )


def _cards(rows: Sequence[Row], count: int) -> list[Card]:
    peers = {row.way.peer for row in rows} - {FLOAT, OURS}
    nets = {row.net.name for row in rows}
    cards = [
        Card("Networks", str(len(nets))),
        Card("Other tools that were measured", str(len(peers)), detail=", ".join(sorted(peers))),
        Card("Cells", str(count)),
    ]
    for who, chosen in ((OURS, [r for r in rows if r.way.peer == OURS]), ("others", _others(rows))):
        exact = [row.exact for row in chosen if row.exact and row.exact["what"] == "integers"]
        differing, of = sum(e["differing"] for e in exact), sum(e["of"] for e in exact)
        if of:
            said = f"of {of:,} output integers, simulation against file"
            tone = "good" if differing == 0 else "bad"
            cards.append(Card(f"Differing, {who}", f"{differing:,}", detail=said, tone=tone))
    return cards


def _others(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.way.peer not in (FLOAT, OURS)]


def _name(way: Way) -> str:
    return way.peer if way.settings == "defaults" else f"{way.peer}: {way.settings}"


def _levels(form: str, rows: Sequence[Row], nets: Sequence[Net], ways: Mapping[str, Way]) -> Table | None:
    """Returns decibels of all ways of a form by network."""
    table = {(row.way.name, row.net.name): row.sqnr_db for row in rows}
    chosen = [w for w in ways.values() if w.form == form and any((w.name, net.name) in table for net in nets)]
    if not chosen:
        return None
    columns = (Column("tool"), *(Column(net.title, "level", net.about) for net in nets))
    found = tuple((_name(way), *(table.get((way.name, net.name)) for net in nets)) for way in chosen)
    note = "dB of the worst output; nothing where a tool does not apply, failed, or was not measured yet (see below)."
    return Table(f"Signal over error, {form}", columns, found, note)


def _picture(net: Net, rows: Sequence[Row]) -> Scatter:
    points = tuple(
        Point(_label(row.way), (row.size_bytes or 0) / 1000, row.sqnr_db or 0.0, group=row.way.peer)
        for row in rows
        if row.way.name != FLOAT
    )
    return Scatter(net.title, "kB", "dB", points, note=f"Signal over error at the worst output by size. {net.about}.")


def _label(way: Way) -> str:
    settings = "" if way.settings.startswith("defaults") else way.settings.split(",")[0]
    return " ".join(part for part in (way.form, settings) if part)


def _table(net: Net, rows: Sequence[Row]) -> Table:
    """Returns everything of one network, the best first within a form."""
    order = {form: place for place, form in enumerate(("float32", *_FORMS))}
    chosen = sorted(rows, key=lambda row: (order[row.way.form], -(row.sqnr_db or 0.0)))
    what = "accuracy" if net.judged == "labels" else "agreement"
    columns = (
        Column("tool"),
        Column("form"),
        Column("dB", "level", "of the worst output"),
        *((Column(f"{what} − float, points", "text"), Column("agrees", "share")) if net.judged != "levels" else ()),
        Column("bytes", "bytes"),
        Column("making, s", "number", "processor time"),
        Column("latency / float", "number", "the same runtime, interleaved"),
        Column("exact", "text", "integers that differ between simulation and file"),
        Column("draws", "number"),
    )
    found = tuple(
        (
            _name(row.way),
            row.way.form,
            None if row.way.name == FLOAT else row.sqnr_db,
            *((_points(row), row.agrees) if net.judged != "levels" else ()),
            row.size_bytes,
            None if row.seconds is None else round(row.seconds, 2),
            row.ratio,
            _said_exact(row),
            row.draws,
        )
        for row in chosen
    )
    return Table(f"{net.title}, all figures", columns, found)


def _points(row: Row) -> str:
    if row.points is None or row.way.name == FLOAT:
        return ""
    return f"{row.points:+.2f} ± {row.points_error or 0.0:.2f}"


def _said_exact(row: Row) -> str:
    if row.exact is None:
        return ""
    return f"{row.exact['differing']:,} of {row.exact['of']:,} {row.exact['what']}"


def _exact(rows: Sequence[Row]) -> Table:
    columns = (
        Column("tool"),
        Column("form"),
        Column("network"),
        Column("differing", "number"),
        Column("of", "number"),
        Column("what"),
        Column("largest", "text", "steps of the output's grid, or relative to the largest value"),
    )
    found = tuple(
        (
            _name(row.way),
            row.way.form,
            row.net.title,
            row.exact["differing"],
            row.exact["of"],
            row.exact["what"],
            f"{row.exact['largest']} steps" if row.exact["what"] == "integers" else f"{row.exact['largest']:.1e}",
        )
        for row in rows
        if row.exact
    )
    note = (
        "The converter and ai-edge-quantizer offer no simulation: what the file computes is known once it is there."
        " NNCF's file runs as fake-quantized floats for its simulation, and as 8-bit integers for its file."
    )
    return Table("Is the simulation the file?", columns, found, note)


def _absent(rows: Sequence[Row], nets: Sequence[Net]) -> Table:
    """Returns why there is nothing, one row for each way and reason."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.status not in ("measured", "missing") and row.net in nets:
            said = _PLACES.sub("", row.reason)
            reason = said if len(said) <= _LONGEST else said[:_LONGEST].rstrip() + " …"
            reasons.setdefault((_name(row.way), row.way.form, reason), []).append(row.net.title)
    columns = (Column("tool"), Column("form"), Column("networks"), Column("reason"))
    found = tuple((tool, form, ", ".join(titles), reason) for (tool, form, reason), titles in reasons.items())
    return Table("What failed, and what does not apply", columns, found)


def _latency_note(cells: Sequence[Cell]) -> list[Listing]:
    timed = [cell for cell in cells if cell["way"].startswith(LATENCY) and cell["status"] == "measured"]
    if not timed:
        return [
            Listing("Latency", ("No latency was measured yet: `make leaderboard LEADERBOARD_ARGS='--only latency'`.",))
        ]
    busy = max(cell["busy"] for cell in timed)
    said = f"Other work took up to {busy:.0%} of all processors when latencies were measured"
    said += "; ratios of interleaved rounds stand that better than times." if busy > 0.05 else "."
    return [Listing("Latency", (said,))]


def _versions(cells: Sequence[Cell]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for cell in cells:
        for name, version in cell.get("versions", {}).items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(versions)) for name, versions in sorted(found.items())}


# ------------------------------------------------------------------------------------------- the page as Markdown


def markdown(page: Page) -> str:
    """Returns the page without its pictures as Markdown."""
    from featherweight.pages.plain import shown

    lines = [f"# {page.title}", "", "Written by `make leaderboard`, which also writes this page with pictures", ""]
    lines[2] += " (`benchmarks/results/leaderboard.html`)."
    lines += [page.subtitle, ""]
    lines += [f"- {card.label}: {card.value}" + (f" ({card.detail})" if card.detail else "") for card in page.cards]
    for section in page.sections:
        if isinstance(section, Scatter):
            continue
        lines += ["", f"## {section.title}", ""]
        lines += [section.note, ""] if section.note else []
        if isinstance(section, Listing):
            lines += [f"- {line}" for line in section.lines]
        elif isinstance(section, Table):
            lines.append("| " + " | ".join(column.name for column in section.columns) + " |")
            right = ["---" if column.form == "text" else "---:" for column in section.columns]
            lines.append("|" + "|".join(right) + "|")
            for row in section.rows:
                cells = [
                    "" if value is None else shown(value, column)
                    for value, column in zip(row, section.columns, strict=True)
                ]
                lines.append("| " + " | ".join(_escaped(cell) for cell in cells) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in page.environment.items())
    return "\n".join([*lines, "", "## Versions", "", versions]) + "\n"


def _escaped(cell: str) -> str:
    """Returns a table's cell: what tools said may hold anything."""
    return re.sub(r"([|<>*_`\[\]])", r"\\\1", cell)


# ------------------------------------------------------------------------------------------------- the picture alone


def picture(page: Page, title: str) -> str:
    """Returns the picture of a section as an SVG file that needs no page; with a legend.

    Raises:
        KeyError: if there is no such picture.
    """
    scatters = {section.title: section for section in page.sections if isinstance(section, Scatter)}
    section = scatters[title]
    groups = list(dict.fromkeys(point.group for point in section.points))
    rules = "".join(
        f".dot.g{i} {{ fill: {c}; }} .ring.g{i}, .error.g{i} {{ stroke: {c}; }} " for i, c in enumerate(_COLOURS)
    )
    svg = drawing.scatter(section)
    legend, at = "", _LEGEND_LEFT
    for index, group in enumerate(groups):
        legend += f'<circle class="dot g{index % len(_COLOURS)}" cx="{at}" cy="356" r="5"/>'
        legend += f'<text class="label" x="{at + 10}" y="360">{group}</text>'
        at += _LEGEND_GAP + round(_LETTER * len(group))
    body = re.sub(r"^<svg[^>]*>", "", svg).removesuffix("</svg>")
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 374" role="img">'
    return f"{head}<style>{_STYLE}{rules}</style>{body}{legend}</svg>\n"


def write(page: Page, html: Path, text: Path) -> None:
    """Writes the page as HTML and as Markdown, each whole or not at all."""
    for path, content in ((html, page.html()), (text, markdown(page))):
        partial = path.with_name(path.name + ".partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
