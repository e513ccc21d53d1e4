"""Draws the README's picture: `python tools/draw_demo.py demo-output/report.json docs/demo.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def draw(report: Path, picture: Path) -> None:
    """Writes a chart of accuracy over file size, one point for each model, labelled with its latency."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = json.loads(report.read_text("utf-8"))
    figure, axes = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
    first = result["rows"][0]
    for row in result["rows"]:
        kilobytes, accuracy = row["file_bytes"] / 1000, 100 * row["accuracy"]
        error = 100 * (row["accuracy_delta_error"] or 0.0)
        axes.errorbar(kilobytes, accuracy, yerr=error, fmt="o", markersize=8, capsize=3)
        label = row["name"] if row is first else f"{row['name']}\n{row['latency_ratio']:.2f}× latency"
        axes.annotate(label, (kilobytes, accuracy), xytext=(9, 5), textcoords="offset points", fontsize=9)
    axes.axhline(100 * first["accuracy"], color="0.8", linewidth=1, zorder=0)
    axes.set_xlim(0, 1.15 * first["file_bytes"] / 1000)
    axes.margins(y=0.35)
    axes.set_xlabel("file size, kB")
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"{result['data']} · on LiteRT", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
