"""A sparsity curve as text, JSON, a picture, or the content of a page."""

from __future__ import annotations

import io
import json
from typing import Any

from featherweight.errors import FeatherweightError, RecipeError
from featherweight.pages import Card, Column, Page, Point, Scatter, Table
from featherweight.pages.formats import amount
from featherweight.report.curve import Curve
from featherweight.report.summary import environment

_WIDTH = 110
_SUFFIXES = (".txt", ".json", ".html", ".svg", ".png")


def rendered(curve: Curve, suffix: str) -> bytes:
    """Returns a curve in the form of a suffix.

    Raises:
        RecipeError: for a suffix that names no form.
        FeatherweightError: if a picture is wanted and Matplotlib is not installed.
    """
    if suffix == ".txt":
        return f"{text(curve)}\n".encode()
    if suffix == ".json":
        return f"{json.dumps(curve.to_json(), indent=2)}\n".encode()
    if suffix == ".html":
        return page(curve).html().encode()
    if suffix in (".svg", ".png"):
        return picture(curve, suffix[1:])
    raise RecipeError(f"A curve can't be written as '{suffix}' (allowed: {', '.join(_SUFFIXES)}).")


def text(curve: Curve) -> str:
    """Returns the table as plain text."""
    console = _printed(curve)
    return "\n".join(line.rstrip() for line in console.export_text(clear=False).splitlines())


def _printed(curve: Curve) -> Any:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Sparsity against {curve.metric}, {curve.method}", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("pattern")
    for heading in ("sparsity", "of all weights", curve.metric, "vs dense", "kB", "zip kB", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    knees = {pattern: curve.knee(pattern) for pattern in curve.patterns}
    for point in curve.points:
        is_knee = point.pattern and knees[point.pattern] is point
        delta = f"{point.delta:+.4f} ± {point.delta_error:.4f}" if point.pattern else ""
        cells = (f"{100 * point.sparsity:g} %", f"{100 * point.reached:.1f} %", f"{point.value:.4f}", delta)
        sizes = (f"{point.file_bytes / 1000:.1f}", f"{point.compressed_bytes / 1000:.1f}")
        table.add_row(point.pattern or "dense", *cells, *sizes, "knee" if is_knee else "")
    console = Console(record=True, file=io.StringIO(), width=_WIDTH, legacy_windows=False)
    console.print(table)
    console.print(_knee_note(curve), highlight=False)
    return console


def picture(curve: Curve, form: str) -> bytes:
    """Returns the curves as a picture, ``svg`` or ``png``: the metric over the sparsity, knees marked.

    Raises:
        FeatherweightError: if Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FeatherweightError(
            f"Pictures need Matplotlib, which can't be imported: {error}. Install it with: pip install "
            "'featherweight[plots]', or write the curve as .txt or .json."
        ) from error
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for pattern in curve.patterns:
        points, knee = curve.of(pattern), curve.knee(pattern)
        x, y = [100 * point.sparsity for point in points], [point.value for point in points]
        drawn = axes.errorbar(x, y, [point.delta_error for point in points], marker="o", capsize=3, label=pattern)
        colour = drawn.lines[0].get_color()
        axes.plot(100 * knee.sparsity, knee.value, "o", markersize=13, fillstyle="none", color=colour)
    axes.axhline(curve.points[0].value, color="0.8", linewidth=1, zorder=0)
    axes.set_xlabel("zeros in each pruned kernel, %")
    axes.set_ylabel(curve.metric)
    axes.set_title(f"{curve.method}; circled: the knee (at most {curve.max_drop:g} lost)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    stream = io.BytesIO()
    # Without the date, the same curve gives the same bytes.
    figure.savefig(stream, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return stream.getvalue()


def page(curve: Curve) -> Page:
    """Returns the content of the page about a curve."""
    dense = curve.points[0]
    knees = {pattern: curve.knee(pattern) for pattern in curve.patterns}
    cards = [
        Card(
            f"Knee of {pattern}",
            f"{100 * knee.sparsity:g} % zeros",
            detail=f"{curve.metric} {knee.value:.4f} of {dense.value:.4f}, {amount(knee.compressed_bytes)} deflated",
        )
        for pattern, knee in knees.items()
    ]
    points = tuple(
        Point("", 100 * p.sparsity, p.value, p.delta_error, pattern, p is knees[pattern])
        for pattern in curve.patterns
        for p in curve.of(pattern)
    )
    picture = Scatter(
        f"{curve.metric} over sparsity",
        "zeros in each pruned kernel, %",
        curve.metric,
        points,
        has_front=False,
        is_joined=True,
        note=_knee_note(curve),
    )
    columns = (
        Column("pattern"),
        Column("sparsity", "share"),
        Column("of all weights", "share"),
        Column(curve.metric, "fraction"),
        Column("vs dense", "fraction"),
        Column("± error", "fraction"),
        Column("bytes", "bytes"),
        Column("deflated", "bytes"),
        Column("knee"),
    )
    rows = tuple(
        (
            p.pattern or "dense",
            p.sparsity,
            p.reached,
            p.value,
            p.delta if p.pattern else None,
            p.delta_error if p.pattern else None,
            p.file_bytes,
            p.compressed_bytes,
            "knee" if p.pattern and knees[p.pattern] is p else None,
        )
        for p in curve.points
    )
    title = f"Sparsity against {curve.metric}"
    return Page(
        title, f"Method: {curve.method}.", tuple(cards), (picture, Table("All points", columns, rows)), environment()
    )


def _knee_note(curve: Curve) -> str:
    return (
        f"Knee: the largest sparsity up to which {curve.metric} falls by {curve.max_drop:g} at most. ± is the standard "
        "error of the paired difference."
    )
