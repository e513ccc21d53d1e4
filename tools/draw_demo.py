"""Draws the README's picture: `python tools/draw_demo.py demo-output/report.json docs/demo.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def draw(report: Path, picture: Path) -> None:
    """Writes a chart with a row for each model: file size, latency, and accuracy with its paired standard error."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = json.loads(report.read_text("utf-8"))
    rows = result["rows"][::-1]
    names = [row["name"] for row in rows]
    height = 0.6 + 0.3 * len(rows)
    figure, (size, latency, accuracy) = pyplot.subplots(1, 3, figsize=(8.4, height), sharey=True, layout="constrained")
    colours = ["0.6" if row is rows[-1] else "tab:blue" for row in rows]
    bars = size.barh(names, [row["file_bytes"] / 1000 for row in rows], color=colours)
    size.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    bars = latency.barh(names, [row["latency_ms"] for row in rows], color=colours)
    latency.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    latency.set_xscale("log")
    errors = [100 * (row["accuracy_delta_error"] or 0.0) for row in rows]
    accuracy.errorbar([100 * row["accuracy"] for row in rows], names, xerr=errors, fmt="o", capsize=3)
    accuracy.locator_params(axis="x", nbins=4)
    accuracy.axvline(100 * rows[-1]["accuracy"], color="0.8", linewidth=1, zorder=0)
    for axes, title in ((size, "file, kB"), (latency, "latency, ms (log)"), (accuracy, "accuracy, %")):
        axes.set_title(title, fontsize=9)
        axes.margins(x=0.25)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{result['data']} · on LiteRT, one thread", fontsize=9)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
